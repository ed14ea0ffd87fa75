"""A test that needs more than is installed skips and says how to get it, and is run once that is there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import needs

HERE = Path(__file__).parent
TABLE = """
NEEDS["lamp"] = Need(lambda: "lamp" in os.environ["HAVE"], "buy a lamp")
NEEDS["desk"] = Need(lambda: "desk" in os.environ["HAVE"], "build a desk")
NEEDS["moon"] = Need(lambda: False, "fly there", peer=True)
"""
MADE_UP = {
    "lamp.py": "",
    "test_a.py": """
        import pytest
        from support import needs

        @pytest.fixture
        def light():
            return needs.imported("lamp")

        def test_nothing():
            pass

        @pytest.mark.needs("lamp")
        def test_lamp():
            pass

        @pytest.mark.needs("desk", "lamp")
        def test_both():
            pass

        @pytest.mark.needs("lamp", "moon")
        def test_peer():
            pass

        @pytest.mark.slow
        @pytest.mark.needs("lamp")
        def test_slow():
            pass

        @pytest.mark.parametrize("at", ["day", pytest.param("night", marks=pytest.mark.needs("lamp"))])
        def test_parameter(at):
            pass

        def test_fixture(light):
            pass
        """,
    "test_b.py": """
        from support import needs
        needs.module("lamp")
        import lamp

        def test_one():
            pass

        def test_two():
            pass
        """,
    "test_d.py": """
        import pytest
        pytestmark = pytest.mark.needs("desk")

        def test_desk():
            pass
        """,
}
MADE_UP["test_c.py"] = MADE_UP["test_b.py"]
NEED_LAMP = ["test_a.py::test_both", "test_a.py::test_fixture", "test_a.py::test_lamp"]
NEED_LAMP += ["test_a.py::test_parameter[night]", "test_b.py", "test_c.py"]
LISTED = [f"tests/{test}" for test in [*NEED_LAMP, "test_d.py::test_desk"]]


@pytest.fixture
def suite(tmp_path):
    """A function that runs a made-up suite with our conftest, where some things are there."""
    tests = tmp_path / "tests"
    (tests / "support").mkdir(parents=True)
    shutil.copy(HERE / "conftest.py", tests)
    (tests / "support/needs.py").write_text((HERE / "support/needs.py").read_text("utf-8") + TABLE, "utf-8")
    for name, text in MADE_UP.items():
        (tests / name).write_text(re.sub("(?m)^ {8}", "", text), "utf-8")
    options = "-rs --strict-markers --import-mode importlib -p no:cacheprovider -p no:hypothesispytest"
    markers = "\n  ".join(["markers =", "needs: -", "slow: -", "every: -", "hub: -"])
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntestpaths = tests\naddopts = {options}\n{markers}\n")

    def run(*argv, have="", n=0):
        command = [sys.executable, "-m", "pytest", "-n", str(n), *argv]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return subprocess.run(command, cwd=tmp_path, env=env | {"HAVE": have}, capture_output=True, text=True)

    return run


def counts(done):
    """How many passed, skipped and so on."""
    return {word: int(n) for n, word in re.findall(r"(\d+) (passed|skipped|deselected|error)", done.stdout)}


@pytest.mark.parametrize("n", [0, 2])
def test_what_skips_is_listed(suite, tmp_path, n):
    done = suite("--missing-to=list.json", n=n)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "list.json").read_text()) == LISTED
    lamp, desk = "needs lamp: buy a lamp", "needs desk: build a desk"
    for reason in (lamp, desk, f"{desk}; {lamp}", f"{lamp}; needs moon: fly there", "needs --slow"):
        assert f": {reason}\n" in done.stdout
    assert "7 tests or files skipped for want of something; listed in list.json" in done.stdout
    assert counts(done) == {"passed": 2, "skipped": 9}


def test_once_the_rest_is_installed_all_of_them_run(suite, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(LISTED))
    done = suite("--missing-from=list.json", have="lamp desk")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(done) == {"passed": 9, "deselected": 4}


@pytest.mark.parametrize("n", [0, 2])
def test_what_still_skips_is_a_failure(suite, tmp_path, n):
    (tmp_path / "list.json").write_text(json.dumps(LISTED))
    done = suite("--missing-from=list.json", have="desk", n=n)
    assert done.returncode == 1
    assert "these must not skip any more" in done.stdout
    for test in NEED_LAMP:
        assert f"\ntests/{test}: needs lamp: buy a lamp\n" in done.stdout
    assert "test_d.py::test_desk:" not in done.stdout


def test_what_cannot_be_had_may_miss(suite, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(LISTED))
    argv = "--missing-from=list.json", "--may-miss=lamp"
    assert suite(*argv, have="desk").returncode == 0
    done = suite(*argv)
    assert done.returncode == 1
    need_desk = [LISTED[0], LISTED[-1]]
    assert re.findall(r"(?m)^(tests/\S+): needs", done.stdout) == need_desk


def test_a_list_with_nothing_to_run(suite, tmp_path):
    (tmp_path / "list.json").write_text('["tests/gone.py", "tests/test_a.py::gone"]')
    done = suite("--missing-from=list.json")
    assert done.returncode == 1
    assert "tests/gone.py: was not run\ntests/test_a.py::gone: was not run\n" in done.stdout
    (tmp_path / "list.json").write_text("[]")
    assert suite("--missing-from=list.json").returncode == 0


def test_of_a_table_every_nth_case_runs_and_these_are_not_thinned_again(suite, tmp_path):
    (tmp_path / "tests/test_a.py").write_text(
        "import pytest\n\n@pytest.mark.every(2)\n@pytest.mark.needs('lamp')\n"
        "@pytest.mark.parametrize('n', range(5))\ndef test_it(n):\n    pass\n"
    )
    chosen = [f"tests/test_a.py::test_it[{n}]" for n in (0, 2, 4)]
    done = suite("tests/test_a.py", "--missing-to=list.json")
    assert json.loads((tmp_path / "list.json").read_text()) == chosen
    assert counts(done) == {"skipped": 3, "deselected": 2}
    done = suite("tests/test_a.py", "--missing-from=list.json", have="lamp")
    assert done.returncode == 0, done.stdout
    assert counts(done)["passed"] == 3
    assert counts(suite("tests/test_a.py", "--slow", have="lamp")) == {"passed": 5}


def test_an_unknown_need_is_an_error(suite, tmp_path):
    text = 'import pytest\n\n@pytest.mark.needs("lamb", "moon")\ndef test_it():\n    pass\n'
    (tmp_path / "tests/test_a.py").write_text(text)
    done = suite("tests/test_a.py")
    assert done.returncode == 1
    assert counts(done) == {"error": 1}
    assert "unknown need: lamb; support/needs.py has matplotlib, " in done.stdout
    for call in (needs.imported, needs.module):
        with pytest.raises(pytest.UsageError, match="unknown need: lamb"):
            call("lamb")


def test_every_test_uses_this_one_way():
    other = re.compile(r"importorskip|find_spec|shutil\.which|needs_\w+ = pytest\.mark")
    files = [path for path in HERE.rglob("test_*.py") if path != Path(__file__)]
    assert [str(path) for path in files if other.search(path.read_text("utf-8"))] == []


def test_what_a_place_in_the_environment_names(monkeypatch):
    monkeypatch.setenv("PATH", "")
    for find, variable in ((needs.tsc, "GPT2NP_TSC"), (needs.chromium, "GPT2NP_CHROMIUM")):
        monkeypatch.delenv(variable, raising=False)
        assert find() is None
        monkeypatch.setenv(variable, "/there")
        assert find() == "/there"
    assert needs.missing(["tsc", "chromium"]) is None
    found = needs.missing(["tsc", "cc", "node"])
    assert found == "needs cc: apt-get install gcc; needs node: apt-get install nodejs"
