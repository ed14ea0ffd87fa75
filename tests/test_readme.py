"""Everything that the README shows is run again here, and its generated parts are fresh."""

import sys
from pathlib import Path

import pytest
from support.pages import HOME, broken_links, links_of, prints_what_is_shown, python_of, sessions_of

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are no part of the installed package

from benchmarks import readme_table
from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.cli.program import build_parser
from gpt2np.reference.mistakes import KNOWN
from gpt2np.reference.report_text import catalogue_markdown
from gpt2np.tracing.plan import Plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SESSIONS, PYTHON = sessions_of(README), python_of(README)


@pytest.mark.parametrize("session", SESSIONS, ids=[session[0][0] for session in SESSIONS])
def test_console_blocks(capsys, monkeypatch, tmp_path, session):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    for command, output in session:
        prints_what_is_shown(command, output, README, capsys)


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks(monkeypatch, tmp_path, code):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_it_stands_alone_where_it_is_shown_without_the_repository():
    """On PyPI there are no files beside it: every link is absolute, and leads to a file that is here."""
    assert len(README.splitlines()) <= 160
    assert [link for link in links_of(README) if not link.startswith(("https://", "#"))] == []
    assert broken_links(ROOT / "README.md", README, ROOT) == []
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    urls = project.partition("[project.urls]")[2].partition("\n\n")[0]
    assert all(f'"{HOME}' in line for line in urls.strip().splitlines())
    assert len(urls.strip().splitlines()) >= 3


def test_its_sizes_and_times_are_those_that_were_measured():
    """The table of speed is that of the committed benchmarks."""
    assert readme_table.short_table(readme_table.results.published()) + "\n" in README
    plans = [Plan(RELEASED["gpt2"], n).nbytes for n in (100, 1024)]
    assert f"takes {plans[0] / 1e6:.0f} MB, of 1,024 tokens {plans[1] / 1e9:.1f} GB" in README.replace(
        "\n", " "
    )


def test_it_has_a_reference_to_cite():
    reference = README.partition("```bibtex\n")[2].partition("```")[0]
    assert reference.startswith("@software{gpt2np,")
    assert reference.count("{") == reference.count("}")
    assert HOME in reference


def test_the_list_of_mistakes_is_fresh():
    page = (ROOT / "gpt2np" / "reference" / "MISTAKES.md").read_text("utf-8")
    assert catalogue_markdown() in page
    assert f"{len(KNOWN)} mistakes" in page
    compare = (ROOT / "gpt2np" / "docs" / "compare.md").read_text("utf-8")
    assert f"MISTAKES.md) of {len(KNOWN)} " in compare


def test_every_verb_is_in_the_readme():
    verbs = next(a for a in build_parser()._actions if getattr(a, "choices", None))
    missing = [verb for verb in verbs.choices if f"gpt2np {verb}" not in README]
    assert missing == []


def test_the_two_commands():
    assert 'pip install . && gpt2np trace "Elizabeth was"' in README
    assert "pip install '.[test,ref]' && pytest" in README
    assert len(SESSIONS) >= 2
    assert len(PYTHON) >= 1
