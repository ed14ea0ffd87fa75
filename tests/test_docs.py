"""The pages in gpt2np/docs: what they show is run here, and they come with the package."""

import json
import re
import shlex
import subprocess
import sys
import types
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from support import equivalents, generated_pages, needs
from support.command_line import run
from support.pages import blocks_of, broken_links, prints_what_is_shown, python_of, sessions_of

import gpt2np
from gpt2np.cli import main
from gpt2np.cli.verbs.docs import for_terminal, page_names

ROOT = Path(__file__).parents[1]
DOCS = Path(gpt2np.__file__).parent / "docs"
COMPARE = (DOCS / "compare.md").read_text("utf-8")
PAGES = sorted(DOCS.glob("*.md"))
SESSIONS = [(page, session) for page in PAGES for session in sessions_of(page.read_text("utf-8"))]
PYTHON = [(page, code) for page in PAGES for code in python_of(page.read_text("utf-8"))]
IDS = [36, 70, 319, 84, 271]


def block(language, word):
    """The block of COMPARE in which a word stands."""
    return next(text for found, text in blocks_of(COMPARE) if found == language and word in text)


def test_the_functions_of_analysis_are_named_as_they_are_imported():
    rows = re.findall(r"(?m)^\|[^|]*\| (`[^|]*) \|", (DOCS / "analysis.md").read_text("utf-8"))
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 20
    for name in names:
        module, _, function = name.partition(".")
        assert callable(getattr(getattr(gpt2np.analysis, module), function)), name


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", page_names())
def test_a_page_for_a_terminal_has_whole_words_and_no_comments(monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    page = (DOCS / f"{name}.md").read_text("utf-8")
    shown = for_terminal(page)
    assert "<!--" not in shown
    code = {line for _, text in blocks_of(page) for line in text.splitlines()}
    assert all(
        len(line) <= columns for line in shown.splitlines() if line not in code and " " in line.strip()
    )
    plain = re.sub(r"(?s)<!--.*?-->|\]\([^)]*\)", " ", page)
    words = set(re.findall(r"[A-Za-z]{6,}", plain))
    assert words <= set(re.findall(r"[A-Za-z]{6,}", shown))


def test_a_word_is_looked_for_in_all_pages(capsys):
    code, out, _ = run(capsys, "docs", "layernorm")
    assert code == 0
    assert "exactness" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "exactness" in json.loads(run(capsys, "docs", "LayerNorm", "--json")[1])["pages"]
    assert run(capsys, "docs", "qwertz")[0] == 2


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A folder of its own, without a model in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    return tmp_path


@pytest.fixture
def my_gpt2(monkeypatch, tiny):
    """The program that the page's test suite tests; `off` is what it is wrong by."""
    module = types.ModuleType("my_gpt2")
    module.off = 0.0

    def run(ids):
        trace = tiny.trace(ids)
        return {name: trace[name] + np.float32(module.off if "mlp" in name else 0) for name in trace.names()}

    module.run = run
    monkeypatch.setitem(sys.modules, "my_gpt2", module)
    return module


def test_pages_come_with_the_package():
    assert (files("gpt2np") / "docs" / "compare.md").read_text("utf-8") == COMPARE
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert 'packages = ["gpt2np"]' in project  # whole, data and all
    assert "exclude" not in project.split("[tool.hatch")[2]


def test_functions_behind_the_page_of_a_run_exist():
    table = (DOCS / "viewer.md").read_text("utf-8").partition("| on the page |")[2].partition("\n\n")[0]
    names = [n for n in re.findall(r"`(\w+)\.(\w+)`", table) if n != ("gpt2np", "analysis")]
    assert len(names) >= 6
    for module, function in names:
        assert callable(getattr(getattr(gpt2np.analysis, module), function))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text("utf-8"), ROOT) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_of_one_topic_and_begins_with_its_name(page):
    headings = re.findall(r"^# (.+)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8")), re.MULTILINE)
    assert len(headings) == 1
    assert page.read_text("utf-8").startswith(f"# {headings[0]}\n\n")


def test_the_index_has_every_page():
    index = (DOCS / "index.md").read_text("utf-8")
    assert {page.name for page in PAGES} - set(re.findall(r"\]\((\w+\.md)\)", index)) == {"index.md"}


@pytest.mark.parametrize("name", sorted({name for name, _ in generated_pages.REGIONS}))
def test_generated_parts_are_fresh(name):
    page = (DOCS / f"{name}.md").read_text("utf-8")
    assert generated_pages.rendered(name) == page, "write it: python tests/support/generated_pages.py"


@pytest.mark.parametrize(
    ("page", "session"), SESSIONS, ids=[f"{page.stem} {session[0][0][:60]}" for page, session in SESSIONS]
)
def test_console_blocks(capsys, here, page, session):
    for command, output in session:
        prints_what_is_shown(command, output, page.read_text("utf-8"), capsys)


@pytest.mark.parametrize("row", equivalents.rows(), ids=lambda row: row.theirs[:60])
def test_our_side_of_the_equivalents_of_transformer_lens(tiny, row):
    value = equivalents.plain(eval(row.ours, equivalents.our_names(tiny)))
    assert isinstance(value, str | list) or (value.size and not np.isnan(value).any())


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{p.stem} {i}" for i, (p, _) in enumerate(PYTHON)])
def test_python_blocks(here, my_gpt2, page, code):
    needed = re.match(r"# needs (\w+)\n", code)
    compiled = compile(code, page.name, "exec")
    if needed is None:
        exec(compiled, {})
    elif needed[1] in needs.NEEDS:
        if reason := needs.missing([needed[1]]):
            pytest.skip(reason)
        exec(compiled, {})


