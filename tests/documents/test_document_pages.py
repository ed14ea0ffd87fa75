"""The pages about the source documents: complete, up to date, and whatever they name exists."""

import importlib
import re
import shlex

import pytest
from support.document_pages import NAMES, page_of, rendered, steps_of

from gpt2np.cli.program import build_parser

PAGES = {name: page_of(name).read_text("utf-8") for name in NAMES}
CODE = [
    (name, code) for name, page in PAGES.items() for code in sorted(set(re.findall(r"`([^`\n]+)`", page)))
]
COMMANDS = [(name, code.replace(r"\|", "|")) for name, code in CODE if code.startswith("gpt2np ")]
OBJECTS = [(name, found[0]) for name, code in CODE if (found := re.match(r"gpt2np(\.\w+)+", code))]


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_those_of_the_steps(name):
    assert rendered(name, PAGES[name]) == PAGES[name], "write them: python tests/support/document_pages.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_heading_of_the_document_and_every_file_that_it_names(name):
    module = steps_of(name)
    assert [text for text in [*module.HEADINGS, *module.FILES] if text not in PAGES[name]] == []


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_commands_parse(name, command):
    words = shlex.split(command.replace("$file", "file"), comments=True)[1:]
    assert callable(build_parser().parse_args(words).run)


@pytest.mark.parametrize(("name", "found"), OBJECTS)
def test_objects_exist(name, found):
    for n in range(found.count("."), -1, -1):  # a module, or a name in one
        module, *attributes = [".".join(found.split(".")[: n + 1]), *found.split(".")[n + 1 :]]
        try:
            thing = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for attribute in attributes:
            thing = getattr(thing, attribute)
        return
    pytest.fail(f"there is no {found}")
