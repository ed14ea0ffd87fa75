"""`gpt2np learn`: the list, a lesson's file, the check of one, and solutions."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.command_line import run

from gpt2np.checkpoints.checkpoint import shipped_folder
from gpt2np.errors import InputError
from gpt2np.lessons import prose, time_limit
from gpt2np.lessons.exercise_functions import exercise_functions, function_of
from gpt2np.lessons.learner_files import progress_in
from gpt2np.lessons.scripts import parsed
from gpt2np.lessons.shelf import FOLDER, lesson_called, lessons

SAMPLE = (Path(__file__).parent / "sample_lesson.py").read_text("utf-8")
STUB = "    return lessons.todo\n"
RIGHT = """\
    products = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    return np.where(np.tri(len(q), dtype=bool), products, -np.inf)
"""
UNSCALED = RIGHT.replace(" / np.sqrt(q.shape[-1])", "")
NAMES = [lesson.path.stem for lesson in lessons()]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, and no browser."""
    opened = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    return opened


def sample(body=STUB, before="", after="", name="3_attention.py"):
    """A learner's file of the sample lesson, whose function has another body."""
    start, end = SAMPLE.split(STUB)
    Path(name).write_text(before + start + body + end + after, "utf-8")
    return name


# -- which lessons there are --------------------------------------------------------------------------------


def test_every_lesson_says_what_the_list_needs():
    found = lessons()
    assert [lesson.number for lesson in found] == sorted({lesson.number for lesson in found})
    for lesson in found:
        assert lesson.title
        assert lesson.title != lesson.path.stem
        assert not lesson.title[0].isdigit()
        assert 10 <= lesson.minutes <= 120
        solved = exercise_names(lesson.solution())
        assert {each.function for each in lesson.exercises} <= solved
        assert not any(each.written for each in lesson.exercises)


def exercise_names(source):
    return set(re.findall(r"^def (\w+)\(", source, re.MULTILINE))


@pytest.mark.parametrize(
    "given",
    ["3", "attention", "3_attention", "3_attention.py", "3-attention", "Attention", "x/3_attention.py"],
)
def test_a_lesson_has_several_names(given):
    assert lesson_called(given).file_name == "3_attention.py"


@pytest.mark.parametrize(
    ("given", "hint"),
    [("9", "`gpt2np learn` lists them"), ("atention", "did you mean attention?"), ("", "lists them")],
)
def test_a_lesson_that_is_none(capsys, given, hint):
    code, out, err = run(capsys, "learn", given)
    assert (code, out) == (2, "")
    assert hint in err
    assert list(Path().iterdir()) == []


def test_the_list(capsys):
    code, out, err = run(capsys, "learn")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["lesson", "minutes", "in", "this", "folder"]
    for line, lesson in zip(lines[1:], lessons(), strict=False):
        assert line.split()[0] == str(lesson.number)
        assert lesson.title in line
        assert line.endswith(f"{lesson.minutes}  not begun")
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("body", "said", "written"),
    [
        (STUB, "0 of 4 functions written", False),
        (RIGHT, "1 of 4 functions written", True),
        (UNSCALED, "1 of 4 functions written", True),  # whether it is right, a check says
        ("    if len(q):\n        return lessons.todo\n", "0 of 4 functions written", False),
        ("    return (\n", "3_attention.py, line ", None),
    ],
)
def test_the_list_says_how_far_the_file_here_is(capsys, body, said, written):
    sample(body)
    code, out, _ = run(capsys, "learn")
    assert code == 0
    assert said in out
    code, out, _ = run(capsys, "learn", "--json")
    told = next(each for each in json.loads(out) if each["number"] == 3)
    assert told["begun"]
    assert (told["problem"] is not None) == (written is None)
    found = {each["name"]: each["written"] for each in told["exercises"]}
    assert found["attention.scores"] == bool(written)


LIGHT = """
import sys
from gpt2np.cli import main
assert main(["learn"]) == 0
print([name for name in sys.modules if name in ("gpt2np.model", "gpt2np.lessons.checker", "markdown_it")])
"""


