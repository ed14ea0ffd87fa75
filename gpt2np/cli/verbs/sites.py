"""The verb that lists every array that a trace can hold: sites."""

import argparse
import textwrap
from typing import Any

from gpt2np.cli.arguments import add_model_name, config_of
from gpt2np.cli.parser import add_verb


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs, "sites", sites, "every array that a trace can hold, and what it tells you", "sites"
    )
    add_model_name(verb)
    verb.add_argument("--markdown", action="store_true", help="as a table in Markdown")
    verb.add_argument("--json", action="store_true", help="print JSON, for programs")


def sites(args: argparse.Namespace) -> int:
    """`gpt2np sites`."""
    from gpt2np.capture.capture_files import PLACES
    from gpt2np.cli.report import markdown_table
    from gpt2np.tables import screen_width, strict_json

    table = config_of(args).architecture.sites
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
            "captures": list(PLACES.get(site.name, ())),
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
