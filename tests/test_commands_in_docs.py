"""Commands in the sentences and tables of gpt2np/docs: each is run, with values for what it leaves open."""

import shlex
import shutil
from pathlib import Path

import pytest
from support.document_pages import NAMES
from support.pages import commands_in

import gpt2np
from gpt2np.cli import main
from gpt2np.cli.program import build_parser
from gpt2np.lessons.shelf import lesson_called

DOCS = Path(gpt2np.__file__).parent / "docs"
# Pages of source documents have tests of their own; the API reference quotes docstrings.
PAGES = {path.stem: path.read_text("utf-8") for path in sorted(DOCS.glob("*.md"))}
PAGES = {name: page for name, page in PAGES.items() if name not in {*NAMES, "api"}}
PAGES["README"] = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
COMMANDS = sorted({command for page in PAGES.values() for command in commands_in(page)})
NAMED = [command for command in COMMANDS if len(command.split()) == 2 or "VERB" in command]
OF_THE_HUB = [command for command in COMMANDS if "download " in command or "--model gpt2" in command]
RUN = [command for command in COMMANDS if command not in {*NAMED, *OF_THE_HUB}]

PLACES = {
    "TEXT": "Elizabeth was",
    "CLEAN": "Elizabeth was",
    "CORRUPT": "Darcy was",
    "A": " not",
    "B": " a",
    "T": " not",
    "T2": " a",
    "N": "5",
    "...": "6",
    "M": "tiny",
    "NAME": "name",
    "PAGE": "sites",
    "OUT": "written",
    "DIR": "folder",
    "PLACE": "h.1.attn.pattern",
}
FILES = {  # for FILE after an option, or after a verb
    "--trace": "t.safetensors",
    "--generation": "g.safetensors",
    "view --ledger": "g.jsonl",
    "--text-file": "prompts.txt",
    "--text": "prompts.txt",
    "--html": "report.html",
    "--out": "new.safetensors",
    "--ledger": "new.jsonl",
    "compare": "theirs.safetensors",
    "export": "t.safetensors",
    "query": "kv.json",
    "info": "t.safetensors",
    "score": "text.txt",
    "check": "3_attention.py",
}
VERBS = next(action for action in build_parser()._actions if getattr(action, "choices", None)).choices


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny):
    """A folder with the files that the commands read."""
    folder = tmp_path_factory.mktemp("prepared")
    trace = tiny.trace("Elizabeth was")
    trace.save(folder / "t.safetensors")
    trace.save(folder / "theirs.safetensors")
    generate = ["generate", "Elizabeth was", "--max-new-tokens", "3", "--out", f"{folder}/g.safetensors"]
    assert main([*generate, "--ledger", f"{folder}/g.jsonl"]) == 0
    assert main(["kv", "extract", "Elizabeth", "--out", f"{folder}/kv.json"]) == 0
    embed = tiny.trace([36, 70, 319])["embed"]
    embed.tofile(folder / "theirs.bin")
    (folder / "theirs.txt").write_text("embed float32 3 192\n")
    (folder / "text.txt").write_text("Elizabeth was not sorry.", "utf-8")
    (folder / "3_attention.py").write_text(lesson_called("3").solution(), "utf-8")
    for name in ("prompts.txt", "texts.txt"):
        (folder / name).write_text("Elizabeth was\nMr. Darcy was\n", "utf-8")
    return folder


def arguments(command):
    """The arguments of a command as one would type them."""
    words, typed = shlex.split(command)[1:], []
    for i, word in enumerate(words):
        if word == "FILE":
            before = words[i - 1]
            word = FILES.get(f"{words[0]} {before}", FILES.get(before))
        typed.append(PLACES.get(word, word))
    if words[0] == "view":
        typed += ["--no-open", *([] if "--poster" in typed else ["--out", "page.html"])]
    return typed


def test_there_are_some():
    assert len(RUN) > 25
    assert {command.split()[1] for command in COMMANDS} >= set(VERBS)


@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(command, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "here"))
    assert main(arguments(command)) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", NAMED)
def test_a_verb_that_is_named_is_there(command):
    verb = command.split()[1]
    assert verb == "VERB" or verb in VERBS


@pytest.mark.parametrize("command", OF_THE_HUB)
def test_a_command_that_needs_the_hub_parses(command):
    assert callable(build_parser().parse_args(arguments(command)).run)
