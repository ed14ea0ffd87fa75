"""What reaches a terminal: text, in whatever encoding it has, and no control character of a file."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import command_line

import gpt2np
from gpt2np.checkpoints.checkpoint import shipped_folder
from gpt2np.cli import main, terminal
from gpt2np.cli.terminal import Screen, moving_bars, screens, shown
from gpt2np.tables import stream_of_bars, strict_json

TEXT = 'Mr. Darcy said "naïve" — 東京 \U0001f600'
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # what must not reach a terminal

# Of terminals and pipes in use somewhere, and some of the odd ones that Python has.
ENCODINGS = """ascii utf-8 utf-8-sig utf-16 utf-16-le utf-16-be utf-32 utf-7 latin-1 iso8859-2 iso8859-5
    iso8859-15 cp437 cp850 cp852 cp866 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp874 cp932
    cp936 cp949 cp950 shift_jis euc_jp euc_kr gb2312 gbk gb18030 big5 hz iso2022_jp koi8-r koi8-u mac_roman
    ptcp154 tis-620 cp037 cp500""".split()
VERBS = [
    ["tokenize", TEXT],
    ["tokenize", TEXT, "--json"],
    ["generate", TEXT, "--max-new-tokens", "3"],
    ["generate", TEXT, "--max-new-tokens", "3", "--json"],
    ["trace", TEXT, "--top", "2"],
    ["lens", TEXT],
    ["sites"],
    ["plan", "7"],
    ["info"],
    ["capture", "--list"],
]


def run_in(encoding, argv, errors="strict"):
    """(exit code, stdout, stderr) of a command whose terminal has this encoding."""
    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline="\n") for _ in range(2)
    ]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = main(argv)
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


@pytest.fixture(scope="module")
def expected():
    """What each verb prints where every character can be shown."""
    return {" ".join(argv): run_in("utf-8", argv) for argv in VERBS}


@pytest.mark.every(3)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_console_shows_every_verb(encoding, expected):
    place = ENCODINGS.index(encoding)
    for argv in VERBS if encoding in ("ascii", "cp1252") else VERBS[place % 5 :: 5]:
        code, out, err = run_in(encoding, argv)
        wanted_code, wanted, _ = expected[" ".join(argv)]
        assert code == wanted_code == 0
        assert not RAW.search(out + err)
        if "--json" in argv:
            assert json.loads(out.removeprefix("\ufeff")) == json.loads(wanted)
            continue
        lines, wanted_lines = (text.removeprefix("\ufeff").split("\n") for text in (out, wanted))
        assert len(lines) == len(wanted_lines)
        for line, whole in zip(lines, wanted_lines, strict=True):
            escaped = "".join(c if can_show(encoding, c) else shown(c, "ascii") for c in whole)
            if encoding in STATELESS:  # where tables are as wide as before
                assert line.split() == escaped.encode(encoding).decode(encoding).split()


STATELESS = {*ENCODINGS} - {"utf-7", "hz", "iso2022_jp", "utf-8-sig", "utf-16", "utf-32"}


def can_show(encoding, character):
    try:
        return bool(character.encode(encoding))
    except UnicodeError:
        return False


def test_a_console_of_ascii_has_the_escapes_of_backslashreplace():
    code, out, _ = run_in("ascii", ["generate", TEXT, "--max-new-tokens", "1"])
    assert code == 0
    assert out.startswith('Mr. Darcy said "na\\xefve" \\u2014 \\u6771\\u4eac \\U0001f600')


@settings(max_examples=50)
@given(st.text(), st.sampled_from([e for e in ENCODINGS if e not in ("utf-7", "hz", "iso2022_jp")]))
def test_shown_is_safe_for_any_text(text, encoding):
    safe = shown(text, encoding)
    safe.encode(encoding)
    assert not RAW.search(safe)
    assert shown(safe, encoding) == safe
    if text.isprintable() and encoding == "utf-8":
        assert safe == text


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_json_is_read_back_exactly(text):
    printed = strict_json({text: [text, 1.5]})
    assert printed.isascii()
    assert not RAW.search(printed)
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads(printed) == {paired: [paired, 1.5]}
    assert shown(printed, "ascii") == printed


HOSTILE = "\x1b[31mred\x07\x1b]0;title\x07\r\x9b2J\x7f\u202egpj.exe\u2066"


def hostile_trace(folder):
    """A saved trace that says of itself what a terminal should not be told."""
    trace = gpt2np.load("tiny").trace("Elizabeth was")
    trace.metadata |= {"model": HOSTILE, "prompt": HOSTILE, "tokens": [HOSTILE, "\x1b[2J", "c"]}
    trace.save(folder / "t.safetensors")
    return str(folder / "t.safetensors")


@pytest.mark.parametrize(
    "argv",
    [
        ["stats", "--trace", "FILE"],
        ["lens", "--trace", "FILE"],
        ["heads", "--trace", "FILE"],
        ["kv", "query", "FILE", "--info", "--token-search", "red"],
        ["kv", "query", "FILE", "--coordinate", "0", "0", "0"],
        ["export", "FILE", "--to", "json", "-o", f"{HOSTILE}.json"],
        ["view", "--trace", "FILE", "--no-open", "--out", f"{HOSTILE}.html"],
        ["trace", HOSTILE],
        ["generate", HOSTILE, "--max-new-tokens", "2"],
        ["score", HOSTILE],
        ["tokenize", HOSTILE],
        ["trace", "x", "--model", f"./{HOSTILE}"],
        ["trace", "x", "--keep", HOSTILE],
        ["trace", "x", f"--{HOSTILE}"],
        ["capture", "--prompt-set", HOSTILE, "--experiment", "x"],
        ["capture", "--prompt", "x", "--experiment", HOSTILE],
        [HOSTILE],
    ],
    ids=lambda argv: re.sub(r"[^\w .-]", "", " ".join(argv[:3])),
)
def test_nothing_of_a_file_or_argument_is_raw(capsys, monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    file = hostile_trace(tmp_path)
    for more in ([], ["--json"]):
        code, out, err = command_line.run(capsys, *[file if word == "FILE" else word for word in argv], *more)
        assert code in (0, 2)
        assert "Traceback" not in err
        assert not RAW.search(out + err)
        if more and code == 0:
            json.loads(out)


def test_tokens_are_escaped_as_they_are_printed(capsys, tmp_path):
    """Whatever bytes a vocabulary has, one token at a time."""
    model = gpt2np.load("tiny")
    ids = [i for i in range(256) if RAW.search(model.tokenizer.decode([i]))][:20]
    assert len(ids) == 20
    code, out, _ = command_line.run(
        capsys, "generate", "--tokens", ",".join(map(str, ids)), "--max-new-tokens", "1"
    )
    assert code == 0
    assert not RAW.search(out)
    assert out.startswith("".join(shown(c, "utf-8") for c in model.decode(ids)))


def test_a_model_of_such_a_name(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shipped_folder(), "m\x1b[31m\nred")
    for argv in (["info"], ["trace", "x"], ["generate", "x", "--max-new-tokens", "1"]):
        code, out, err = command_line.run(capsys, *argv, "--model", "m\x1b[31m\nred")
        assert code == 0
        assert not RAW.search(out + err)


def test_files_of_a_folder_whose_name_is_not_utf_8(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"m\xe9")
    shutil.copytree(shipped_folder(), name)
    Path(os.fsdecode(b"out\xe9")).mkdir()
    for argv, out in (
        (["view", "a b", "--no-open"], "p.html"),
        (["view", "a b", "--no-open"], os.fsdecode(b"out\xe9/p.html")),
        (["generate", "a", "--max-new-tokens", "2"], "g.safetensors"),
        (["generate", "a", "--max-new-tokens", "2", "--json"], os.fsdecode(b"out\xe9/g.safetensors")),
        (["kv", "extract", "a b", "--json"], "kv.json"),
        (["trace", "a b", "--json"], "t.safetensors"),
    ):
        code, printed, err = command_line.run(capsys, *argv, "--model", name, "--out", out)
        assert code == 0, err
        assert Path(out).is_file()
        printed.encode()
        err.encode()
    assert gpt2np.Trace.open("g.safetensors").metadata["model"] == "m\\udce9"
    code, _, err = command_line.run(
        capsys, "capture", "--prompt", "a", "--max-new-tokens", "1", "--experiment", "x", "--model", name
    )
    assert code == 0, err


# -- no stdout, no stderr, no terminal ------------------------------------------------------------


def shell(line, **environment):
    """(exit code, stdout, stderr) of a line of sh in which `gpt2np` is a command."""
    script = f'gpt2np() {{ "{sys.executable}" -m gpt2np "$@"; }}; {line}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, env={**os.environ, **environment})
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("gpt2np sites >&-", 0),
        ("gpt2np trace x 2>&-", 0),
        ("gpt2np trace x >&- 2>&- <&-", 0),
        ("gpt2np trace x --out /dev/null/FILE 2>&-", 2),
        ("gpt2np sites >/dev/full", 2),
        ("gpt2np sites 2>/dev/full", 0),
        ("gpt2np sites >/dev/full 2>/dev/full", 2),
        ("gpt2np sites | head -1", 0),
        ("PYTHONUNBUFFERED=1 gpt2np generate x --max-new-tokens 30 | head -c 1", 0),
        ("gpt2np --help >&-", 0),
        ("gpt2np nonsense 2>&-", 2),
    ],
)
def test_streams_that_are_closed_or_full(line, wanted):
    code, _, err = shell(line)
    assert code == wanted
    assert "Traceback" not in err
    assert "Exception" not in err
    assert len(err.splitlines()) <= 2


def test_a_file_is_not_taken_for_a_closed_stdout(tmp_path):
    """The first file that is opened gets the lowest free number, which would be that of stdout."""
    out = tmp_path / "t.safetensors"
    assert shell(f"gpt2np trace x --out {out} >&- <&-")[0] == 0
    assert gpt2np.Trace.open(out).token_ids


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "utf-16"},
    ],
    ids=str,
)
def test_the_encoding_of_a_whole_process(environment):
    code, out, err = shell('gpt2np tokenize "Mr. Darcy"', **environment)
    assert code == 0, err
    assert "Darcy" in out.replace("\0", "")
    assert "Traceback" not in err


WINDOWED = """
import sys
sys.stdin = sys.stdout = sys.stderr = None
from gpt2np.cli import main, terminal
codes = [main(["sites"]), main(["trace", "x"]), main(["trace", "x", "--keep", "nonsense"])]
assert sys.stdout is sys.stderr is None
sys.exit(0 if codes == [0, 0, 2] else 1)
"""


def test_without_any_stream():
    """As under pythonw and in services."""
    assert subprocess.run([sys.executable, "-c", WINDOWED]).returncode == 0


class Bare:
    """A stream as notebooks have: nothing but write."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("make", [io.StringIO, Bare])