def test_the_list_needs_no_model():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# -- a lesson's files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_is_written_once_and_never_over(capsys, name, here, monkeypatch):
    monkeypatch.setattr(prose, "can_render", lambda: False)
    path, number = Path(f"{name}.py"), name.split("_")[0]
    assert run(capsys, "learn", number)[0] == 0
    assert path.read_text("utf-8") == (FOLDER / path.name).read_text("utf-8")
    path.write_text("mine = 1\n")
    code, _, err = run(capsys, "learn", number, "--force")
    assert code == 0
    assert f"{path} is there already, and stays as it is" in err
    assert path.read_text("utf-8") == "mine = 1\n"
    assert [each.name for each in Path().iterdir()] == [path.name]


@pytest.mark.parametrize("name", NAMES)
def test_without_the_extra_it_prints_the_first_step_and_how_to_get_the_page(capsys, name, monkeypatch, here):
    monkeypatch.setattr(prose, "can_render", lambda: False)
    code, out, err = run(capsys, "learn", name.split("_")[0])
    assert code == 0
    lesson = lesson_called(name)
    assert out.startswith(f"{lesson.number}. {lesson.title}\n")
    assert f"gpt2np learn check {lesson.file_name}" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert [line for line in err.splitlines() if "gpt2np[learn]" in line] == [
        "gpt2np: note: the page of a lesson needs markdown-it-py: pip install 'gpt2np[learn]'"
    ]
    assert here == []


@pytest.mark.parametrize("option", [["--html", "x.html"], ["--handout"]])
def test_without_the_extra_a_page_that_is_asked_for_is_refused(capsys, monkeypatch, option):
    monkeypatch.setattr(prose, "can_render", lambda: False)
    code, out, err = run(capsys, "learn", "3", *option)
    assert (code, out) == (2, "")
    assert err == "gpt2np: the page of a lesson needs markdown-it-py: pip install 'gpt2np[learn]'\n"
    assert list(Path().iterdir()) == []


def test_the_notebook_is_written_once_and_never_over(capsys):
    code, out, _ = run(capsys, "learn", "3", "--ipynb", "--json")
    assert code == 0
    assert json.loads(out) == {"lesson": 3, "file": "3_attention.ipynb", "page": None}
    assert json.loads(Path("3_attention.ipynb").read_text("utf-8"))["nbformat"] == 4
    Path("3_attention.ipynb").write_text("mine")
    code, _, err = run(capsys, "learn", "3", "--ipynb")
    assert code == 0
    assert "stays as it is" in err
    assert Path("3_attention.ipynb").read_text() == "mine"
    assert len(list(Path().iterdir())) == 1


def test_a_folder_with_the_name_is_no_lesson(capsys):
    Path("3_attention.py").mkdir()
    code, _, err = run(capsys, "learn", "3")
    assert code == 2
    assert err.count("\n") == 1
    assert "3_attention.py" in err


# -- the check ----------------------------------------------------------------------------------------------

RIGHT32 = RIGHT.replace("q, k)", "np.float32(q), np.float32(k))")
HELPED = "    return masked(np.einsum('qhd,khd->hqk', q, k) / ROOT)\n"
HELPER = "def masked(x):\n    return np.where(np.tri(x.shape[1], dtype=bool), x, -np.inf)\n"
SPREAD = "import math\nROOT = math.sqrt(SIZE)\n"
IN_AN_IF = f"if True:\n{textwrap.indent('def scores(q, k):' + chr(10) + RIGHT, '    ')}"
MINUS = "    minus = -np.inf\n" + RIGHT.replace("-np.inf", "minus")

