"""The errors, one class for each kind: a message says what is wrong, where, and what to do."""

import operator
from collections.abc import Iterable
from typing import Any


def printable(text: str) -> str:
    r"""Return a text on one line, safe for a terminal: what is not printable becomes escapes, as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Gpt2npError(Exception):
    """Base class of the errors that gpt2np raises on purpose; their text is one line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(Gpt2npError, ValueError):
    """Raised when a `config.json` is malformed, or describes a model that cannot run here."""


class CheckpointError(Gpt2npError):
    """Raised when a checkpoint folder or weight file is missing, damaged, or does not fit its config."""


class TokenizerError(Gpt2npError, ValueError):
    """Raised when a vocabulary cannot be used, or does not cover a text or ids."""


class MissingExtraError(TokenizerError):
    """Raised when a vocabulary needs a package that is not installed, or a file made out of another."""


class HubError(Gpt2npError):
    """Raised when the Hub is unreachable, or has no such model, revision or file."""


class InputError(Gpt2npError, ValueError):
    """Raised when a prompt, an option or a number is not valid."""


class TraceError(Gpt2npError):
    """Raised when a trace file is damaged, or a trace lacks what was asked for."""


class VerificationError(TraceError):
    """Raised when an identity that holds inside every trace does not hold."""


class ComparisonError(Gpt2npError, AssertionError):
    """Raised when a comparison finds something wrong; its text is the report, of several lines."""

    def __str__(self) -> str:
        return "\n".join(printable(line) for line in Exception.__str__(self).split("\n"))


class UnknownSiteError(TraceError, KeyError):
    """Raised for a name that is no site of this model, in any dialect."""

    def __str__(self) -> str:  # KeyError would print the repr
        return printable(str(self.args[0]))


class UnknownWeightError(CheckpointError, KeyError):
    """A name that no weight of this model has."""

    def __str__(self) -> str:  # KeyError would print the repr
        return printable(str(self.args[0]))


def short(value: object) -> str:
    """Return a value as part of a message: on one line, and cut if it is long."""
    try:
        text = " ".join(repr(value).split())
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply to be shown"
    except ValueError:  # a number of more digits than Python prints
        text = f"{type(value).__name__} too long to be shown"
    return text if len(text) <= 100 else text[:97] + "..."


def reason(error: BaseException) -> str:
    """Return what another library's exception says: its first line, for a message, cut if it is long."""
    text = (getattr(error, "strerror", None) or str(error)).partition("\n")[0]
    return text[:200] or type(error).__name__


def nearest(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name that was probably meant, ignoring case; None if none is near.

    Example:
        >>> nearest("layer_3_q", ["layer_3_Q", "layer_3_K"])
        'layer_3_Q'
    """
    import difflib  # only after a mistake

    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.casefold(), name)
    close = difflib.get_close_matches(given[:200].casefold(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return a whole number, Python's or NumPy's, as an int; `high` is the largest, if there is one.

    Raises:
        InputError: it is something else, or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):  # torch raises the second for a tensor of several numbers
        number = None
    if number is None or number < low or (high is not None and number > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name}={short(value)}: must be a whole number {allowed}")
    return number
