"""One self-contained HTML page that shows a run: the vector-level view of a real trace."""

from gpt2np.viewer.page import Page, view

__all__ = ["Page", "view"]
