"""The verb that lists every array that a trace can hold: sites."""

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from gpt2np.cli.arguments import add_model_name, config_of
from gpt2np.cli.parser import add_verb

if TYPE_CHECKING:
    from gpt2np.tracing.sites import Site


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "sites",
        sites,
        "sites",
        "sites attn",
    )
    verb.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="only those with this in their name, in any dialect"
    )
    add_model_name(verb)
    verb.add_argument("--markdown", action="store_true", help="as a table in Markdown")
    verb.add_argument("--json", action="store_true", help="print JSON, for programs")


def _chosen(config: Any, pattern: str | None) -> "list[Site]":
    """The sites that have a word in one of their names, or that a name or pattern means."""
    from gpt2np.tracing.site_patterns import sites_named

    table = list(config.architecture.sites)
    if pattern is None:
        return table
    word = pattern.casefold()
    names = {site.name: " ".join((site.name, *site.names_elsewhere())).casefold() for site in table}
    found = [site for site in table if word in names[site.name]]
    meant = [] if found else [site.name for _, site, _ in sites_named(config, pattern)]
    return found or [site for site in table if site.name in meant]


def sites(args: argparse.Namespace) -> int:
    """`gpt2np sites`."""
    from gpt2np.cli.report import markdown_table
    from gpt2np.tables import screen_width, strict_json

    table = _chosen(config_of(args), args.pattern)
    if args.markdown:
        print(markdown_table(table), end="")
        return 0
    rows: list[dict[str, Any]] = [
        {
            "name": site.full_name(None).replace("None", "i"),
            "axes": site.axis_names,
            "derived": site.derived,
            "doc": site.doc,
            "elsewhere": {dialect: names[0] for dialect, names in site.names.items()},
            "captures": list(site.captures),
        }
        for site in table
    ]
    if args.json:
        print(strict_json(rows))
        return 0
    for row in rows:
        print(f"{row['name']:<24}[{' '.join(row['axes'])}]" + ("  derived" if row["derived"] else ""))
        print(textwrap.fill(row["doc"], screen_width(), initial_indent="    ", subsequent_indent="    "))
        names = [f"{dialect} {name}".replace("{i}", "i") for dialect, name in row["elsewhere"].items()]
        names += [f"captures {', '.join(row['captures'])}"] if row["captures"] else []
        if names:
            also, width = "; ".join(names), screen_width()
            print(textwrap.fill(also, width, initial_indent="    = ", subsequent_indent="      "))
    return 0
