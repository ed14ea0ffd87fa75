"""Writes a trace in any dialect as `.npz`, `.json`, `.csv` or `.safetensors`, one array at a time.

- **npz**: what `np.load` reads; an entry `gpt2np` holds, as JSON text, what the trace says of itself.
- **safetensors**: the same, with that text in the file's metadata. In our own dialect it is a saved trace.
- **json**: what the trace says of itself, and under `arrays` for each name its `axes`, `dtype`, `shape` and
  nested `data`, whose numbers restore the very same floats. JSON has no infinities: they are null, and `null`
  says what the nulls of an array stand for.
- **csv**: long form, one number a line: `name`, the index along each axis (as many columns as the largest
  array has axes, empty where this one has fewer), `value`. Infinities are `-inf`, which readers know.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2np.errors import InputError, TraceError, short
from gpt2np.export.decimal_text import rows_as_text
from gpt2np.export.dialects.dialect import Arrays, Dialect
from gpt2np.export.dialects.reading import METADATA
from gpt2np.ops import Array
from gpt2np.outputs import check_kind, check_not_read, whole_binary_file, whole_file
from gpt2np.tensorfile import save_tensors
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_metadata import DIALECT_SCHEMA, file_metadata

_NOT_FINITE = re.compile(r"-?inf|nan")


def write_dialect(trace: Trace, path: str | Path, to: str, dialect: str = "gpt2np") -> int:
    """Write a trace to one file, whole or not at all; returns the number of arrays in it.

    Raises:
        InputError: no such kind of file or dialect, or the file cannot be written, or is what was read.
        TraceError: the trace holds nothing that has a name in this dialect.
    """
    if to not in WRITERS:
        raise InputError(f"there is no writer for {short(to)}; known are {', '.join(WRITERS)}")
    check_not_read(path, trace.source_files())
    check_kind(path, f".{to}", f"the name says another kind of file than {to}, which is written")
    names = Dialect(trace, dialect)
    arrays = names.arrays
    if not any(name in arrays.axes for name in arrays):
        kept = trace.names()
        more = ", ..." if len(kept) > 4 else ""
        raise TraceError(
            f"nothing in this trace has a name in the dialect {dialect}: it has {', '.join(kept[:4])}{more}"
        )
    WRITERS[to](Path(path), arrays, metadata_of(names))
    return len(arrays)


def metadata_of(names: Dialect) -> dict[str, Any]:
    """Return the metadata of a file in a dialect; in our own dialect, those of a trace."""
    facts = names.trace.metadata
    if names.name == "gpt2np":
        return dict(facts)
    return {**facts, "schema": DIALECT_SCHEMA, "dialect": names.name}


def _write_safetensors(path: Path, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    save_tensors(path, arrays, file_metadata(metadata))


def _write_npz(path: Path, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    with whole_binary_file(path) as file, zipfile.ZipFile(file, "w") as members:

        def add(name: str, array: Array) -> None:
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980: the same trace gives the same bytes
            member.external_attr = 0o644 << 16
            with members.open(member, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)

        add(METADATA, np.array(file_metadata(metadata)[METADATA]))
        for name, array in arrays.items():
            add(name, array)


def _write_json(path: Path, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(_json(metadata)[:-1] + ',\n"arrays": {')
        separator = "\n"
        for name, array in arrays.items():
            facts: dict[str, Any] = {
                "axes": arrays.axes.get(name, ("pos",)),
                "dtype": array.dtype.name,
                "shape": array.shape,
            }
            if absent := not_finite(array):
                facts["null"] = absent
            file.write(f'{separator}{_json(name)}: {_json(facts)[:-1]},\n"data": ')
            _write_nested(file, array)
            file.write("}")
            separator = ",\n"
        file.write("\n}}\n")


def _write_nested(file: IO[str], array: Array) -> None:
    """Nested lists; a row a line."""
    if array.ndim > 2:
        file.write("[")
        for i, part in enumerate(array):
            file.write(",\n" if i else "")
            _write_nested(file, part)
        file.write("]")
        return
    rows = [_NOT_FINITE.sub("null", f"[{line}]") for line in lines(np.atleast_2d(array))]
    file.write(rows[0] if array.ndim == 1 else "[" + ",\n".join(rows) + "]")


def _write_csv(path: Path, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    n_axes = max(len(arrays.axes.get(name, ("pos",))) for name in arrays)
    with whole_file(path) as file:
        file.write(",".join(["name", *(f"axis_{n}" for n in range(n_axes)), "value"]) + "\n")
        for name, array in arrays.items():
            empty = "," * (n_axes - array.ndim)
            for index, line in _indexed_lines(array):
                start = ",".join([name, *map(str, index)])
                values = enumerate(line.split(","))
                file.write("".join([f"{start},{i}{empty},{value}\n" for i, value in values]))


def _indexed_lines(array: Array) -> Iterator[tuple[tuple[int, ...], str]]:
    """Each row of an array as text, with its index."""
    if array.ndim == 1:
        yield (), lines(array[None])[0]
        return
    for block in np.ndindex(array.shape[:-2]):
        for i, line in enumerate(lines(array[block])):
            yield (*block, i), line


def lines(rows: Array) -> list[str]:
    """Return each row of [row, column] as text, commas between numbers that restore the very same values."""
    if rows.dtype in (np.float32, np.float16):
        return rows_as_text(rows)
    return [",".join(map(repr, row)) for row in rows.tolist()]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def not_finite(array: Array) -> str:
    """Return which of `-inf`, `inf` and `nan` an array holds, commas between them."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return ""
    tests: dict[str, Callable[..., Any]] = {"-inf": np.isneginf, "inf": np.isposinf, "nan": np.isnan}
    return ",".join(name for name, test in tests.items() if test(array).any())


WRITERS: dict[str, Callable[[Path, Arrays, Mapping[str, Any]], None]] = {
    "npz": _write_npz,
    "json": _write_json,
    "csv": _write_csv,
    "safetensors": _write_safetensors,
}
