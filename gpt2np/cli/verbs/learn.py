"""The verb of the lessons: lists and opens them, checks what a learner writes, and shows solutions."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt2np.cli.arguments import add_outputs, check_ending, group
from gpt2np.cli.parser import add_note, add_verb
from gpt2np.cli.terminal import doing, tell
from gpt2np.errors import InputError, nearest, short
from gpt2np.tables import strict_json, table, wrapped

WORDS = ("check", "solution")  # what `gpt2np learn` does beside opening a lesson


def register(verbs: Any) -> None:
    """Add this verb to the command line."""
    verb = add_verb(
        verbs,
        "learn",
        learn,
        "write the parts of GPT-2 yourself, in seven lessons: list them, open one, check what you wrote",
        "learn",
        "learn 3",
        "learn check 3_attention.py scores",
        "learn solution 3 scores --yes-i-have-tried",
    )
    add_note(
        verb,
        "`learn 3` writes 3_attention.py here, unless there is one, and opens the lesson as a page. --ipynb, "
        "--html and --handout write something else instead. `learn check` exits with 0 if all is right, 1 if "
        "something is not, 2 if the file cannot be run.",
    )
    lesson = group(verb, "lesson")
    lesson.add_argument("what", nargs="?", metavar="LESSON", help="its number or name, or check, or solution")
    lesson.add_argument("of", nargs="?", metavar="FILE", help="what to check; or the lesson of the solution")
    lesson.add_argument("name", nargs="?", metavar="NAME", help="one function only (default: all)")
    lesson.add_argument("--nearer", action="store_true", help="of check: the nearer hint")
    lesson.add_argument("--yes-i-have-tried", action="store_true", help="of solution: show it")
    group(verb, "model").add_argument(
        "--model", metavar="M", help="of check: another model than tiny, a folder or Hub id"
    )
    output = group(verb, "output")
    output.add_argument("--ipynb", action="store_true", help="write the lesson as a Jupyter notebook, here")
    output.add_argument("--html", metavar="FILE", help="write the page, and open no browser")
    output.add_argument("--handout", action="store_true", help="the page for paper: two sheets")
    output.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_outputs(verb, "html")


def learn(args: argparse.Namespace) -> int:
    """`gpt2np learn`."""
    _check_options(args)
    if args.what is None:
        return _list(args)
    if args.what == "check":
        return _check(args)
    return _solution(args) if args.what == "solution" else _open(args)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what does not belong together."""
    action = args.what if args.what in WORDS else "LESSON"
    if args.of is not None and action == "LESSON":
        meant = nearest(args.what, WORDS)
        told = f"did you mean {meant}?" if meant else "to check a file: gpt2np learn check FILE"
        raise InputError(f"learn {short(args.what)} takes nothing more; {told}")
    of_actions = {
        "check": {"--nearer": args.nearer, "--model": args.model},
        "solution": {"--yes-i-have-tried": args.yes_i_have_tried},
        "LESSON": {"--ipynb": args.ipynb, "--html": args.html, "--handout": args.handout},
    }
    for other, options in of_actions.items():
        given = [option for option, value in options.items() if value]
        if given and (other != action or args.what is None):
            raise InputError(f"{given[0]} belongs to: gpt2np learn {other}")


def _list(args: argparse.Namespace) -> int:
    """Every lesson, with its minutes and how far the file here is."""
    from gpt2np.lessons.learner_files import progress_in
    from gpt2np.lessons.shelf import lessons

    rows, told = [["", "lesson", "minutes", "in this folder"]], []
    for lesson in lessons():
        progress = progress_in(Path(), lesson)
        n, most = progress.n_written, len(progress.functions)
        here = progress.problem or (f"{n} of {most} functions written" if progress.begun else "not begun")
        rows.append([str(lesson.number), lesson.title, str(lesson.minutes), here])
        about = {"number": lesson.number, "file": lesson.file_name, "title": lesson.title}
        about |= {"minutes": lesson.minutes, "begun": progress.begun, "problem": progress.problem or None}
        told.append(about | {"exercises": [asdict(function) for function in progress.functions]})
    if args.json:
        print(strict_json(told))
        return 0
    print(table(rows, "><><", indent=0))
    print("\ngpt2np learn N opens one; gpt2np learn check FILE says whether what is written is right")
    return 0


def _open(args: argparse.Namespace) -> int:
    """Write a lesson's file, and open its page; or write what the options ask for."""
    from gpt2np.lessons.learner_files import write_notebook, write_script
    from gpt2np.lessons.prose import WITHOUT, can_render, check_can_render
    from gpt2np.lessons.shelf import lesson_called

    check_ending(args.html, ".html", ".htm")
    lesson = lesson_called(args.what)
    if args.html or args.handout:
        check_can_render()
    made: dict[str, Any] = {"lesson": lesson.number, "file": None, "page": None}
    if args.ipynb or not (args.html or args.handout):
        path, is_new = (write_notebook if args.ipynb else write_script)(Path(), lesson)
        tell(f"wrote {path}" if is_new else f"{path} is there already, and stays as it is")
        made["file"] = str(path)
    if not (args.html or args.handout or args.ipynb or can_render()):
        if not args.json:
            print(_first_step(lesson))
        tell(f"note: {WITHOUT}")
    elif args.html or not args.ipynb:
        made["page"] = _make_page(args, lesson)
    if args.json:
        print(strict_json(made))
    return 0