def test_streams_of_somebody_elses(make):
    out, err = make(), make()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["tokenize", TEXT]) == 0
        assert sys.stdout is out
        assert sys.stderr is err
    printed = out.text if make is Bare else out.getvalue()
    assert "|Mr|" in printed
    assert "\x1b" not in printed


def test_a_closed_stream_object():
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        assert main(["sites"]) == 0


def test_streams_come_back_after_an_error(capsys):
    before = sys.stdout, sys.stderr
    for argv in (["trace", "x", "--keep", "nonsense"], ["nonsense"], ["--help"], ["sites"]):
        with contextlib.suppress(SystemExit):
            main(argv)
        assert (sys.stdout, sys.stderr) == before


def test_a_bar_moves_and_nothing_else_does(monkeypatch):
    raw = io.StringIO()
    monkeypatch.setattr(sys, "stderr", raw)
    with screens():
        print("\rtext\x1b[A", file=sys.stderr)
        print("\r 1/2\x1b[A\x1b[2J", file=stream_of_bars())
        with moving_bars():
            print("\r 2/2", file=sys.stderr)
        print("\r", file=sys.stderr)
    assert raw.getvalue() == "\\rtext\\x1b[A\n\r 1/2\x1b[A\\x1b[2J\n\r 2/2\n\\r\n"
    assert stream_of_bars() is raw


