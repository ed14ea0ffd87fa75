"""float32 arrays as decimal text, thousands of numbers at a time.

Every number is written with seven, eight or nine significant digits, the fewest that restore the same
float32, without zeros at the end: `0.12573022`, `-3.0`, `1e-05`. Python spells numbers one by one. Here a
block of rows is done in one go, with one array operation for each *column* of the text: the signs, the first
digits, the second digits, the points. What a number does not need is a zero byte; those are dropped last.
"""

import numpy as np
from numpy.typing import NDArray

from gpt2np.ops import Array

# The columns of one number: - 0 . 0 0 0 d . d . d . d . d d d d d and what separates it from the next.
WIDTH = 20
LEADING = (1, 2, 3, 4, 5)  # "0.000"
DIGITS = (6, 8, 10, 12, 14, 15, 16, 17, 18)
POINTS = (7, 9, 11, 13)
SEPARATOR = 19
# Those between 0.0001 and 10000 are written so; the others, which are rare, one by one with an exponent.
LOWEST, HIGHEST = np.float32(1e-4), np.float32(1e4)
POWERS = np.array([1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3], np.float32)
TO_NINE_DIGITS = 10.0 ** np.arange(12, 4, -1)
BLOCK = 1 << 14  # numbers at a time: their columns stay in the processor's cache


def rows_as_text(rows: Array) -> list[str]:
    """Each row of an array [row, column] as float32 numbers with commas between them.

    Example:
        >>> rows_as_text(np.array([[0.1, -2.0], [3.25, 1e-7]], np.float32))
        ['0.1,-2.0', '3.25,1e-07']
    """
    n_rows, n_columns = rows.shape
    if not rows.size:
        return [""] * n_rows
    per_block = max(1, BLOCK // n_columns)
    lines: list[str] = []
    for start in range(0, n_rows, per_block):
        block = np.ascontiguousarray(rows[start : start + per_block], np.float32)
        lines += _block_as_text(block).decode("ascii").splitlines()
    return lines


def _block_as_text(block: NDArray[np.float32]) -> bytes:
    """The rows [row, column] as lines."""
    values = block.ravel()
    size = np.abs(values)
    rare = np.flatnonzero(~((size >= LOWEST) & (size < HIGHEST)))
    size[rare] = 1  # so that nothing below overflows
    exponent = np.zeros(values.size, np.int8)  # 0 for 0.0001 to 0.001, ... 4 for 1 to 10, ... 7
    for power in POWERS:
        exponent += size >= power
    digits = _nine_digits(size, exponent)

    columns = np.zeros((WIDTH, values.size), np.uint8)
    columns[0] = np.signbit(values) * np.uint8(ord("-"))
    for column, character, below in zip(LEADING, b"0.000", (4, 4, 3, 2, 1), strict=True):
        columns[column] = (exponent < below) * np.uint8(character)
    for i, column in enumerate(POINTS):
        columns[column] = (exponent == 4 + i) * np.uint8(ord("."))
    needed = np.zeros(values.size, bool)
    for i in reversed(range(9)):  # from the last digit, so that zeros at the end are not written
        shorter = digits // np.uint32(10)
        digit = (digits - shorter * np.uint32(10)).astype(np.uint8)
        needed |= digit != 0
        columns[DIGITS[i]] = (digit + np.uint8(ord("0"))) * (needed | (exponent >= i + 3))
        digits = shorter
    separators = columns[SEPARATOR].reshape(block.shape)
    separators[:, :-1], separators[:, -1] = ord(","), ord("\n")

    text = np.ascontiguousarray(columns.T)
    if rare.size:
        spelled = np.array([str(value) for value in values[rare]], f"S{SEPARATOR}")
        text[rare, :SEPARATOR] = spelled.view(np.uint8).reshape(-1, SEPARATOR)
    return text.tobytes().translate(None, b"\0")


def _nine_digits(size: NDArray[np.float32], exponent: NDArray[np.int8]) -> NDArray[np.uint32]:
    """The significant digits of positive numbers as integers of nine digits, zeros at the end if fewer do."""
    scale = TO_NINE_DIGITS[exponent]
    exact = size.astype(np.float64) * scale
    found = np.rint(exact)
    for unit in (10.0, 100.0):  # eight digits, seven digits
        rounded = np.rint(exact / unit) * unit
        restored = (rounded / scale).astype(np.float32)  # what a reader of the text will get
        found = np.where(restored == size, rounded, found)
    return found.astype(np.uint32)
