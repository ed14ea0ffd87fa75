"""The README's tables of where each section of the source documents is: whatever they name exists."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from gpt2np.cli import build_parser

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
TABLES = README[README.index("The formats come from three documents") : README.index("## How exact")]
COMMANDS = sorted(set(re.findall(r"`(gpt2np [^`]+)`", TABLES)))
OBJECTS = sorted(set(re.findall(r"`(gpt2np\.[\w.]+)", TABLES)))
SECTIONS = """
data flow|summary table|attention, MLP, residual|memory cost|scaling with length|tier 1|tier 2|tier 3|
hook-based|
TypeScript interface|what each extraction enables|layer internals|raw residual|prompt sets|prompt lengths|
working with captured data|output format|coordinates|query tool|dataset generator|model variants
""".replace("\n", "").split("|")


def verb_parser(words):
    """The parser of a verb, or of a verb's verb, and the words that it is given."""
    parser = build_parser()
    while True:
        choices = next((a.choices for a in parser._actions if isinstance(a.choices, dict)), None)
        if choices is None:
            return parser, words
        parser, words = choices[words[0]], words[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command):
    parser, words = verb_parser(shlex.split(command)[1:])
    known = {option for action in parser._actions for option in action.option_strings}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_exist(name):
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute)


def test_every_section_has_a_row():
    first_cells = " ".join(line.split("|")[1] for line in TABLES.splitlines() if line.startswith("| "))
    assert [section for section in SECTIONS if section not in first_cells] == []
    assert len(COMMANDS) > 10
