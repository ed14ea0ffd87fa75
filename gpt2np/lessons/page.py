"""The page of a lesson: texts, code and what it shows, in one HTML file that needs nothing else."""

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from enum import Enum
from importlib import resources

from gpt2np.html_tables import markup
from gpt2np.lessons.code_colours import by_line
from gpt2np.lessons.exercise_functions import ExerciseFunction
from gpt2np.lessons.prose import Heading, Prose
from gpt2np.lessons.running import Output, RunCell
from gpt2np.lessons.shelf import Lesson
from gpt2np.viewer.page import Page, bundle
from gpt2np.viewer.page import static as viewer_static

PICTURES = ("drawing", "small_pictures")  # modules of the viewer that draw bars and maps
SECTION = re.compile(r"^## .*$", re.MULTILINE)
BREAK_IT = "## Break it"  # the part in which the reader guesses before the answer is shown
CLAIM = re.compile(r"^ *assert ", re.MULTILINE)  # what is asserted tells the answer, too
NARROW = 42  # characters of code that a phone shows; longer lines can be scrolled to, with the keyboard too
SCRIPT = re.compile(r"<script(?![^>]*octet-stream)[^>]*>(.*?)</script>", re.DOTALL)
FRAME = re.compile(r'srcdoc="([^"]*)"')
IN_FRAME = "The page of the run, in a frame: it scrolls by itself, and everything in it can be chosen."


class Guess(Enum):
    """Whether the reader is to guess before anything is shown, and whether the text has answered that yet."""

    NONE, ASKED, ANSWERED = range(3)


def lesson_page(lesson: Lesson, cells: Sequence[RunCell], file_name: str | None = None) -> Page:
    """Return the page of a lesson that has been run; `file_name` is the learner's file, as commands name it.

    Raises:
        InputError: markdown-it-py is not installed.
    """
    prose, name = Prose(), file_name or lesson.file_name
    parts, guess = list[str](), Guess.NONE
    for cell in cells:
        part, guess = _part(cell, lesson, name, prose, guess)
        parts.append(part)
    body = (
        '<a class="skip" href="#lesson">Skip to the lesson</a>\n'
        f'<div class="lesson">\n{_contents(lesson, prose.headings)}\n'
        f'<main id="lesson">\n{"".join(parts)}{_farewell(lesson, name)}</main>\n</div>'
    )
    return Page(document(lesson, body, "page"))


def document(lesson: Lesson, body: str, kind: str) -> str:
    """The whole file: nothing may be loaded from elsewhere, and no script runs but those in it."""
    if "data-picture" in body:
        body += f"\n<script>\n{bundle(PICTURES)}\n</script>\n"
    digests = " ".join(f"'{digest}'" for digest in _digests(body)) or "'none'"
    slots = {
        "policy": f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'",
        "title": markup(f"{lesson.number}. {lesson.title} · gpt2np"),
        "style": viewer_static("base.css") + _static("lesson.css"),
        "kind": kind,
        "body": body,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], _static("lesson.html"))


def _part(run: RunCell, lesson: Lesson, file_name: str, prose: Prose, guess: Guess) -> tuple[str, Guess]:
    """One cell, and what is to be guessed after it."""
    if run.cell.kind == "code":
        code = _code(run, lesson, file_name, guess is Guess.ASKED)
        return _closed("Show what was tried next", code) if guess is Guess.ANSWERED else code, guess
    answer, rest, guess = answer_in(run.cell.source, guess)
    text = _closed("Show what it means", prose.html(answer)) if answer else ""
    return f'<div class="prose">\n{text}{prose.html(rest)}</div>\n', guess


def answer_in(text: str, guess: Guess) -> tuple[str, str, Guess]:
    """What of a text answers what is to be guessed, the rest, and what is to be guessed after it."""
    answer = "" if guess is Guess.NONE else SECTION.split(text)[0]
    if heads := SECTION.findall(text):
        guess = Guess.ASKED if heads[-1] == BREAK_IT else Guess.NONE
    elif answer:
        guess = Guess.ANSWERED
    return answer.strip(), text[len(answer) :], guess


def _closed(what: str, shown: str) -> str:
    """Something that is shown when the reader asks for it."""
    return f'<details class="pause"><summary>{what}</summary>\n{shown}</details>\n'


