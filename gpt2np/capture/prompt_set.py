"""Prompt sets: named lists of prompts, those in `prompt_sets/` or of somebody's own."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2np.errors import InputError, short
from gpt2np.files import read_text
from gpt2np.json_fields import parse_json
from gpt2np.text.prompt_lists import ENDINGS, prompt_rows

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

    def __repr__(self) -> str:
        return f"<PromptSet {self.name}: {len(self.prompts)} prompts>"


def load_prompt_set(name: str) -> PromptSet:
    """Return a shipped prompt set by its name, or your own from a file.

    The file is `.json`, `.jsonl` or `.txt`, and the set is called like it.
    A text file has one prompt a line. JSON is a list of texts or of `{"id": 1, "text": ..., "note": ...}`,
    which may leave out id and note; or `{"description": ..., "prompts": [...]}`. In JSON lines each line is
    one of those.

    Raises:
        InputError: there is no such set, or the file is malformed.
    """
    path = Path(name)
    if path.suffix in ENDINGS:
        if path.stem in SHIPPED and not path.exists():
            raise InputError(f"{name}: no such file; the set that comes with gpt2np is called {path.stem}")
    elif name in SHIPPED:
        path = Path(__file__).parent / "prompt_sets" / f"{name}.json"
    else:
        near = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f"the nearest is {short(near[0])}" if near else f"there are {', '.join(SHIPPED)}"
        own = "a file of your own ends in .json, .jsonl or .txt"
        raise InputError(f"no prompt set {short(name)}: {hint}; {own}")
    content = read_text(path)
    rows = prompt_rows(content, str(path))
    if not rows:
        raise InputError(f"{path}: holds no prompts: give one a line")
    prompts = tuple(_prompt(row, where) for where, row in rows)
    ids = [str(prompt.id) for prompt in prompts if prompt.id is not None]
    for i, prompt_id in enumerate(ids):
        if prompt_id in ids[:i]:
            raise InputError(f"{path}: the id {short(prompt_id)} appears twice")
    check_name(path.stem, f"{path}: the name of the set")
    return PromptSet(path.stem, prompts, _description(content, path))


def _description(content: str, path: Path) -> str:
    """What the object of a .json file says of its prompts; empty where it says nothing."""
    whole = parse_json(content, str(path)) if path.suffix == ".json" else None
    said = whole.get("description", "") if isinstance(whole, dict) else ""
    if not isinstance(said, str):
        raise InputError(f"{path}: the description must hold a text, not {short(said)}")
    return said


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    if not row.keys() <= {"id", "text", "note"}:
        raise InputError(f"{where} must have 'text', and may have an 'id' and a 'note': found {short(row)}")
    prompt = Prompt(row.get("id"), row["text"], row.get("note", ""))
    if not isinstance(prompt.note, str):
        raise InputError(f"{where}: the note must be a string: {short(row)}")
    if "id" in row:
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
