"""Everything that the README shows is run again here, and its generated parts are fresh."""

from pathlib import Path

import pytest
from support.pages import blocks_of, prints_what_is_shown, python_of, sessions_of

from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.cli.program import build_parser
from gpt2np.cli.report import markdown_table
from gpt2np.reference.mistakes import KNOWN
from gpt2np.reference.report_text import catalogue_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SESSIONS, PYTHON = sessions_of(README), python_of(README)


@pytest.mark.parametrize(("command", "output"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_console_blocks(capsys, monkeypatch, tmp_path, command, output):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    prints_what_is_shown(command, output, README, capsys)


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks(monkeypatch, tmp_path, code):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_site_table_is_fresh():
    assert markdown_table(SITES) in README


def test_the_list_of_mistakes_is_fresh():
    page = (ROOT / "gpt2np" / "reference" / "MISTAKES.md").read_text("utf-8")
    assert catalogue_markdown() in page
    assert f"{len(KNOWN)} mistakes" in page
    assert f"MISTAKES.md) of {len(KNOWN)} " in README


def test_every_verb_is_in_the_readme():
    verbs = next(a for a in build_parser()._actions if getattr(a, "choices", None))
    missing = [verb for verb in verbs.choices if f"gpt2np {verb}" not in README]
    assert missing == []


def test_the_two_commands():
    assert 'pip install . && gpt2np trace "Elizabeth was"' in README
    assert "pip install '.[test,ref]' && pytest" in README
    assert len(SESSIONS) >= 3
    assert sum(language == "python" for language, _ in blocks_of(README)) >= 1