def _code(run: RunCell, lesson: Lesson, file_name: str, guessing: bool) -> str:
    """A cell of code, and what it shows; closed from the first claim on, as long as the reader guesses."""
    cell = run.cell
    asked = [each for each in lesson.exercises if re.search(rf"^def {each.function}\(", cell.source, re.M)]
    checked = [
        each for each in lesson.exercises if f'"{each.name}"' in cell.source and "check(" in cell.source
    ]
    label = f"your turn: <strong>{markup(asked[0].function)}</strong>" if asked else "code"
    source, line, shown = cell.source.strip("\n"), cell.first_line, "".join(map(_shown, run.outputs))
    if guessing:
        claim = CLAIM.search(source)
        source, claims = (
            (source[: claim.start()].rstrip(), source[claim.start() :]) if claim else (source, "")
        )
        shown = _closed("Show what happens", (_pre(claims) if claims else "") + shown)
    return (
        f'<div class="cell{" exercise" if asked else ""}" role="group" aria-label="Code, line {line}">\n'
        f"<header><span>{label}</span><span>line {line}</span></header>\n"
        f"{_pre(source)}{shown}{_how_to_check(checked, file_name)}</div>\n"
    )


def _pre(source: str) -> str:
    return f'<pre class="code"{_reachable(source, "code")}><code>{by_line(source)}</code></pre>\n'


def _shown(output: Output) -> str:
    """A part of what a cell shows."""
    if output.kind == "html" and "<iframe" in output.content:
        return f'<div class="output html"><p class="note">{IN_FRAME}</p>{output.content}</div>\n'
    if output.kind == "html":
        return f'<div class="output html"{_reachable("", "result")}>{output.content}</div>\n'
    text = output.content.rstrip("\n")
    pre = f"<pre{_reachable(text, 'output')}><code>{markup(text)}</code></pre>"
    kind = "error" if output.kind == "error" else "printed"
    return f'<div class="output {kind}">{pre}</div>\n'


def _reachable(text: str, what: str) -> str:
    """What lets the keyboard scroll a part that a narrow screen does not show whole."""
    if text and max(map(len, text.split("\n"))) <= NARROW:
        return ""
    return f' tabindex="0" role="group" aria-label="{what}"'


def _how_to_check(checked: Sequence[ExerciseFunction], file_name: str) -> str:
    """The commands that check the functions of a cell."""
    commands = [f"<code>gpt2np learn check {markup(file_name)} {each.function}</code>" for each in checked]
    return f'<p class="how-to-check">In a terminal: {", ".join(commands)}</p>\n' if commands else ""


def _contents(lesson: Lesson, headings: Sequence[Heading]) -> str:
    """Links to the parts of a lesson."""
    links = [
        f'<li><a href="#{heading.anchor}">{markup(heading.text)}</a></li>'
        for heading in headings
        if heading.level == 2
    ]
    return (
        f'<nav class="contents" aria-label="In this lesson"><p>Lesson {lesson.number}, '
        f"{lesson.minutes} minutes</p><ol>{''.join(links)}</ol></nav>"
    )


def _farewell(lesson: Lesson, file_name: str) -> str:
    """How to go on: at the end of a page."""
    return (
        f'<p class="note">Your file is <code>{markup(file_name)}</code>. Write in it with any editor; '
        f"<code>gpt2np learn check {markup(file_name)}</code> checks all of it, and <code>gpt2np learn "
        f"{lesson.number}</code> makes this page again, with what your functions give.</p>\n"
    )


def _digests(body: str) -> list[str]:
    """What names each script of a page, and of the frames in it, to a policy that allows no others."""
    documents = [body, *(html.unescape(frame) for frame in FRAME.findall(body))]
    scripts = [script for text in documents for script in SCRIPT.findall(text)]
    digests = [hashlib.sha256(script.encode("utf-8")).digest() for script in scripts]
    return list(dict.fromkeys(f"sha256-{base64.b64encode(d).decode('ascii')}" for d in digests))


def _static(name: str) -> str:
    """One of the package's files for the page."""
    return resources.files("gpt2np.lessons").joinpath("static", name).read_text("utf-8")
