"""What a notebook shows for a trace: its text, its prediction and what was recorded, in less than 20 kB."""

from typing import TYPE_CHECKING

import numpy as np

from gpt2np.characters import readable
from gpt2np.errors import TraceError
from gpt2np.html_tables import caption, cut, escaped, heat_table, markup, plain_table
from gpt2np.tracing.plan import Entry

if TYPE_CHECKING:
    from gpt2np.tracing.trace import Trace

MOST_TOKENS = 40
HINT = (
    "<div><code>gpt2np.view(trace)</code> shows the whole run as a page; "
    '<code>trace["h.0.attn.pattern"]</code> or <code>trace["pattern", 0]</code> is an array</div>'
)


def summary(trace: "Trace") -> str:
    """The run in HTML: tokens, the likeliest next ones, and every kind of site with its shape."""
    return f"{caption(repr(trace).strip('<>'))}{_tokens(trace)}{_prediction(trace)}{_sites(trace)}{HINT}"


def _tokens(trace: "Trace") -> str:
    """Each token in a frame, with its position in a tooltip."""
    style = "border:1px solid #999;padding:1px 3px;margin:1px;white-space:pre"
    tokens = readable(trace.tokens)
    spans = [
        "…" if i is None else f'<span title="{i}" style="{style}">{escaped(tokens[i], 24)}</span>'
        for i in cut(len(tokens), MOST_TOKENS)
    ]
    return f'<div style="line-height:2">{" ".join(spans)}</div>'


def _prediction(trace: "Trace") -> str:
    """The likeliest next tokens, where they are known."""
    try:
        top = trace.top(5)
    except TraceError:
        return ""
    chances = np.array([[chance for _, _, chance in top]])
    names = [token for token, _, _ in top]
    return heat_table(chances, ["probability"], names, "Likeliest next tokens", most=1.0)


def _sites(trace: "Trace") -> str:
    """A row for each kind of site that was stored."""
    entries: dict[str, Entry] = {}
    for entry in trace.plan.entries:
        entries.setdefault(entry.site.name, entry)
    rows = [
        ["h.i." + name if entry.site.layered else name, entry.site.axes, str(list(entry.shape))]
        for name, entry in entries.items()
    ]
    derived = [site.name for site in trace.config.architecture.sites if site.derived]
    note = f"<div><small>computed when asked for: {markup(', '.join(derived))}</small></div>"
    return plain_table([["site", "axes", "shape"], *rows], "Recorded") + note
