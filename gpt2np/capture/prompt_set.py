"""Prompt sets: named lists of prompts, those in `prompt_sets/` or of somebody's own."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2np.errors import InputError, short
from gpt2np.json_fields import read_own_json

SHIPPED = ("single_trait", "multi_trait", "dynamic", "adversarial", "baseline", "real_world")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # what may become the name of a file or folder


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set, and what it is for.

    Without an id it gets the one that an experiment has for its text, or else the next number.
    """

    id: int | str | None
    text: str
    note: str = ""


@dataclass(frozen=True)
class PromptSet:
    """Prompts that are captured together, into a folder of this name."""

    name: str
    prompts: tuple[Prompt, ...]
    description: str = ""


def load_prompt_set(name: str) -> PromptSet:
    """A shipped prompt set by its name, or one of your own: a file that ends in `.json`, named like the set.

    Such a file holds `{"description": ..., "prompts": [{"id": 1, "text": ..., "note": ...}, ...]}`; it may
    leave out description and notes.

    Raises:
        InputError: there is no such set, or the file is malformed.
    """
    if name.endswith(".json"):
        path = Path(name)
        if path.stem in SHIPPED and not path.exists():
            raise InputError(f"{name}: no such file; the set that comes with gpt2np is called {path.stem}")
    elif name in SHIPPED:
        path = Path(__file__).parent / "prompt_sets" / f"{name}.json"
    else:
        near = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f"the nearest is {short(near[0])}" if near else f"there are {', '.join(SHIPPED)}"
        raise InputError(f"no prompt set {short(name)}: {hint}; a file of your own ends in .json")
    content = read_own_json(path)
    rows = content.get("prompts") if isinstance(content, dict) else None
    description = content.get("description", "") if isinstance(content, dict) else ""
    if not isinstance(rows, list) or not rows or not isinstance(description, str):
        raise InputError(f'{path}: must hold {{"prompts": [{{"id": 1, "text": "..."}}, ...]}}')
    prompts = tuple(_prompt(row, f"{path}: prompt {i}") for i, row in enumerate(rows, 1))
    ids = [str(prompt.id) for prompt in prompts]
    for i, prompt_id in enumerate(ids):
        if prompt_id in ids[:i]:
            raise InputError(f"{path}: the id {short(prompt_id)} appears twice")
    check_name(path.stem, f"{path}: the name of the set")
    return PromptSet(path.stem, prompts, description)


def _prompt(row: Any, where: str) -> Prompt:
    if not isinstance(row, dict) or not {"id", "text"} <= row.keys() <= {"id", "text", "note"}:
        raise InputError(f"{where} must have 'id' and 'text', and may have a 'note': found {short(row)}")
    prompt = Prompt(**row)
    if not isinstance(prompt.text, str) or not prompt.text or not isinstance(prompt.note, str):
        raise InputError(f"{where}: text and note must be strings, and the text not empty: {short(row)}")
    if type(prompt.id) not in (int, str):
        raise InputError(f"{where}: the id must be a number or a string, not {short(prompt.id)}")
    check_name(str(prompt.id), f"{where}: the id")
    return prompt


def check_name(name: str, what: str) -> None:
    """Refuse what cannot safely be the name of a file.

    Raises:
        InputError: it has anything but letters, digits, `.`, `_`, `-`, or begins with one of the last three.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{what} {short(name)} must consist of letters, digits, '.', '_', '-' (it names files)"
        )
