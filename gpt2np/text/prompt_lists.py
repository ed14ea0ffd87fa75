"""A file of many prompts: one a line, JSON lines (`.jsonl`), or a JSON list (`.json`).

Whatever takes many prompts from a file reads them here.
"""

from pathlib import Path
from typing import Any

from gpt2np.errors import InputError, short
from gpt2np.json_fields import parse_json

ENDINGS = (".txt", ".jsonl", ".json")  # of such a file; any other is read like the first
Row = tuple[str, dict[str, Any]]  # where a prompt stands, for messages; its text and what else is said of it


def prompt_rows(content: str, path: str) -> list[Row]:
    """The prompts of a file with this content: `text` and whatever else its JSON says of each.

    A JSON list, or the list `prompts` of an object, holds texts, or objects with a `text` (or `prompt`); in
    JSON lines each line is one of these. In any other file every line that is not blank is a text.

    Raises:
        InputError: it is not JSON where the name says so, or holds something else; names the prompt.
    """
    content, suffix = content.removeprefix("\ufeff"), Path(path).suffix.lower()
    if suffix == ".jsonl":
        lines = [(f"line {i}", line) for i, line in enumerate(lines_of(content), 1) if line.strip()]
        return [_row(parse_json(line, f"{path}: {at}"), f"{path}: {at}") for at, line in lines]
    if suffix == ".json":
        listed = parse_json(content, path)
        listed = listed.get("prompts") if isinstance(listed, dict) else listed
        if not isinstance(listed, list) or not listed:
            raise InputError(f'{path}: must hold a list of texts, or {{"prompts": [{{"text": "..."}}, ...]}}')
        return [_row(item, f"{path}: prompt {i}") for i, item in enumerate(listed, 1)]
    rows = enumerate(lines_of(content), 1)
    return [(f"{path}: line {i}", {"text": line}) for i, line in rows if line.strip()]


def prompt_texts(content: str, path: str) -> list[tuple[str, str]]:
    """Where each prompt stands, and its text; blank lines are texts as well.

    Raises:
        InputError: as `prompt_rows`.
    """
    if Path(path).suffix.lower() in (".json", ".jsonl"):
        return [(where, row["text"]) for where, row in prompt_rows(content, path)]
    return [(f"{path}: line {i}", line) for i, line in enumerate(lines_of(content), 1)]


def lines_of(content: str) -> list[str]:
    r"""The lines of a text as they are: they end in \n or \r\n and in nothing else; a mark is dropped."""
    return [line.removesuffix("\r") for line in content.removeprefix("\ufeff").split("\n")]


def _row(item: Any, where: str) -> Row:
    row = {"text": item} if isinstance(item, str) else item
    if not isinstance(row, dict):
        raise InputError(f"{where} must be a text, or an object with a 'text', not {short(item)}")
    if "text" not in row and "prompt" in row:
        row = {"text": row["prompt"]} | {key: value for key, value in row.items() if key != "prompt"}
    if not isinstance(row.get("text"), str) or not row["text"]:
        raise InputError(f"{where} must have a 'text' (or 'prompt') that is not empty: found {short(item)}")
    return where, row
