"""The texts of a capture: lines of a file, JSON lines, a JSON list, a prompt set, or a folder of texts."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from gpt2np.capture.prompt_set import SHIPPED, load_prompt_set
from gpt2np.errors import InputError, short
from gpt2np.files import decoded, read_bytes
from gpt2np.json_fields import parse_json
from gpt2np.text.prompt_lists import lines_of

MOST = 1 << 34  # bytes of a file of prompts: it is read into memory, as its tokens are
ENDING = ".txt"  # of the files in a folder
_NO_WINDOW = "a window cuts the texts of a folder, or a file of one text; these are prompts"


class Unread(str):
    """Stands among texts for one that cannot be read, as the empty text; `reason` begins "the prompt "."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        """Make one for this reason."""
        made = super().__new__(cls)
        made.reason = reason
        return made


class Texts(NamedTuple):
    """Texts in their order, and where each stands: `place` in its file or folder, `source` which that is.

    `whole`: they are texts of any length, which are to be cut into windows.
    """

    texts: list[str]
    place: Callable[[int], str]
    source: str = ""
    whole: bool = False

    def where(self, number: int) -> str:
        """Where a text stands, in full, for messages."""
        return self.source + self.place(number)


def read_texts(path: str, window: bool = False) -> Texts:
    """Read the texts that a name stands for: a file, a folder of `.txt` files, or a shipped prompt set.

    Files and folders whose names begin with a dot, such as those of editors, do not count.

    A `.jsonl` file has a text a line, as a string or as the `text` (or `prompt`) of an object; a `.json` file
    a list of these, or `{"prompts": [...]}`; any other file one a line as it is. With `window` a file that is
    not JSON is one text, to be cut.

    Raises:
        InputError: there is no such file, or it is malformed: names the line.
    """
    if not path:
        raise InputError("the name of the texts is empty")
    place = Path(path)
    if place.is_dir():
        return _of_folder(place)
    if path in SHIPPED and not place.exists():
        if window:
            raise InputError(f"{path}: {_NO_WINDOW}")
        texts = [prompt.text for prompt in load_prompt_set(path).prompts]
        return Texts(texts, _prompt, f"{path}: ")
    content = decoded(read_bytes(path, most=MOST, pipes=True), path).removeprefix("\ufeff")
    return texts_in(content, path, window)


def texts_in(content: str, path: str, window: bool = False) -> Texts:
    """Return the texts of a file's content, by the ending of its name.

    Raises:
        InputError: it is malformed: names the line.
    """
    ending = Path(path).suffix.lower()
    if window and ending not in (".json", ".jsonl"):
        return Texts([content], lambda i: path, whole=True)
    if window:
        raise InputError(f"{path}: {_NO_WINDOW}")
    if ending == ".json":
        listed = parse_json(content, path)
        listed = listed.get("prompts") if isinstance(listed, dict) else listed
        if not isinstance(listed, list):
            raise InputError(f'{path}: must hold a list of texts, or {{"prompts": [{{"text": "..."}}, ...]}}')
        texts = [_text(item, f"{path}: {_prompt(i)}") for i, item in enumerate(listed)]
        return Texts(texts, _prompt, f"{path}: ")
    lines = lines_of(content)
    if lines and not lines[-1]:
        lines.pop()  # behind the end of the last line
    if ending == ".jsonl":
        texts = [_of_line(line, path, i) for i, line in enumerate(lines, 1)]
        return Texts(texts, _line, f"{path}: ")
    return Texts(lines, _line, f"{path}: ")


def _line(number: int) -> str:
    """What to call a line, which people count from 1."""
    return f"line {number + 1}"


def _prompt(number: int) -> str:
    """What to call a prompt: those of a capture are numbered from 0."""
    return f"prompt {number}"


def _of_line(line: str, path: str, number: int) -> str:
    """The text of a JSON line; of a blank one, the empty text."""
    if not line.strip():
        return ""
    where = f"{path}: line {number}"
    try:
        item = json.loads(line)  # the quick way; what goes wrong is told in full by the other
    except (ValueError, RecursionError):
        item = parse_json(line, where)
    return _text(item, where)


def _text(item: Any, where: str) -> str:
    """A text that is given as such, or in an object."""
    text = item.get("text", item.get("prompt")) if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise InputError(f"{where} must be a text, or an object with a 'text', not {short(item)}")
    return text


def _of_folder(folder: Path) -> Texts:
    """The `.txt` files of a folder and of those in it, in the order of their names; no hidden ones.

    Links to files are followed, those to folders are not; a link that leads nowhere is a text unread.
    """
    found = sorted(path for path in folder.rglob(f"*{ENDING}") if path.is_file() or _leads_nowhere(path))
    names = [path.relative_to(folder) for path in found]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise InputError(f"{folder}: has no {ENDING} files{', but for hidden ones' if found else ''}")
    paths = [folder / name for name in names]
    texts = [_of_file(path) for path in paths]
    return Texts(texts, lambda i: names[i].as_posix(), f"{folder}{os.sep}", whole=True)


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _of_file(path: Path) -> str:
    """The text of a file in a folder."""
    if _leads_nowhere(path):
        return Unread("the prompt is a link to a file that is not there")
    return decoded(read_bytes(path, most=MOST), str(path)).removeprefix("\ufeff")
