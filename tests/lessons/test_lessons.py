"""Every lesson runs offline, with stubs and solved, prints what it should, and proves its numbers."""

import ast
import re

import pytest
from support.lesson_files import FOLDER, LESSONS, OUTPUTS, REAL, prose, run, solved, stubs

from gpt2np import lessons
from gpt2np.lessons.exercise import Exercise
from gpt2np.lessons.exercises import exercise, names

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
each = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def number_of(path):
    return path.name.partition("_")[0]


def exercises_of(path):
    """The names that a lesson checks, in their order."""
    return re.findall(r'^lessons\.check\("([\w.]+)", (\w+)\)', path.read_text("utf-8"), re.MULTILINE)


def clean(done, folder):
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not [path for path in folder.iterdir() if path.name not in ("cache", "solved.py")]


def as_numbers(line):
    """A line as its text, and its numbers."""
    return NUMBER.sub("0", line), [float(text.replace(",", "")) for text in NUMBER.findall(line)]


@pytest.mark.every(2)
@each
def test_a_lesson_runs_with_its_stubs_and_prints_what_it_should(path, tmp_path):
    done = run(path, tmp_path)
    clean(done, tmp_path)
    expected = (OUTPUTS / f"{number_of(path)}.txt").read_text("utf-8").splitlines()
    found = done.stdout.splitlines()
    for line, wanted in zip(found, expected, strict=False):
        (text, numbers), (wanted_text, wanted_numbers) = as_numbers(line), as_numbers(wanted)
        assert text == wanted_text
        assert numbers == pytest.approx(wanted_numbers, rel=2e-3), line
    assert len(found) == len(expected)
    told = [line.partition(":")[0] for line in found if re.match(r"[✓✗…?] \w+\.\w+:", line)]
    assert told == [f"… {name}" for name, _ in exercises_of(path)]


@pytest.mark.every(2)
@each
def test_a_lesson_is_solved_by_its_solutions(path, tmp_path):
    script = tmp_path / "solved.py"
    script.write_text(solved(path), "utf-8")
    done = run(script, tmp_path, "--stand-in")  # so that the last cell runs, too
    clean(done, tmp_path)
    assert "is not in the cache" not in done.stdout
    told = [line for line in done.stdout.splitlines() if re.match(r"[✓✗…?] \w+\.\w+:", line)]
    assert told == [f"✓ {name}: right." for name, _ in exercises_of(path)]


@pytest.mark.hub
@each
def test_the_last_cell_runs_on_the_real_gpt2(path, tmp_path):
    import gpt2np

    gpt2np.load("gpt2")  # into the cache
    done = run(path, tmp_path, "--hub")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is not in the cache" not in done.stdout


@each
def test_a_lesson_is_built_like_the_others(path):
    source = path.read_text("utf-8")
    title = re.match(
        rf"# %% \[markdown\]\n# # {number_of(path)}\. .+\n# minutes: \d\d\n#\n# \*\*Question: .+\?", source
    )
    assert title, source[:200]
    assert source.count("**Question:") == 1
    steps = [int(n) for n in re.findall(r"^# ## (\d+)\. ", source, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1))
    assert 6 <= len(steps) <= 10
    for heading in ("# ## Break it", f"# {REAL}"):
        assert len(re.findall(rf"^{heading}$", source, re.MULTILINE)) == 1, heading
    assert source.index(REAL) > source.index("## Break it")
    assert 'if lessons.available("gpt2"):' in source[source.index(REAL) :]
    assert lessons.PROMPT in source
    assert len(re.findall(r"\bview\(", source)) <= 1
    assert not re.search(r"https?://", source)


@each
def test_every_exercise_has_a_stub_a_check_and_a_solution(path):
    source = path.read_text("utf-8")
    checked = exercises_of(path)
    assert 2 <= len(checked) <= 4 or number_of(path) == "7"
    assert [function for _, function in checked] == list(stubs(source))
    for name, function in checked:
        assert exercise(name).function_name == function
        assert ast.get_docstring(stubs(source)[function]), function
    solution = ast.parse((FOLDER / "solutions" / path.name).read_text("utf-8"))
    written = [node.name for node in solution.body if isinstance(node, ast.FunctionDef)]
    assert {function for _, function in checked} <= set(written)


