"""What a notebook shows at the end of a cell for a trace: the page in small."""

import html

from gpt2np.errors import Gpt2npError
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.page import Page, rendered


def compact_html(trace: Trace) -> str:
    """What a notebook shows for a trace: map and attention in a frame, or one line where that cannot be."""
    try:
        return Page(rendered(trace, trace, compact=True), 620)._repr_html_()
    except Gpt2npError:
        return f"<pre>{html.escape(repr(trace))}</pre>"