def test_a_screen_hands_on_what_it_is_asked():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    screen = Screen(stream)
    assert (screen.encoding, screen.isatty(), screen.writable()) == ("cp1252", False, True)
    assert Screen(None).write("text") == 4
    assert not Screen(None).isatty()
    with pytest.raises(OSError, match="fileno"):
        Screen(None).fileno()


# -- Ctrl-C ---------------------------------------------------------------------------------------

DURING_IMPORT = """
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
real = builtins.__import__
def interrupted(name, *rest):
    if name == sys.argv[1]:
        sys.argv[1] = ""
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest)
builtins.__import__ = interrupted
from gpt2np.cli import main  # as the console script does
sys.exit(main(["sites"]))
"""


@pytest.mark.parametrize("module", ["argparse", "numpy", "datetime", "gpt2np.cli.parser"])
def test_ctrl_c_during_the_imports_is_quiet(module):
    command = [sys.executable, "-c", DURING_IMPORT, module]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_in_the_making_of_a_class(monkeypatch):
    def interrupted(argv, ready):
        class Name:
            def __set_name__(self, owner, name):
                raise KeyboardInterrupt

        type("Made", (), {"name": Name()})

    monkeypatch.setattr("gpt2np.cli.program.main", interrupted)
    assert gpt2np.cli.main(["sites"]) == 130
    monkeypatch.setattr("gpt2np.cli.program.main", lambda argv, ready: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gpt2np.cli.main(["sites"])


def test_ctrl_c_at_some_moment_of_the_start():
    """Behind the start of Python itself, whose own imports are loud."""
    argv = ["generate", "x", "--max-new-tokens", "5000", "--on-overflow", "slide"]
    code = f"import os; os.write(1, b'started'); import sys; sys.argv[1:] = {argv}; "
    code += "import runpy; runpy.run_module('gpt2np', run_name='__main__')"
    lost = 0
    for after in (0, 0.1, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout.read(7) == b"started"
        time.sleep(after + 0.05)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:  # it fell into a callback of a C library, where Python drops it
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
            lost += 1
            continue
        assert b"Traceback" not in err
        assert process.returncode == 130
    assert lost < 2


# -- numbers that nobody means --------------------------------------------------------------------

DIGITS = "9" * 5000  # more than Python takes for a number


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "x", "--eos", DIGITS],
        ["generate", "x", "--stop-tokens", DIGITS],
        ["generate", "x", "--max-new-tokens", DIGITS],
        ["generate", "x", "--seed", DIGITS],
        ["generate", "x", "--top-k", DIGITS],
        ["trace", "x", "--top", DIGITS],
        ["trace", "--tokens", DIGITS],
        ["trace", "x", "--show", "wte", "--pos", DIGITS],
        ["trace", "x", "--threads", DIGITS],
        ["plan", DIGITS],
        ["lens", "x", "--token", DIGITS],
        ["lens", "x", "--pos", DIGITS],
        ["heads", "x", "--token", DIGITS],
        ["heads", "x", "--pos", DIGITS],
        ["circuits", "--head", DIGITS],
        ["circuits", "--neuron", DIGITS],
        ["circuits", "--composition", DIGITS],
        ["stats", "x", "--step", DIGITS],
        ["score", "x", "--stride", DIGITS],
        ["tokenize", "--tokens", DIGITS],
        ["capture", "--prompt", "x", "--experiment", "e", "--layer-internals", DIGITS],
        ["capture", "--prompt", "x", "--experiment", "e", "--layer-internals", "-1"],
        ["capture", "--prompt", "x", "--experiment", "e", "--seed", DIGITS],
        ["kv", "query", "t.safetensors", "--coordinate", "0", DIGITS, "0"],
        ["kv", "query", "t.safetensors", "--layer-summary", DIGITS],
        ["kv", "dataset", "--random", DIGITS, "--output-dir", "d"],
        ["kv", "dataset", "--seed", DIGITS, "--random", "1", "--output-dir", "d"],
        ["patch", "x", "y", "--answer", DIGITS],
        ["fixture", "--seed", DIGITS, "-o", "f"],
        ["export", "x", "--to", "llm.c", "-o", "f", "--target", DIGITS],
        ["compare", "t.safetensors", "--tokens", DIGITS],
        ["compare", "t.safetensors", "--prefill", DIGITS],
        ["compare", "t.safetensors", "--rtol", DIGITS],
    ],
    ids=lambda argv: " ".join(word for word in argv if word != DIGITS),
)
def test_five_thousand_digits_are_one_line(capsys, monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    if "t.safetensors" in argv:
        gpt2np.load("tiny").trace("x").save("t.safetensors")
    code, out, err = command_line.run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("gpt2np")
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err


# -- what a terminal is told while a command runs -----------------------------------------------------


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def on_a_terminal(*argv):
    """(exit code, stdout, stderr) of a command whose stderr is a terminal."""
    out, err = io.StringIO(), Tty()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["trace", "x"], True),
        (["generate", "x", "--max-new-tokens", "1"], True),
        (["view", "x", "--no-open", "--out", "page.html"], True),
        (["lens", "x"], False),
        (["tokenize", "x"], False),
        (["stats", "x"], False),
    ],
)
def test_the_model_is_named_on_a_terminal_alone(capsys, monkeypatch, tmp_path, argv, hint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    code, _, err = on_a_terminal(*argv)
    assert code == 0
    assert err.count("gpt2np: model tiny, 2,222,208 parameters") == 1
    assert ("GPT-2 small: --model gpt2" in err) == hint
    assert "model" not in command_line.run(capsys, *argv, *["--force"][: argv[0] == "view"])[2]


def lines_over(err):
    """What a terminal was shown in a line that the next one took the place of."""
    return [part.strip() for part in err.split("\r") if part.strip()]


@pytest.mark.parametrize("verb", ["trace x", "circuits x", "view x --no-open", "lens x"])
def test_a_command_that_takes_long_says_what_it_does(monkeypatch, tmp_path, verb):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "SECOND", 0.001)
    code, out, err = on_a_terminal(*verb.split())
    assert code == 0
    shown = [line for line in lines_over(err) if re.fullmatch(r"gpt2np: [a-z ]+, \d+ s", line)]
    assert "gpt2np: running tiny, 0 s" in shown
    assert " s\r" not in out
    assert not err.endswith(" s")  # nothing stays on the last line
    assert not re.search(r" s(?!\r| *\Z)gpt2np:", err)  # a note has a line of its own


def test_it_says_nothing_within_a_second_nor_into_a_pipe(capsys, monkeypatch):
    assert "\r" not in on_a_terminal("tokenize", "x")[2]
    monkeypatch.setattr(terminal, "SECOND", 0.001)
    assert command_line.run(capsys, "trace", "x")[2] == ""


def test_the_line_goes_when_a_text_comes(monkeypatch):
    monkeypatch.setattr(terminal, "SECOND", 0.01)
    raw, out = Tty(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(raw),
        screens(),
        terminal.ticking("works"),
    ):
        time.sleep(0.1)
        assert "gpt2np: works, 0 s" in raw.getvalue()
        terminal.tell("a note")
        assert re.search(r"\r +\rgpt2np: a note\n$", raw.getvalue())
        terminal.doing("something else")
        time.sleep(0.1)
        assert "gpt2np: something else, 0 s" in raw.getvalue()
        print("result")
        before = raw.getvalue()
        assert re.search(r"\r +\r$", before)
        time.sleep(0.1)
        assert raw.getvalue() == before  # nothing breaks into a line of text
    assert raw.getvalue() == before
    assert out.getvalue() == "result\n"