CHECKED = [
    ("right", {"body": RIGHT}, 0, "✓ attention.scores: right."),
    ("in float32", {"body": RIGHT32}, 0, "right."),
    ("a stub", {}, 1, "not written yet"),
    ("unscaled", {"body": UNSCALED}, 1, "✗ attention.scores: wrong."),
    ("an exception", {"body": "    return q + no_such\n"}, 1, "NameError"),
    ("helpers below it", {"body": HELPED, "after": HELPER + "SIZE = 48\n" + SPREAD}, 0, "right."),
    ("a story that fails", {"body": RIGHT, "before": "minus = 1 / 0\n1 / 0\nother = no_such\n"}, 0, "right."),
    ("a story with the name of a local", {"body": MINUS, "before": "minus = 1 / 0\n"}, 0, "right."),
    ("a definition in an if", {"after": IN_AN_IF}, 0, "right."),
    ("a star", {"body": RIGHT.replace("np.", ""), "before": "from numpy import *\n"}, 0, "right."),
    ("a future", {"body": RIGHT, "before": "from __future__ import annotations\n"}, 0, "right."),
    ("prints", {"body": "    print('seen')\n" + RIGHT}, 0, "seen"),
]


@pytest.mark.parametrize(("what", "changes", "code", "said"), CHECKED, ids=[row[0] for row in CHECKED])
def test_a_check_says_whether_a_function_is_right(capsys, what, changes, code, said):
    found, out, err = run(capsys, "learn", "check", sample(**changes))
    assert said in out
    assert (found, err) == (code, "")


def test_a_module_beside_the_file_is_found(capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "my_helpers_18.py").write_text("import numpy as np\n" + HELPER)
    body = RIGHT.replace("np.where(np.tri(len(q), dtype=bool), products, -np.inf)", "masked(products)")
    name = sample(body, before="from my_helpers_18 import masked\n", name="folder/x.py")
    before = list(sys.path)
    assert run(capsys, "learn", "check", name)[:2] == (0, "✓ attention.scores: right.\n")
    assert sys.path == before


def test_a_function_is_found_by_its_name_where_the_file_checks_nothing(capsys):
    Path("x.py").write_text("import numpy as np\n\n\ndef scores(q, k):\n" + RIGHT)
    assert run(capsys, "learn", "check", "x.py")[:2] == (0, "✓ attention.scores: right.\n")


def test_a_helper_of_another_lessons_function_is_not_checked(capsys):
    source = "def gelu(x):\n    return x + y\n\n\ndef helper(x):\n    return gelu(x)\n\n\n"
    Path("x.py").write_text(f"{source}def run(weights, config, ids):\n    return helper(ids)\n")
    out = run(capsys, "learn", "check", "x.py")[1]
    assert re.findall(r"^\S (\S+):", out, re.MULTILINE) == ["own.run"]
    Path("x.py").write_text(f"{source}def after_mlp(x):\n    return helper(x)\n")  # of the same lesson
    out = run(capsys, "learn", "check", "x.py")[1]
    assert re.findall(r"^\S (\S+):", out, re.MULTILINE) == ["stream.gelu", "stream.after_mlp"]


@pytest.mark.parametrize("name", ["scores", "attention.scores"])
def test_one_function_of_a_file(capsys, name):
    after = 'lessons.check("attention.mix", mix)\ndef mix(pattern, v, weight, bias):\n    return 1\n'
    path = sample(RIGHT, after=after)
    assert run(capsys, "learn", "check", path)[0] == 1
    assert run(capsys, "learn", "check", path, name)[:2] == (0, "✓ attention.scores: right.\n")
    assert run(capsys, "learn", "check", "3", name)[0] == 0  # the file of lesson 3 here


def test_a_check_with_the_numbers_of_another_model(capsys, tmp_path_factory):
    other = tmp_path_factory.mktemp("models") / "eight_heads"
    shutil.copytree(shipped_folder(), other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"n_head": 8}))  # of 24 numbers each
    path = sample(RIGHT.replace("np.sqrt(q.shape[-1])", "np.sqrt(48)"))  # of tiny
    assert run(capsys, "learn", "check", path, "--model", "tiny")[0] == 0
    assert run(capsys, "learn", "check", path, "--model", other)[0] == 1
    assert run(capsys, "learn", "check", sample(RIGHT), "--model", other)[0] == 0


