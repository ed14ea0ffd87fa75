"""What a check says: right or not, where it is wrong, how far, which mistake it is, and a question."""

import re
from dataclasses import dataclass

from gpt2np.html_tables import markup
from gpt2np.lessons.time_limit import TooLongError
from gpt2np.tables import wrapped

_SIGNS = {"right": "✓", "todo": "…", "suspicious": "?"}  # any other: ✗
_COLOURS = {"right": "#176f2c", "todo": "#555", "suspicious": "#8a5a00"}  # any other: red
_SAYS = {
    "todo": "not written yet. Put your own lines in the place of `return lessons.todo`.",
    "raised": "your function stopped with an error.",
    "stopped": f"your function was stopped: {TooLongError()}.",
    "shape": "the result does not have the right form.",
    "wrong": "wrong.",
    "suspicious": "right here, but not always.",
    "right": "right.",
}
_UNKNOWN = "No mistake that is known here gives this."
_ENDED = "Not all known mistakes were tried."
_LARGE = 1e4
_NAMES = ("embed", "logits")  # steps that look like words


@dataclass(frozen=True)
class Verdict:
    """The result of `lessons.check`; `str()` says it in plain words, and a notebook shows the same.

    `state` is `todo` (the stub as it was), `raised` (an exception), `stopped` (it took too long), `shape`,
    `wrong`, `suspicious` (right for this text, but not for every one) or `right`. `where` has the axes and
    indexes of what is most wrong, both shapes, or the line and the message of an exception; never a true
    value. `ratio` is the largest error as a multiple of what float32 explains. `mistake` is the slug of a
    known mistake, None where none explains the result; `ended` says that the search ended before all known
    mistakes were tried. `hint` is a question; the second check with the same mistake has a nearer one.
    `so_far` is how much of a result that is not finished is right.
    """

    exercise: str
    state: str
    where: str = ""
    ratio: float = 0.0
    mistake: str | None = None
    hint: str = ""
    ended: bool = False
    so_far: str = ""

    @property
    def right(self) -> bool:
        """Whether the exercise is solved."""
        return self.state == "right"

    def lines(self) -> list[str]:
        """What is said after the name: one sentence each."""
        said = [f"so far right ({self.so_far})." if self.so_far else _SAYS[self.state]]
        if self.where:
            said.append(_begun(self.where) + ("" if self.where.endswith("?") else "."))
        if self.state == "wrong" and self.ratio > 1:
            said.append(self._far())
        if self.state == "wrong" and self.mistake is None:
            said.append(_ENDED if self.ended else _UNKNOWN)
        if self.hint:
            said.append(self.hint)
        return said

    def _far(self) -> str:
        """How large the error is, in words."""
        if self.ratio >= _LARGE:
            return "This is far more than rounding."
        ratio = f"{self.ratio:.2g}" if self.ratio < 10 else f"{self.ratio:.0f}"
        return f"The error is {ratio} times what rounding explains."

    def __str__(self) -> str:
        first, *others = self.lines()
        return "\n".join([f"{self._sign} {self.exercise}: {first}", *(_indented(line) for line in others)])

    def __repr__(self) -> str:
        return str(self)

    @property
    def _sign(self) -> str:
        return _SIGNS["todo"] if self.so_far else _SIGNS.get(self.state, "✗")

    def _repr_html_(self) -> str:
        """The same, announced to those who listen to a page."""
        first, *others = self.lines()
        colour = _COLOURS["todo"] if self.so_far else _COLOURS.get(self.state, "#a31515")
        rest = "".join(f"<div>{_with_code(line)}</div>" for line in others)
        return (
            f'<div role="status" aria-live="polite" class="verdict {self.state}" '
            f'style="border-left:4px solid {colour};padding:2px 10px">'
            f"<div><b>{self._sign} {markup(self.exercise)}</b>: {_with_code(first)}</div>{rest}</div>"
        )


def _begun(text: str) -> str:
    """A sentence with a capital, unless it begins with a name such as n_embd, h.0.attn.q or logits."""
    word = text.split(maxsplit=1)[0].rstrip(":,")
    return text if "_" in word or "." in word or word in _NAMES else text[0].upper() + text[1:]


def _with_code(line: str) -> str:
    """A sentence for HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", markup(line))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in wrapped(text).splitlines())
