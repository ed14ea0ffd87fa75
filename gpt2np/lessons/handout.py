"""A lesson on paper: its texts and the functions to be written, in two columns, on two sheets."""

import ast
from collections.abc import Sequence

from gpt2np.lessons.code_colours import by_line
from gpt2np.lessons.page import Guess, answer_in, document
from gpt2np.lessons.percent_file import Cell
from gpt2np.lessons.prose import Prose
from gpt2np.lessons.shelf import Lesson
from gpt2np.viewer.page import Page

SHEETS = 2  # of A4 or letter, printed on one side
LARGEST, SMALLEST = 10.5, 7.5  # points; a lesson of more than 13,000 characters is too long
FITS = 7_700  # characters that two sheets hold in letters of 10 points; by the square of that for others
OF_STUB, OF_CODE = 420, 60  # characters whose room a function to be written takes, and a place in the file
ROOM = '<div class="room" aria-hidden="true"></div>\n'


def handout(lesson: Lesson, cells: Sequence[Cell]) -> Page:
    """Return the handout of a lesson: what is told and what is asked, without the code that shows it.

    Nothing is run. Letters are as large as two sheets allow.

    Raises:
        InputError: markdown-it-py is not installed.
    """
    prose, names = Prose(), {each.function for each in lesson.exercises}
    parts, length, guess = list[str](), 0, Guess.NONE
    for cell in cells:
        if cell.kind == "markdown":
            is_asked = guess is Guess.ASKED
            answer, rest, guess = answer_in(cell.source, guess)
            if answer and is_asked:  # the lesson has the answer; on paper it would stand below the question
                parts.append(f'<p class="there">your guess</p>\n{ROOM}')
                length += OF_STUB
            parts.append(f'<div class="prose">\n{prose.html(rest)}</div>\n')
            length += len(rest)
            continue
        stubs = _stubs(cell.source, names)
        if not stubs:
            what = "check" if "lessons.check(" in cell.source else "code"
            parts.append(f'<p class="there">{what}: line {cell.first_line}</p>\n')
            length += OF_CODE
        for stub in stubs:
            parts.append(f'<pre class="code"><code>{by_line(stub)}</code></pre>\n{ROOM}')
            length += len(stub) + OF_STUB
    size = min(LARGEST, max(SMALLEST, 10 * (FITS / max(1, length)) ** 0.5))
    whose = (
        f'<p class="whose"><span>gpt2np, lesson {lesson.number}: {lesson.minutes} minutes</span>'
        f"<span><code>gpt2np learn {lesson.number}</code></span><span>Name:</span></p>"
    )
    style = f"<style>:root {{ --size: {size:.2f}pt; }}</style>"
    return Page(document(lesson, f"{style}\n{whose}\n<main>\n{''.join(parts)}</main>", "handout"))


def _stubs(source: str, names: set[str]) -> list[str]:
    """The functions of a cell that a learner writes, without what they return as long as they are not."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return []
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name in names]
    return ["\n".join(_told(source, node)) for node in found]


def _told(source: str, node: ast.FunctionDef) -> list[str]:
    """The lines of a function up to the end of its docstring."""
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if is_text else first.lineno - 1
    return source.split("\n")[node.lineno - 1 : end]
