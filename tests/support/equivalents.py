"""The tables of `gpt2np/docs/from_transformerlens.md`: what is written there, and what it gives."""

import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gpt2np

TEXT = "Elizabeth was not"
PAGE = Path(gpt2np.__file__).parent / "docs" / "from_transformerlens.md"
MODULES = ["attribution", "circuits", "interventions", "lens"]


class Row(NamedTuple):
    """One line: what one types in TransformerLens, and what one types here."""

    theirs: str
    ours: str


def rows() -> list[Row]:
    """All lines of the page's tables."""
    part = PAGE.read_text("utf-8").partition("<!-- equivalents -->")[2].partition("<!-- /equivalents -->")[0]
    return [Row(*found) for found in re.findall(r"^\| `(.+?)` \| `(.+?)` \|", part, re.MULTILINE)]


def our_names(model: Any) -> dict[str, Any]:
    """What stands for something in the second column."""
    modules = {name: importlib.import_module(f"gpt2np.analysis.{name}") for name in MODULES}
    return {"model": model, "trace": model.trace(TEXT), "text": TEXT, "np": np, **modules}


def plain(value: Any) -> Any:
    """A text, or an array without axes of size 1, whatever program it came from."""
    if isinstance(value, str):
        return value.removeprefix(TEXT)  # both kinds of `generate`: with the prompt, and without
    if isinstance(value, list) and value and isinstance(value[0], str):
        return value
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    return np.squeeze(np.asarray(value))
