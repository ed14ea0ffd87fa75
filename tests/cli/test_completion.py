"""`gpt2np completion`: what it prints is what the parser has now, and the real shells complete with it."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest
from support.command_line import run

from gpt2np.cli.verbs.completion import FOLDER, SHELLS

# What has been typed, and some of what Tab offers.
CASES = [
    ("gpt2np tra", ["trace"]),
    ("gpt2np ci", ["circuits"]),
    ("gpt2np kv ", ["extract", "query", "dataset"]),
    ("gpt2np trace --sho", ["--show"]),
    ("gpt2np trace hi --show attn.p", ["attn.pattern"]),
    ("gpt2np trace hi --keep h.3.mlp.po", ["h.3.mlp.post"]),
    ("gpt2np trace hi --model gpt2 --keep h.11.mlp.po", ["h.11.mlp.post"]),
    ("gpt2np docs fi", ["files", "first_hour"]),
    ("gpt2np circuits --norms ln", ["ln_f"]),
    ("gpt2np sites attn.p", ["attn.pattern"]),
    ("gpt2np patch --over resid_", ["resid_mid", "resid_post"]),
    ("gpt2np trace --model ti", ["tiny"]),
    ("gpt2np plan --model gpt2-", ["gpt2-medium", "gpt2-large", "gpt2-xl"]),
    ("gpt2np export --to ", ["npz", "csv", "llm.c"]),
    ("gpt2np trace --dtype ", ["float32", "float64"]),
    ("gpt2np generate hi --max", ["--max-new-tokens"]),
    ("gpt2np kv query MYFI", ["MYFILE.json"]),
    ("gpt2np info MYFI", ["MYFILE.json"]),
    ("gpt2np trace --trace MYFI", ["MYFILE.json"]),
    ("gpt2np compare MYFI", ["MYFILE.json"]),
    ("gpt2np kv dataset --output-dir MYFO", ["MYFOLDER"]),
    ("gpt2np capture --prompt-set adv", ["adversarial"]),
    ("gpt2np completion ", ["bash", "zsh", "fish"]),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a file and a folder to complete."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MYFILE.json").touch()
    (tmp_path / "MYFOLDER").mkdir()
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_it_prints_the_file_of_the_shell(capsys, shell):
    code, out, err = run(capsys, "completion", shell)
    assert (code, err) == (0, "")
    assert out == (FOLDER / f"gpt2np.{shell}").read_text("utf-8")


@pytest.mark.parametrize("argv", [["completion"], ["completion", "tcsh"]])
def test_of_no_shell_it_says_which_there_are(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert "bash, zsh, fish" in err or "SHELL" in err


@pytest.mark.needs("shtab")
@pytest.mark.parametrize("shell", SHELLS)
def test_the_files_are_those_of_the_parser(shell):
    from support.make_completions import completions

    fresh = completions(shell) == (FOLDER / f"gpt2np.{shell}").read_text("utf-8")
    assert fresh, "run python tests/support/make_completions.py"


BASH = """
source {file}
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
read -ra COMP_WORDS <<< "$COMP_LINE"
[[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_gpt2np
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.needs("bash")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash_completes(here, line, expected):
    script = BASH.format(file=FOLDER / "gpt2np.bash", line=line)
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    offered = done.stdout.split()
    assert set(expected) <= set(offered)
    assert all(word.startswith(line.rpartition(" ")[2]) for word in offered)


@pytest.mark.needs("fish")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish_completes(here, line, expected):
    script = f"source {FOLDER / 'gpt2np.fish'}; complete -C {line!r}"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
    offered = {row.split("\t")[0].rstrip("/") for row in done.stdout.splitlines()}
    assert set(expected) <= offered


@pytest.mark.needs("zsh")
@pytest.mark.parametrize(("line", "expected"), CASES[:14:3])
def test_zsh_completes(here, line, expected):
    """Typed into a terminal: zsh has no other way to say what it would offer."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "dumb", "PS1": "ready> "}
        os.execvp("zsh", ["zsh", "-f", "-i"])
    try:
        begin = "PS1='ready> '; autoload -Uz compinit; compinit -D -u; LISTMAX=999"
        send(
            terminal,
            f"{begin}; source {FOLDER / 'gpt2np.zsh'}; compdef _shtab_gpt2np gpt2np; echo READY$((1+1))\n",
        )
        read_until(terminal, "READY2")
        send(terminal, line + "\t")
        shown = read_until(terminal, *expected)
        assert all(word in shown for word in expected)
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def send(terminal, text):
    os.write(terminal, text.encode())


def read_until(terminal, *words):
    """What a terminal shows, until it shows all of these or nothing more comes."""
    shown, end = "", time.monotonic() + 20
    while time.monotonic() < end and not all(word in shown for word in words):
        if select.select([terminal], [], [], 0.2)[0]:
            shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(terminal, 65536).decode(errors="replace"))
    return shown


def test_it_names_no_file_of_this_machine():
    for shell in SHELLS:
        text = (FOLDER / f"gpt2np.{shell}").read_text("utf-8")
        assert str(Path.home()) not in text
        assert "/work" not in text


@pytest.mark.needs("bash")
@pytest.mark.parametrize(
    ("line", "refused"), [("gpt2np trace hi --show h.", "h.4."), ("gpt2np patch --over ", "resid_pre")]
)
def test_bash_does_not_offer_what_is_refused(here, monkeypatch, line, refused):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    script = BASH.format(file=FOLDER / "gpt2np.bash", line=line)
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()
    assert not [word for word in done.stdout.split() if word.startswith(refused)]


@pytest.mark.needs("shtab")
def test_everything_that_patch_over_offers_is_swept(tiny):
    from support.make_completions import WORDS

    from gpt2np.analysis.patching import sweep

    one, other = tiny.trace(["Elizabeth was", "Elizabeth had"])
    for name in WORDS["swept"]:
        assert sweep(one, other, lambda logits: float(logits[0]), over=name).array.size


def test_each_shell_is_told_the_folder_that_the_help_names(capsys):
    _, shown, _ = run(capsys, "completion", "--help")
    for shell in SHELLS:
        text = (FOLDER / f"gpt2np.{shell}").read_text("utf-8")
        (folder,) = re.findall(r"mkdir -p (\S+)", text)
        assert folder in shown
        assert f"gpt2np completion {shell} > {folder}/" in text
