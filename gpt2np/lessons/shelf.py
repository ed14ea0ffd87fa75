"""Which lessons there are: files, titles and exercises, read from the sources; nothing is run."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from gpt2np.errors import InputError, nearest, short
from gpt2np.files import read_text
from gpt2np.lessons.exercise_functions import ExerciseFunction, exercise_functions
from gpt2np.lessons.percent_file import Cell, cells_of
from gpt2np.lessons.scripts import parsed

FOLDER = Path(__file__).parent
NAME = re.compile(r"(\d+)_(\w+)\.py")


@dataclass(frozen=True)
class Lesson:
    """A lesson of the package: its number, its file, and what its first cell and its checks say."""

    number: int
    path: Path
    title: str
    minutes: int
    exercises: tuple[ExerciseFunction, ...]

    @property
    def file_name(self) -> str:
        """The name under which a learner has it: `3_attention.py`."""
        return self.path.name

    def solution(self, name: str | None = None) -> str:
        """Return the right functions, or the one that is called `name`, as source.

        Raises:
            InputError: there is no such function.
        """
        source = read_text(self.path.parent / "solutions" / self.path.name)
        if name is None:
            return source
        asked, known = name.rpartition(".")[2], list[str]()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                known.append(node.name)
                if node.name == asked:
                    return f"{ast.get_source_segment(source, node)}\n"
        raise InputError(f"lesson {self.number} has no function {short(name)}; it has {', '.join(known)}")


def lessons(folder: Path = FOLDER) -> list[Lesson]:
    """Return every lesson of a folder, in their order."""
    found = [(int(name[1]), path) for path in folder.glob("*.py") if (name := NAME.fullmatch(path.name))]
    return [_read(number, path) for number, path in sorted(found)]


def lesson_called(given: str, folder: Path = FOLDER) -> Lesson:
    """Return the lesson that a learner means: `3`, `attention`, `3_attention` and `3_attention.py` are one.

    Raises:
        InputError: there is no such lesson.
    """
    names: dict[str, Path] = {}
    for path in folder.glob("*.py"):
        if name := NAME.fullmatch(path.name):
            names |= dict.fromkeys((name[1], name[2], path.stem), path)
    asked = Path(given).name.removesuffix(".py").removesuffix(".ipynb").replace("-", "_").lower()
    if asked in names:
        path = names[asked]
        return _read(int(path.name.partition("_")[0]), path)
    near = nearest(asked, [name for name in names if not name.isdecimal()])
    hint = f"did you mean {near}?" if near else "`gpt2np learn` lists them"
    raise InputError(f"there is no lesson {short(given)}; {hint}")


def _read(number: int, path: Path) -> Lesson:
    source = read_text(path)
    first = head_of(cells_of(source))
    title = re.search(r"^# (?:\d+\. )?(.+)$", first, re.MULTILINE)
    minutes = re.search(r"^minutes: (\d+)", first, re.MULTILINE)
    exercises = exercise_functions(parsed(path))
    return Lesson(
        number,
        path,
        title[1].strip() if title else path.stem,
        int(minutes[1]) if minutes else 0,
        tuple(exercises),
    )


def head_of(cells: list[Cell]) -> str:
    """The first text of a lesson: its title, how long it takes, and its question."""
    return next((cell.source for cell in cells if cell.kind == "markdown"), "")
