"""What somebody meets who types a command wrong, or asks for help."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from support.command_line import run

from gpt2np.cli.program import GROUPS, build_parser
from gpt2np.tables import cell_width

# What is typed, what was meant, and whose help is named.
TYPOS = [
    ("trce hi", "trace", "trace"),
    ("tarce hi", "trace", "trace"),
    ("TRACE hi", "trace", "trace"),
    ("traces hi", "trace", "trace"),
    ("generat hi", "generate", "generate"),
    ("genrate hi", "generate", "generate"),
    ("gen hi", None, ""),
    ("tokenise hi", "tokenize", "tokenize"),
    ("tokens hi", "tokenize", "tokenize"),
    ("logit-lens hi", "lens", "lens"),
    ("lense hi", "lens", "lens"),
    ("head hi", "heads", "heads"),
    ("circuit", "circuits", "circuits"),
    ("stat hi", "stats", "stats"),
    ("comapre d.npz", "compare", "compare"),
    ("diff d.npz", "compare", "compare"),
    ("exprot t --to npz", "export", "export"),
    ("veiw hi", "view", "view"),
    ("visualize hi", "view", "view"),
    ("dowload gpt2", "download", "download"),
    ("pull gpt2", "download", "download"),
    ("run hi", "trace", "trace"),
    ("complete hi", "generate", "generate"),
    ("kv extrct hi", "extract", "kv extract"),
    ("kv datasets", "dataset", "kv dataset"),
    ("--versoin", "--version", ""),
    ("--hlep", "--help", ""),
    ("trace hi --tpo 3", "--top", "trace"),
    ("trace hi --tokns 3", "--tokens", "trace"),
    ("trace hi --modle tiny", "--model", "trace"),
    ("trace hi --Keep x", "--keep", "trace"),
    ("trace hi --output x.safetensors", "--out", "trace"),
    ("generate hi --tempreature 1", "--temperature", "generate"),
    ("generate hi --max_new_tokens 3", "--max-new-tokens", "generate"),
    ("generate hi --max-tokens 3", "--max-new-tokens", "generate"),
    ("generate hi --max_length=3", "--max-new-tokens", "generate"),
    ("generate hi --topk 3", "--top-k", "generate"),
    ("generate hi --top_p 0.5", "--top-p", "generate"),
    ("lens hi --position 1", "--pos", "lens"),
    ("export t.safetensors --too npz -o t.npz", "--to", "export"),
    ("compare --promt hi d.npz", "--prompt", "compare"),
    ("kv query --inof f.json", "--info", "kv query"),
    ("view hi --noopen", "--no-open", "view"),
]


@pytest.mark.parametrize(("typed", "meant", "verb"), TYPOS)
def test_a_typo_is_told_what_was_meant_and_whose_help_to_read(capsys, typed, meant, verb):
    code, out, err = run(capsys, *shlex.split(typed))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    if meant:
        assert f"did you mean {meant}?" in err
    assert f"(see: {f'gpt2np {verb}'.strip()} --help)" in err


WORDS_TOO_MANY = [
    ("trace Elizabeth was", "quote the text: gpt2np trace 'Elizabeth was'; two prompts: ", "trace"),
    ("trace A --top 3 B", "gpt2np trace A --against B", "trace"),
    ("tokenize a b c", "quote the text: gpt2np tokenize 'a b c' (", "tokenize"),
    ("heads a b", "quote the text: gpt2np heads 'a b' (", "heads"),
    ("kv extract a b", "quote the text: gpt2np kv extract 'a b'", "kv extract"),
    ("compare right.npz 'some text'", "--prompt 'some text'", "compare"),
    ("capture prompts.txt", "gpt2np capture --prompt-set prompts.txt", "capture"),
    ("capture hello there", "--prompt 'hello there'", "capture"),
    ("patch a b c", "gpt2np patch takes CLEAN CORRUPT; a text of several words stands in quotes", "patch"),
    ("info a b", "gpt2np info takes FILE (", "info"),
    ("lens hi --head 0", "there is no option '--head'; did you mean --heads?", "lens"),
    ("heads hi --head 0", "there is no option '--head' (", "heads"),
    ("circuits --previous", "did you mean --score previous?", "circuits"),
    ("generate hi --verbose", "there is no option '--verbose' (", "generate"),
    ("generate hi -t 0.8", "there is no option -t; did you mean --temperature?", "generate"),
    ("generate hi -n5", "there is no option -n; did you mean --max-new-tokens?", "generate"),
    ("trace hi --show pattern --head 2.0", "the layer stands in the site: --show h.2.attn.pattern", "trace"),
    ("trace hi --show pattern --head x", "'x' is not the number of a head", "trace"),
]


@pytest.mark.parametrize(("typed", "says", "verb"), WORDS_TOO_MANY)
def test_words_that_nothing_takes_are_told_where_they_go(capsys, typed, says, verb):
    code, out, err = run(capsys, *shlex.split(typed))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert f"(see: gpt2np {verb} --help)" in err


def test_no_beginning_of_an_option_is_the_option(capsys):
    for name, parser in VERBS.items():
        for option in parser.options:
            if len(option) > 4 and (begun := option[:-1]) not in parser.options:
                code, _, err = run(capsys, *name.split(), begun)
                assert code == 2
                assert f"there is no option {begun!r}; did you mean --" in err


@pytest.mark.parametrize(
    ("pattern", "n"), [("attn", 9), ("ln_1", 4), ("h.1.attn.q", 1), ("hook_q", 1), ("LOSS", 1)]
)
def test_sites_are_those_of_a_word(capsys, pattern, n):
    _, out, _ = run(capsys, "sites", pattern, "--json")
    assert len(json.loads(out)) == n
    assert run(capsys, "sites", "zzz")[0] == 2


MODELS = [("Tiny", "tiny"), ("tiny2", "tiny"), ("tny", "tiny"), ("gtp2", "gpt2"), ("gpt-2", "gpt2")]
MODELS += [
    ("GPT2", "gpt2"),
    ("gpt2-medum", "gpt2-medium"),
    ("gpt2_xl", "gpt2-xl"),
    ("distil-gpt2", "distilgpt2"),
]
MODELS += [("gpt2-small", "gpt2"), ("small", "gpt2")]


@pytest.mark.parametrize(("typed", "meant"), MODELS)
def test_a_model_that_is_almost_known_is_told_before_the_hub_is_asked(capsys, typed, meant, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1:9")  # an address that nobody has
    code, _, err = run(capsys, "trace", "hi", "--model", typed)
    assert code == 2
    assert f"did you mean {meant}?" in err
    assert "192.0.2.1" not in err


@pytest.mark.parametrize(
    "text", ["Elizabeth was", "Hello, world!", "Once upon a time there was", "日本語 です"]
)
def test_a_text_without_a_verb_is_told_what_to_type(capsys, text):
    code, _, err = run(capsys, text)
    assert code == 2
    assert f"gpt2np trace {shlex.quote(text)}" in err


@pytest.mark.parametrize("text", ["-hello", "-1 is a number", "-- well", "--Well, said he", "-x"])
@pytest.mark.parametrize("verb", ["trace", "tokenize", "lens", "generate"])
def test_a_text_that_begins_with_a_dash_runs_or_is_told_how(capsys, verb, text):
    code, _, err = run(capsys, verb, text)
    assert code == 0 or f"gpt2np {verb} -- {shlex.quote(text)}" in err
    assert run(capsys, verb, *["--max-new-tokens", "1"][: 2 * (verb == "generate")], "--", text)[0] == 0


def test_a_command_without_a_verb_says_what_to_type(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "gpt2np trace 'Elizabeth was'" in err


def verbs():
    """(name, parser) of every verb, those of kv too."""
    for name, parser in build_parser().verbs.items():
        yield name, parser
        yield from ((f"{name} {inner}", p) for inner, p in parser.verbs.items())


VERBS = dict(verbs())


def test_the_help_lists_every_verb_once_in_its_group(capsys, monkeypatch):
    assert sum(map(len, GROUPS.values())) == len(set().union(*GROUPS.values()))
    assert all(parser.prog == f"gpt2np {name}" for name, parser in build_parser().verbs.items())
    for columns in (60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, out, _ = run(capsys, "--help")
        assert code == 0
        assert max(map(cell_width, out.splitlines())) <= columns
        for group, names in GROUPS.items():
            part = out.split(f"\n{group}:\n")[1].split("\n\n")[0]
            assert re.findall(r"^  (\w+)  ", part, re.MULTILINE) == list(names)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_an_example_that_its_own_parser_reads(capsys, name):
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    examples = re.findall(r"^  gpt2np (.*)", out, re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(re.split(" [<>] ", example)[0])
        assert words[: len(name.split())] == name.split()
        assert build_parser().parse_args(words).run


@pytest.mark.parametrize("name", [name for name, parser in VERBS.items() if len(parser.options) > 10])
def test_long_help_has_its_options_in_groups(name):
    groups = {group.title: group._group_actions for group in VERBS[name]._action_groups}
    assert {"model", "output"} <= groups.keys()
    assert max(map(len, groups.values())) <= 16


@pytest.mark.parametrize(
    "words", ["--help", "--version", "", "trce", "trace --help", "completion bash", "--verson"]
)
def test_numpy_is_not_imported_where_nothing_is_computed(words):
    """So that these answer at once; as a process, in which nothing has imported it before."""
    watch = "import sys\nfrom gpt2np.cli import main\n"
    watch += "try: main(sys.argv[1:])\nfinally: print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", watch, *words.split()], capture_output=True, text=True)
    assert done.stdout.endswith("False\n")
    assert len(done.stdout) > 6 or done.stderr.startswith("gpt2np: ")