# -- the verb that opens them -------------------------------------------------------------------------------


def test_docs_lists_every_page_with_its_title(capsys):
    assert main(["docs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["index", "The", "documentation", "of", "gpt2np"]
    assert lines[1].startswith("first_hour ")
    assert sorted(line.split()[0] for line in lines[: len(PAGES)]) == [page.stem for page in PAGES]
    assert all(len(line) <= 80 for line in lines)
    assert main(["docs", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == page_names()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_docs_prints_a_page(capsys, page):
    assert main(["docs", page.stem]) == 0
    assert capsys.readouterr().out == page.read_text("utf-8")


def test_docs_opens_a_page_in_a_pager_on_a_terminal(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("pydoc.pager", shown.append)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["docs", "sites"]) == 0
    assert shown == [for_terminal((DOCS / "sites.md").read_text("utf-8"))]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("given", ["first_hour", "first-hour", "First_Hour", "first_hour.md"])
def test_docs_says_where_a_page_is(capsys, given):
    assert main(["docs", given, "--path"]) == 0
    assert Path(capsys.readouterr().out.strip()) == DOCS / "first_hour.md"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("first-houre", "did you mean first_hour?"),
        ("transformerlens", "did you mean from_transformerlens?"),
        ("sitse", "did you mean sites?"),
        ("exercises", "`gpt2np docs` lists them"),
        ("../README", "`gpt2np docs` lists them"),
        ("", "`gpt2np docs` lists them"),
    ],
)
def test_docs_of_no_page(capsys, given, hint):
    assert main(["docs", given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"gpt2np: there is no page {given!r}; {hint}\n"


# -- compare.md ---------------------------------------------------------------------------------------------


def test_the_single_step_that_is_shown(capsys, here):
    code = block("python", "check_step")
    exec(compile(code, "compare.md", "exec"), {})
    state, mistake, hints = capsys.readouterr().out.splitlines()
    assert state.startswith("wrong pos 0, n_embd ")
    assert mistake == "layernorm-ddof1"
    assert hints.startswith("('What do you average over")


def test_the_first_block_says_what_it_prints(capsys, here):
    exec(compile(block("python", "missing-bias"), "compare.md", "exec"), {})
    assert capsys.readouterr().out.startswith("wrong h.1.mlp.out missing-bias\nwrong: ")


def test_the_test_suite_that_is_shown(here, my_gpt2):
    code = block("python", "my_gpt2")
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    namespace = {}
    exec(compile(code, "compare.md", "exec"), namespace)
    namespace["test_every_step_is_within_noise"]()
    my_gpt2.off = 0.5
    with pytest.raises(gpt2np.Gpt2npError, match=r"(?s)^wrong: \d+ sites of 5 tokens.*h\.0\.mlp\.pre"):
        namespace["test_every_step_is_within_noise"]()


@pytest.mark.parametrize(("off", "code"), [(0.0, 0), (0.5, 1)])
def test_the_step_on_github_that_is_shown(capsys, here, my_gpt2, off, code):
    command = re.search(r"run: gpt2np (compare .+)", block("yaml", "gpt2np compare"))[1]
    my_gpt2.off = off
    from safetensors.numpy import save_file

    save_file(my_gpt2.run(IDS), "theirs.safetensors")
    assert main(shlex.split(command)) == code
    assert capsys.readouterr().out.startswith("wrong: " if code else "within noise: ")


@pytest.mark.needs("torch", "transformers")
def test_the_hooks_of_torch_that_are_shown(here, tiny):
    import torch
    from transformers import GPT2LMHeadModel

    namespace = {}
    exec(compile(block("python", "register_forward_hook"), "compare.md", "exec"), namespace)
    theirs = GPT2LMHeadModel.from_pretrained(tiny.checkpoint.folder, dtype=torch.float32).eval()
    namespace["record"](theirs, lambda: theirs(torch.tensor([IDS])), "theirs.safetensors")
    found = gpt2np.compare("theirs.safetensors", tiny, IDS)
    found.check()
    assert len(found.sites) > 30


@pytest.mark.parametrize("program", [pytest.param(p, marks=pytest.mark.needs(p)) for p in ("cc", "node")])
def test_bare_numbers_of_other_languages(here, tiny, program):
    trace = tiny.trace(IDS)
    rows = {name: trace[name].reshape(len(IDS), -1) for name in ("embed", "h.0.ln_1", "h.1.mlp.post")}
    if program == "cc":
        calls = [
            f"static float x{i}[] = {{{', '.join(map(repr, x.ravel().tolist()))}}};"
            for i, x in enumerate(rows.values())
        ]
        body = [f'record("{n}", x{i}, {len(x)}, {x.shape[1]});' for i, (n, x) in enumerate(rows.items())]
        source = [block("c", "record"), *calls, "int main(void) {", *body, "return 0; }"]
        Path("main.c").write_text("\n".join(source))
        subprocess.run(["cc", "main.c", "-o", "main"], check=True)
        subprocess.run(["./main"], check=True)
    else:
        lines = [block("js", "record")]
        for name, x in rows.items():
            lines.append(
                f"record({json.dumps(name)}, new Float32Array({x.ravel().tolist()}), {list(x.shape)});"
            )
        Path("main.js").write_text("\n".join(lines))
        subprocess.run(["node", "main.js"], check=True)
    assert main(["compare", "theirs.bin", "--shapes", "theirs.txt", "--tokens", "36,70,319,84,271"]) == 0
