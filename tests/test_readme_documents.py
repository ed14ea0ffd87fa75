"""The README's tables of where each section of the source documents is: whatever they name exists."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from gpt2np.cli.program import build_parser
from gpt2np.kv.queries import KV

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
TABLES = README[README.index("The formats come from three documents") :].split("\n## ")[0]
COMMANDS = sorted(set(re.findall(r"`(gpt2np [^`]+)`", TABLES)))
OBJECTS = sorted(set(re.findall(r"`(gpt2np\.[\w.]+)", TABLES)))
# The documents' own headings of the second level, but for references and licences.
SECTIONS = {
    "GPT-2 complete data extraction guide": [
        "Complete Data Flow Visualization",
        "Extractable Tensors Per Layer",
        "Complete Extraction Summary Table",
        "Memory Cost Analysis",
        "Extraction Tiers",
        "Python Hook-Based Extraction",
        "TypeScript Interface for Full Extraction",
        "What Each Extraction Enables",
    ],
    "Data format reference (captures)": [
        "Model Architecture",
        "Captured Data Formats",
        "Key Differences",
        "Working with Captured Data",
        "Capture Commands",
        "Prompt Sets",
    ],
    "GPT-2 KV cache extractor": [
        "Features",
        "Project Structure",
        "Installation",
        "Quick Start",
        "Command Line Tools",
        "Output Format",
        "Coordinate System",
        "Examples",
        "Model Variants",
        "Performance Notes",
        "Documentation",
    ],
}


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


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("document", SECTIONS)
def test_every_section_has_a_row(document):
    table = TABLES[TABLES.index(f"| {document} | here |") :].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = {name.strip() for cell in first_cells for name in re.split(r"[;:,(]", cell)}
    assert [section for section in SECTIONS[document] if section not in named] == []


def test_the_tables_name_commands_and_objects():
    assert len(COMMANDS) > 10
    assert len(OBJECTS) >= 4


def test_the_size_of_a_token(tiny):
    """The erratum's number: keys and values of all layers in float32."""
    layers, width = 12, 768
    assert f"{layers * 2 * width * 4:,} bytes a token" in TABLES
    kv = KV.of(tiny.trace("Hello", keep="attn.qkv"))
    config = tiny.config
    assert kv.nbytes == len(kv.tokens) * config.n_layer * 2 * config.n_embd * 4
