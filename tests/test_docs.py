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
from support import needs
from support.pages import blocks_of, prints_what_is_shown, python_of, sessions_of

import gpt2np
from gpt2np.cli import main

DOCS = Path(gpt2np.__file__).parent / "docs"
COMPARE = (DOCS / "compare.md").read_text("utf-8")
PAGES = sorted(DOCS.glob("*.md"))
SESSIONS = [(page, *session) for page in PAGES for session in sessions_of(page.read_text("utf-8"))]
PYTHON = [(page, code) for page in PAGES for code in python_of(page.read_text("utf-8"))]
IDS = [36, 70, 319, 84, 271]


def block(language, word):
    """The block of COMPARE in which a word stands."""
    return next(text for found, text in blocks_of(COMPARE) if found == language and word in text)


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize(("page", "command", "output"), SESSIONS, ids=[command for _, command, _ in SESSIONS])
def test_console_blocks(capsys, here, page, command, output):
    prints_what_is_shown(command, output, page.read_text("utf-8"), capsys)


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{p.stem} {i}" for i, (p, _) in enumerate(PYTHON)])
def test_python_blocks(here, my_gpt2, page, code):
    needed = re.match(r"# needs (\w+)\n", code)
    compiled = compile(code, page.name, "exec")
    if needed is None or (needed[1] in needs.NEEDS and needs.missing([needed[1]]) is None):
        exec(compiled, {})


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


@pytest.mark.parametrize(
    "program", [pytest.param(program, marks=pytest.mark.needs(program)) for program in ("cc", "node")]
)
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