@each
def test_every_number_in_the_prose_stands_in_an_output(path):
    text = re.sub(
        r"^#+ \d+\. |[Ll]essons? \d|GPT-2|minutes: \d+|\d+-bit", "", prose(path), flags=re.MULTILINE
    )
    printed = (OUTPUTS / f"{number_of(path)}.txt").read_text("utf-8")
    there = {found.replace(",", "").lstrip("-") for found in NUMBER.findall(printed)}
    lacking = {n.rstrip(",") for n in NUMBER.findall(text) if n.replace(",", "").lstrip("-") not in there}
    lacking -= {str(small) for small in range(13)}  # two heads, four layers
    assert not lacking, sorted(lacking)


@each
def test_every_measured_number_in_the_prose_has_an_assert(path):
    """Decimals, percentages and whole numbers above 12; 1.0 and the like may be the name of a head."""
    text = re.sub(r"`[^`]*`|neuron \d+|\d+ bits|minutes: \d+", "", prose(path))
    claims = re.findall(r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?)(?!\w)( %)?", text)
    claims = [
        float(claim.replace(",", ""))
        for claim, percent in claims
        if not re.fullmatch(r"[0-3]\.[0-3]", claim) and (percent or "." in claim or len(claim) > 1)
    ]
    claims = [claim for claim in claims if not (claim.is_integer() and 9 < claim < 13)]
    asserted = {
        abs(constant.value)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assert)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, int | float)
    }
    near = {round(value, 6) for value in asserted} | {round(100 * value, 6) for value in asserted}
    lacking = [claim for claim in claims if round(claim, 6) not in near]
    assert not lacking, lacking


@each
def test_every_map_says_what_its_rows_and_columns_are(path):
    source = path.read_text("utf-8")
    printed = (OUTPUTS / f"{number_of(path)}.txt").read_text("utf-8")
    drawn = len(re.findall(r"lessons\.heatmap\(", source))
    assert len(re.findall(r"lessons\.heatmap\([^\n]*(?:axes=|\*\*how)", source)) == drawn
    assert printed.count("rows: ") >= drawn


def test_every_exercise_is_in_one_lesson():
    used = [name for path in LESSONS for name, _ in exercises_of(path)]
    assert len(set(used)) == len(used)
    assert set(used) == set(names())


# -- hints --------------------------------------------------------------------------------------------------

CODE = re.compile(
    r"[=@`_\[\]{}<>*/]|\(\w*\)|\bnp\b|\b(?:transpose|reshape|einsum|matmul|swapaxes|triu|tril|keepdims|argsort|"
    r"sqrt|softmax|argmax|logsumexp|cumsum|concatenate|stack|lambda|dtype)\b"
)


def questions(wanted: Exercise):
    """All that an exercise may ask: of the catalogue's mistakes, and of its own."""
    slugs = [*getattr(wanted, "mistakes", ()), *(wrong.slug for wrong in wanted.wrong), *wanted.hints]
    given = {wrong.slug: wrong.hints for wrong in reversed(wanted.wrong) if wrong.hints}
    return {slug: wanted.hints_of(slug, given.get(slug, ())) for slug in slugs}


@pytest.mark.parametrize("name", names())
def test_hints_ask_and_never_tell(name):
    wanted = exercise(name)
    assert wanted.asks.endswith("?")
    for slug, hints in (
        *questions(wanted).items(),
        *(("once", (getattr(wanted, one),)) for one in ("look", "form", "fit")),
        *(("once", (question,)) for question in wanted.stops.values()),
    ):
        assert len(hints) == (1 if slug == "once" else 2), slug
        assert len(set(hints)) == len(hints), slug
        for hint in hints:
            assert hint.endswith("?"), (slug, hint)
            assert not CODE.search(hint), (slug, hint)