ENDLESS = "    n = 0\n    while n < 1:\n        n -= 1\n"


def test_a_function_without_an_end_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    code, out, _ = run(capsys, "learn", "check", sample(ENDLESS))
    assert code == 1
    assert "your function was stopped" in out
    assert "It was at line" in out


def test_a_file_without_an_end_cannot_be_run(capsys, monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    Path("x.py").write_text("n = 0\nwhile n < 1:\n    n -= 1\ndef scores(q, k):\n    return n\n")
    code, out, err = run(capsys, "learn", "check", "x.py")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gpt2np: x\.py, line [23]: it had not ended after [\d.]+ seconds\n", err)


def test_a_check_for_programs(capsys):
    path = sample("    print('seen')\n" + UNSCALED)
    code, out, err = run(capsys, "learn", "check", path, "--json")
    assert code == 1
    assert set(err.splitlines()) == {"seen"}
    (told,) = json.loads(out)
    assert told.keys() == {"exercise", "state", "where", "ratio", "mistake", "hint", "ended", "so_far"}
    assert (told["state"], told["mistake"]) == ("wrong", "scores-unscaled")


def test_the_nearer_hint(capsys, monkeypatch):
    path, outputs = sample(UNSCALED), []
    for more in ([], ["--nearer"]):
        monkeypatch.setattr("gpt2np.lessons.checker._told", {})  # as in a process of its own
        outputs.append(run(capsys, "learn", "check", path, *more)[1])
    first, second = outputs
    assert "--nearer" in first
    assert "--nearer" not in second
    assert first.splitlines()[:2] == second.splitlines()[:2]
    assert first.splitlines()[-2] != second.splitlines()[-1]


def test_the_documentation_shows_what_is_printed(capsys, monkeypatch):
    monkeypatch.setattr("gpt2np.lessons.checker._told", {})
    printed = run(capsys, "learn", "check", sample(UNSCALED))[1]
    page = (FOLDER.parent / "docs" / "lessons.md").read_text("utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert re.sub(r"\d+", "#", printed) == re.sub(r"\d+", "#", shown)


NOT_RUNNABLE = [
    ("no file", None, "gpt2np: x.py: no such file\n"),
    ("a folder", "folder", "found a folder"),
    ("nothing in it", "", "has no function of an exercise"),
    ("no exercise", "x = 1\n", "has no function of an exercise"),
    ("no Python", "def scores(q, k)\n", "x.py, line 1: expected ':'"),
    ("a NUL", "x = '\0'\n", "x.py"),
    ("not UTF-8", b"x = '\xe9'\n", "is not UTF-8"),
    ("no function", 'from gpt2np import lessons\nlessons.check("scores", scores)\n', "no function 'scores'"),
    ("no module", "import no_such_18 as np\n", "line 1: ModuleNotFoundError: No module named 'no_such_18'"),
    ("an error above", "import numpy as np\nnp = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
    ("an exit above", "import sys\nnp = sys.exit(3)\n", "line 2: SystemExit: 3"),
    (
        "no callable",
        'scores = 3\nfrom gpt2np import lessons\nlessons.check("scores", scores)\n',
        "no function",
    ),
]


@pytest.mark.parametrize(("what", "content", "said"), NOT_RUNNABLE, ids=[row[0] for row in NOT_RUNNABLE])
def test_a_file_that_cannot_be_run_is_one_line(capsys, what, content, said):
    path = Path("x.py")
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        is_story = "import" in content and "check" not in content
        path.write_text(content + ("def scores(q, k):\n" + RIGHT if is_story else ""), "utf-8")
    code, out, err = run(capsys, "learn", "check", "x.py")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


WRONG = [
    ("check", "say which file to check"),
    ("check x.ipynb", "a notebook checks itself"),
    ("check 3_attention.py qqq", "has no exercise 'qqq'; it has scores"),
    ("check 9", "there is no lesson '9'"),
    ("check 5", "5_induction.py: no such file; `gpt2np learn 5` writes it here"),
    ("3 x.py", "learn '3' takes nothing more; to check a file: gpt2np learn check FILE"),
    ("chek x.py", "did you mean check?"),
    ("solution", "say of which lesson"),
    ("solution 3", "have you tried?"),
    ("solution 3 qqq --yes-i-have-tried", "lesson 3 has no function 'qqq'; it has split, scores"),
    ("--html x.html", "--html belongs to: gpt2np learn LESSON"),
    ("check 3_attention.py --ipynb", "--ipynb belongs to: gpt2np learn LESSON"),
    ("3 --nearer", "--nearer belongs to: gpt2np learn check"),
    ("3 --model tiny", "--model belongs to: gpt2np learn check"),
    ("check 3_attention.py --yes-i-have-tried", "belongs to: gpt2np learn solution"),
    ("3 --html x.txt", "must end in .html"),
    ("check 3_attention.py --model nowhere/nothing-18", "nowhere"),
    ("lesson", "there is no lesson"),
]


@pytest.mark.parametrize(("argv", "said"), WRONG)
def test_what_does_not_belong_together_is_refused(capsys, argv, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sample(RIGHT)
    code, out, err = run(capsys, "learn", *argv.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert [path.name for path in Path().iterdir()] == ["3_attention.py"]


@pytest.mark.every(2)
@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_are_right(capsys, name):
    lesson = lesson_called(name)
    code, out, _ = run(capsys, "learn", "solution", lesson.number, "--yes-i-have-tried")
    assert (code, out) == (0, lesson.solution())
    Path("x.py").write_text(out, "utf-8")
    functions = [each.function for each in lesson.exercises]
    assert functions == [] or run(capsys, "learn", "check", "x.py")[0] == 0
    for function in functions:
        code, out, _ = run(capsys, "learn", "solution", lesson.number, function, "--yes-i-have-tried")
        assert code == 0
        assert out.startswith(f"def {function}(")
        assert out.count("\ndef ") == 0


# -- what a file has ----------------------------------------------------------------------------------------


def test_functions_are_found_by_the_checks_of_a_file():
    Path("x.py").write_text(
        "from gpt2np.lessons import check, todo\n"
        "def a(x): return todo\n"
        "def b(x): return 1\n"
        'check("topic.first", a)\n'
        "if True:\n    check('topic.second', b)\n"
        'check("topic.first", b)\n'
        'check("topic.b", lambda x: b(x))\n'
        'check("topic.gone", gone)\n'
        'check(name, b)\nother.check("topic.third", function=b)\ncheck()\n'
    )
    found = [(each.name, each.function, each.written) for each in exercise_functions(parsed(Path("x.py")))]
    assert found == [
        ("topic.first", "a", False),
        ("topic.b", "b", True),
        ("topic.gone", "gone", False),
        ("topic.third", "third", False),
        ("topic.second", "b", True),
    ]


def test_only_what_a_function_needs_is_run():
    Path("x.py").write_text(
        "import math\nran = []\n1 / 0\nx = 2\ny = 1 / 0\nx += 1\n"
        "def f(a):\n    y = a\n    return [g(y) for y in a]\n"
        "def g(a):\n    return math.sqrt(a) * x\n"
        "f([1])[5]\n"
    )
    assert function_of(parsed(Path("x.py")), "f", Path("x.py"))([4, 9]) == [6, 9]
    with pytest.raises(InputError, match=r"^x.py, line 5: ZeroDivisionError: division by zero$"):
        function_of(parsed(Path("x.py")), "y", Path("x.py"))


def test_progress_is_the_file_and_nothing_else(tmp_path):
    lesson = lesson_called("3")
    assert not progress_in(tmp_path, lesson).begun
    sample(RIGHT)
    assert progress_in(tmp_path, lesson).n_written == 1
    Path("3_attention.py").unlink()
    assert not progress_in(tmp_path, lesson).begun
