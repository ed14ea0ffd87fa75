"""One self-contained HTML page that shows a run: the vector-level view of a real trace."""

from gpt2np.viewer.page import Page, view
from gpt2np.viewer.posters.page import poster

__all__ = ["Page", "poster", "view"]
