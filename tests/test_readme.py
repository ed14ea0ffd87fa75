"""Everything that the README shows is run again here, and its generated parts are fresh."""

import re
import shlex
from pathlib import Path

import pytest

from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.cli import main
from gpt2np.cli.program import build_parser
from gpt2np.cli.report import markdown_table
from gpt2np.reference.report_text import catalogue_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NOISE = re.compile(r"noise explains \S+ \S+ times")  # rounding itself, which every machine has its own of


def sessions():
    """(command, what it prints) for every `$ gpt2np ...` in a console block."""
    for language, text in BLOCKS:
        if language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                if command.startswith("gpt2np"):
                    yield command, output


SESSIONS = list(sessions())
PYTHON = [text for language, text in BLOCKS if language == "python"]


@pytest.mark.parametrize(("command", "output"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_console_blocks(capsys, monkeypatch, tmp_path, command, output):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    if "theirs.safetensors" in command:  # a block of Python before it has written it
        exec(compile(next(c for c in PYTHON if "theirs.safetensors" in c), "README.md", "exec"), {})
        capsys.readouterr()
    assert main(shlex.split(command)[1:]) == (1 if output.startswith("wrong") else 0)
    printed, output = NOISE.sub("noise", capsys.readouterr().out), NOISE.sub("noise", output)
    # the same text, with numbers equal to what rounding on another machine may change
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", output).split()
    found, shown = ([float(n) for n in NUMBER.findall(text)] for text in (printed, output))
    assert found == pytest.approx(shown, rel=2e-3, abs=2e-2)


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks(monkeypatch, tmp_path, code):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_site_table_is_fresh():
    assert markdown_table(SITES) in README


def test_the_list_of_mistakes_is_fresh():
    page = (ROOT / "gpt2np" / "reference" / "MISTAKES.md").read_text("utf-8")
    assert catalogue_markdown() in page


def test_every_verb_is_in_the_readme():
    verbs = next(a for a in build_parser()._actions if getattr(a, "choices", None))
    missing = [verb for verb in verbs.choices if f"gpt2np {verb}" not in README]
    assert missing == []


def test_the_two_commands():
    assert 'pip install . && gpt2np trace "Elizabeth was"' in README
    assert "pip install '.[test,ref]' && pytest" in README
    assert len(SESSIONS) >= 3
    assert sum(language == "python" for language, _ in BLOCKS) >= 1
