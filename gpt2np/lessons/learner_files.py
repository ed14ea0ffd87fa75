"""A learner's own files: written once and never over; how far a learner is stands in them alone."""

from dataclasses import dataclass
from pathlib import Path

from gpt2np.errors import InputError
from gpt2np.files import read_text
from gpt2np.lessons.exercise_functions import ExerciseFunction, exercise_functions
from gpt2np.lessons.notebook import notebook_of
from gpt2np.lessons.percent_file import cells_of
from gpt2np.lessons.scripts import parsed
from gpt2np.lessons.shelf import Lesson
from gpt2np.outputs import target_of, whole_file


@dataclass(frozen=True)
class Progress:
    """How far a learner is: whether there is a file, its functions, and `problem` if it cannot be read."""

    begun: bool
    functions: tuple[ExerciseFunction, ...]
    problem: str = ""

    @property
    def n_written(self) -> int:
        """How many functions are more than stubs; whether they are right, a check says."""
        return sum(function.written for function in self.functions)


def progress_in(folder: Path, lesson: Lesson) -> Progress:
    """Return how far the file of a lesson in a folder is; nothing of it is run."""
    path = folder / lesson.file_name
    if not path.exists():
        return Progress(False, lesson.exercises)
    try:
        written = {each.name for each in exercise_functions(parsed(path)) if each.written}
    except InputError as error:
        return Progress(True, lesson.exercises, str(error))
    functions = [ExerciseFunction(e.name, e.function, e.name in written) for e in lesson.exercises]
    return Progress(True, tuple(functions))


def write_script(folder: Path, lesson: Lesson) -> tuple[Path, bool]:
    """Write a lesson's file into a folder, unless there is one; returns its path, and whether it is new.

    Raises:
        InputError: it cannot be written.
    """
    path = folder / lesson.file_name
    return path, _write(path, read_text(lesson.path))


def write_notebook(folder: Path, lesson: Lesson) -> tuple[Path, bool]:
    """The same for the lesson as a Jupyter notebook.

    Raises:
        InputError: it cannot be written.
    """
    path = (folder / lesson.file_name).with_suffix(".ipynb")
    return path, _write(path, notebook_of(cells_of(read_text(lesson.path))))


def _write(path: Path, text: str) -> bool:
    """Write a file, unless there is one; returns whether it did."""
    if target_of(path).exists():
        return False
    with whole_file(path) as file:
        file.write(text)
    return True
