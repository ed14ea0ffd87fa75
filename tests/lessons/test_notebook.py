"""The cells of a percent file are those that Jupytext reads, and the notebook is valid and runs."""

import json
import re
from pathlib import Path

import pytest
from support import needs

from gpt2np.lessons.notebook import notebook_of
from gpt2np.lessons.percent_file import Cell, cells_of
from gpt2np.lessons.shelf import lessons

SAMPLE = Path(__file__).parent / "sample_lesson.py"
SOURCES = [SAMPLE, *(lesson.path for lesson in lessons())]

FILES = [
    ("", []),
    ("x = 1\n", [("code", "x = 1", 1)]),
    ("# %%\nx = 1", [("code", "x = 1", 2)]),
    ("#%%\nx = 1\n\n\n", [("code", "x = 1", 2)]),
    ("# %%\n\n\nx = 1\n", [("code", "\n\nx = 1", 2)]),  # a function begins after two blank lines
    ("# %%\r\nx = 1\r\n# %% [markdown]\r\n# text\r\n", [("code", "x = 1", 2), ("markdown", "text", 4)]),
    ("# %% a title\nx = 1\n", [("code", "x = 1", 2)]),
    ("# %% [markdown]\n# # A\n#\n# b\n#c\n", [("markdown", "# A\n\nb\nc", 2)]),
    ("# %% a title [markdown]\n# a\n", [("markdown", "a", 2)]),
    ("# %% [md]\n# a\n", [("markdown", "a", 2)]),
    ('# %% [markdown] tags=["a"]\n#  two spaces\n', [("markdown", " two spaces", 2)]),
    ("# %%\nx = '# %%'\n# %%%\ny = 1\n", [("code", "x = '# %%'\n# %%%\ny = 1", 2)]),
    ("# %%\nx = 1\n# %%\n# %%\n\ny = 2\n", [("code", "x = 1", 2), ("code", "\ny = 2", 5)]),
    ("# %%\nx = 'é\u2028'\n", [("code", "x = 'é\u2028'", 2)]),
]


@pytest.mark.parametrize(("text", "expected"), FILES)
def test_cells_of_a_file(text, expected):
    assert cells_of(text) == [Cell(*each) for each in expected]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_line_numbers_are_those_of_the_file(path):
    lines = path.read_text("utf-8").split("\n")
    for cell in cells_of(path.read_text("utf-8")):
        first = cell.source.split("\n")[0]
        assert lines[cell.line - 1] in (first, f"# {first}", f"#{first}")


def in_jupytext(text):
    cells = needs.imported("jupytext").reads(text, fmt="py:percent").cells
    return [(cell.cell_type, cell.source) for cell in cells if cell.source]


@pytest.mark.parametrize("text", [text for text, _ in FILES if "\u2028" not in text])  # a line's end there
def test_jupytext_reads_the_same_cells(text):
    assert [(cell.kind, cell.source) for cell in cells_of(text)] == in_jupytext(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_jupytext_reads_the_same_cells_of_a_lesson(path):
    text = path.read_text("utf-8")
    assert [(cell.kind, cell.source) for cell in cells_of(text)] == in_jupytext(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_notebook_has_the_cells_and_no_output(path):
    cells = cells_of(path.read_text("utf-8"))
    made = json.loads(notebook_of(cells))
    assert [(c["cell_type"], "".join(c["source"])) for c in made["cells"]] == [
        (c.kind, c.source) for c in cells
    ]
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each) for each in ids)
    assert [c.get("outputs") for c in made["cells"]] == [[] if c.kind == "code" else None for c in cells]
    assert notebook_of(cells) == notebook_of(cells)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_notebook_is_valid(path):
    nbformat = needs.imported("nbformat")
    text = notebook_of(cells_of(path.read_text("utf-8")))
    nbformat.validate(nbformat.reads(text, as_version=nbformat.NO_CONVERT))


@pytest.mark.needs("nbformat", "nbclient", "ipykernel")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_notebook_runs_to_its_end(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.reads(notebook_of(cells_of(path.read_text("utf-8"))), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=90, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert shown
    assert {output.output_type for output in shown} <= {"stream", "display_data", "execute_result"}
    assert list(tmp_path.iterdir()) == []


def test_a_check_in_a_notebook_is_shown_once_and_as_html(tmp_path):
    nbformat, _ = needs.imported("nbformat"), needs.imported("ipykernel")
    from nbclient import NotebookClient

    book = nbformat.reads(notebook_of(cells_of(SAMPLE.read_text("utf-8"))), as_version=4)
    NotebookClient(book, timeout=90, kernel_name="python3").execute()
    (output,) = book.cells[-1].outputs
    assert "not written yet" in output["data"]["text/html"]