def _first_step(lesson: Any) -> str:
    """How a lesson begins, up to the end of its first step, for a terminal; then how to go on."""
    from gpt2np.files import read_text
    from gpt2np.lessons.percent_file import cells_of
    from gpt2np.lessons.prose import plain, until_step

    name, parts = lesson.file_name, list[str]()
    for cell in until_step(cells_of(read_text(lesson.path)), 2):
        is_text = cell.kind == "markdown"
        parts.append(plain(cell.source) if is_text else f"(code: line {cell.first_line} of {name})")
    then = f"Go on in {name}: `python {name}` runs it, `gpt2np learn check {name}` checks what you write."
    return wrapped("\n\n".join([*parts, then])) + "\n"


def _make_page(args: argparse.Namespace, lesson: Any) -> str:
    """Write the page or the handout of a lesson, and open it unless its name is given; returns its name."""
    import tempfile
    import webbrowser

    from gpt2np.files import read_text
    from gpt2np.lessons.handout import handout
    from gpt2np.lessons.page import lesson_page
    from gpt2np.lessons.percent_file import cells_of
    from gpt2np.lessons.running import run_cells
    from gpt2np.threads import keep_one

    keep_one()
    own = Path(lesson.file_name)
    if args.handout:
        page = handout(lesson, cells_of(read_text(lesson.path)))
    else:
        source = own if own.exists() else lesson.path
        doing(f"running {source.name}")
        page = lesson_page(lesson, run_cells(cells_of(read_text(source)), source))
    name = f"{own.stem}{'-handout' if args.handout else ''}.html"
    out = Path(args.html or Path(tempfile.mkdtemp(prefix="gpt2np-")) / name)
    page.save(out)
    tell(f"wrote {out}, {out.stat().st_size:,} bytes")
    if args.html is None and not webbrowser.open(out.resolve().as_uri()):
        tell("note: no browser could be started; open the file in one")
    return str(out)


def _check(args: argparse.Namespace) -> int:
    """Check the functions of a file; returns 1 if one of them is not right."""
    from gpt2np.lessons.checker import judge
    from gpt2np.lessons.exercise_functions import function_of
    from gpt2np.lessons.models import model_of_lessons
    from gpt2np.lessons.scripts import parsed
    from gpt2np.threads import keep_one

    keep_one()
    path = _file_to_check(args.of)
    tree = parsed(path)
    chosen = _chosen(tree, args.name, path)
    model = model_of_lessons(args.model or "tiny")
    verdicts = []
    for each in chosen:
        doing(f"checking {each.function}")
        with _prints_elsewhere(args.json):
            verdict = judge(each.name, function_of(tree, each.function, path), model, nearer=args.nearer)
        verdicts.append(verdict)
        if not args.json:
            print(verdict)
            if verdict.hint and not args.nearer:
                print("  (--nearer gives a nearer hint)")
    if args.json:
        print(strict_json([asdict(verdict) for verdict in verdicts]))
    return 0 if all(verdict.right for verdict in verdicts) else 1


def _file_to_check(given: str | None) -> Path:
    """The file that is meant: a lesson's number stands for its file here."""
    from gpt2np.lessons.shelf import lesson_called

    if given is None:
        raise InputError("say which file to check, as in: gpt2np learn check 3_attention.py")
    if given.endswith(".ipynb"):
        raise InputError(f"{given}: a notebook checks itself: run its cells with lessons.check")
    if not given.isdecimal():
        return Path(given)
    path = Path(lesson_called(given).file_name)
    if not path.exists():
        raise InputError(f"{path}: no such file; `gpt2np learn {given}` writes it here")
    return path


def _chosen(tree: Any, name: str | None, path: Path) -> list[Any]:
    """The functions of a file to check: all that it checks itself, or the one with this name.

    Raises:
        InputError: there is none.
    """
    from gpt2np.lessons.exercise_functions import functions_by_name
    from gpt2np.lessons.exercises import names

    found = functions_by_name(tree, names())
    if not found:
        raise InputError(f"{path}: has no function of an exercise; `gpt2np learn 3` writes a file with some")
    chosen = [each for each in found if name in (None, each.name, each.function)]
    if not chosen:
        listed = ", ".join(each.function for each in found)
        raise InputError(f"{path}: has no exercise {short(name)}; it has {listed}")
    return chosen


@contextlib.contextmanager
def _prints_elsewhere(elsewhere: bool) -> Iterator[None]:
    """While the block runs, what a learner's functions print goes to stderr, if stdout is for programs."""
    with contextlib.redirect_stdout(sys.stderr) if elsewhere else contextlib.nullcontext():
        yield


def _solution(args: argparse.Namespace) -> int:
    """The right functions of a lesson, for who has tried."""
    from gpt2np.lessons.shelf import lesson_called

    if args.of is None:
        raise InputError("say of which lesson, as in: gpt2np learn solution 3 --yes-i-have-tried")
    lesson = lesson_called(args.of)
    if not args.yes_i_have_tried:
        raise InputError(
            f"have you tried? `gpt2np learn check {lesson.file_name} --nearer` has a nearer hint; "
            f"`gpt2np learn solution {lesson.number} --yes-i-have-tried` shows the solution"
        )
    print(lesson.solution(args.name), end="")
    return 0
