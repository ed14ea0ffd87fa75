"""A lesson as a Jupyter notebook: its cells in nbformat 4.5, without outputs."""

import re
from collections.abc import Sequence
from typing import Any

from gpt2np.lessons.percent_file import Cell
from gpt2np.tables import strict_json


def notebook_of(cells: Sequence[Cell]) -> str:
    """Return the JSON of a notebook with these cells; the same cells give the same text."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": [_cell(i, cell) for i, cell in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": language},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return strict_json(content) + "\n"


def _cell(i: int, cell: Cell) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "cell_type": cell.kind,
        "id": f"cell-{i}",
        "metadata": {},
        "source": re.split(r"(?<=\n)", cell.source),
    }
    return shown if cell.kind == "markdown" else shown | {"execution_count": None, "outputs": []}
