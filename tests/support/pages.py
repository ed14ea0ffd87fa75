"""Pages that show what is typed and what is printed: their blocks, run again and held against the page."""

import re
import shlex

import pytest

from gpt2np.cli import main

NUMBER = re.compile(r"-?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")
HOME = "https://github.com/gpt2np/gpt2np"
IN_REPOSITORY = rf"{HOME}/(blob|tree)/main/|https://raw\.githubusercontent\.com/gpt2np/gpt2np/main/"
NOISE = re.compile(r"noise explains \S+ \S+ times")  # rounding itself, which every machine has its own of


def blocks_of(page):
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def sessions_of(page):
    """For every console block the (command, what it prints) of each `$ gpt2np ...` in it."""
    found = []
    for language, text in blocks_of(page):
        parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:] if language == "console" else []
        session = [part.split("\n", 1) for part in parts if part.startswith("gpt2np")]
        found += [session] if session else []
    return found


def python_of(page):
    """The blocks of Python."""
    return [text for language, text in blocks_of(page) if language == "python"]


def commands_in(page):
    """Every `gpt2np ...` that stands in a sentence or a table, without those that only name a verb's kin."""
    without_blocks = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`(gpt2np [^`]+)`", without_blocks.replace("\n", " ").replace(r"\|", "|"))
    return sorted(set(found))


def links_of(page):
    """The targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))


def anchors_of(page):
    """What `#...` may name in a page: its headings, as GitHub spells them."""
    anchors = []
    without_blocks = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", without_blocks, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = sum(re.sub(r"-\d+$", "", a) == anchor for a in anchors)
        anchors.append(f"{anchor}-{before}" if before else anchor)
    return anchors


def broken_links(path, page, root):
    """Links that lead to no file or heading, of a page at `path` in the repository at `root`.

    Absolute links into this repository are followed in it; those elsewhere must be https.
    """
    broken = []
    for link in links_of(page):
        target, _, anchor = link.partition("#")
        if here := re.match(IN_REPOSITORY, target):
            file = root / target[here.end() :]
        elif target.startswith(HOME):
            continue  # the front page, and its lists of issues
        else:
            file = path.parent / target if target else path
            if target.startswith("https://"):
                continue
        if not file.exists() or (anchor and anchor not in anchors_of(file.read_text("utf-8"))):
            broken.append(link)
    return broken


def prints_what_is_shown(command, output, page, capsys):
    """Run a command line; it prints the same text, with numbers equal to what other rounding may change.

    A line `...` stands for any number of lines that a page leaves out.
    """
    if "theirs.safetensors" in command:  # a block of Python before it has written it
        code = next(code for code in python_of(page) if "theirs.safetensors" in code)
        exec(compile(code, "page", "exec"), {})
        capsys.readouterr()
    assert main(shlex.split(command)[1:]) == (1 if output.startswith("wrong") else 0)
    printed, output = NOISE.sub("noise", capsys.readouterr().out), NOISE.sub("noise", output)
    before, cut, after = output.partition("...\n")
    if cut:
        lines, end = printed.splitlines(keepends=True), after.count("\n")
        assert len(lines) > output.count("\n") - 1, "nothing is left out"
        printed = "".join([*lines[: before.count("\n")], *lines[len(lines) - end :]])
        output = before + after
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", output).split()
    found, shown = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (printed, output))
    assert found == pytest.approx(shown, rel=2e-3, abs=2e-2)
