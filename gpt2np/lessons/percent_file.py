"""The cells of a percent file: a plain script in which `# %%` begins a cell, and `# %% [markdown]` a text."""

import re
from dataclasses import dataclass
from typing import Literal

MARK = re.compile(r"# ?%%(?!%)(?P<words>.*)")
TEXT = re.compile(r"\[(markdown|md)\]")


@dataclass(frozen=True)
class Cell:
    """A part of a lesson: a text in Markdown, or code; `line` is where in the file it begins, from 1."""

    kind: Literal["markdown", "code"]
    source: str
    line: int

    @property
    def first_line(self) -> int:
        """The number of its first line that is not empty."""
        return self.line + len(self.source) - len(self.source.lstrip("\n"))


def cells_of(text: str) -> list[Cell]:
    """Return the cells of a percent file, as Jupytext reads them: lines of texts without their `# `.

    Code in front of the first mark is a cell of its own; one without a line is left out.

    Example:
        >>> cells_of("# %% [markdown]\\n# # A title\\n# %%\\nx = 1\\n")
        [Cell(kind='markdown', source='# A title', line=2), Cell(kind='code', source='x = 1', line=4)]
    """
    cells: list[Cell] = []
    kind: Literal["markdown", "code"] = "code"
    begin, lines = 1, list[str]()
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), "# %%"], 1):
        mark = MARK.fullmatch(line)
        if mark is None:
            lines.append(line)
            continue
        shown = [re.sub(r"^# ?", "", each) for each in lines] if kind == "markdown" else lines
        if source := "\n".join(shown).rstrip():
            cells.append(Cell(kind, source, begin))
        kind = "markdown" if TEXT.search(mark["words"]) else "code"
        begin, lines = number + 1, []
    return cells
