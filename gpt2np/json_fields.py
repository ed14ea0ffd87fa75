"""Files of our own that hold JSON: parsed strictly, then checked field by field against a table.

A table gives each field a `Kind`: what it accepts, and the words for what was expected. So a file that was
written by somebody else, or damaged, is refused before any work, by one line that names the field.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from gpt2np.errors import Gpt2npError, InputError, short
from gpt2np.files import read_text

_MOST = 2**63 - 1  # of a whole number: what NumPy can hold


class Kind(NamedTuple):
    """What a field may be; `absent` says that it may be missing as well."""

    expected: str
    accepts: Callable[[Any], bool]
    absent: bool = False


Table = Mapping[str, Kind]


def whole(low: int = 0, high: int = _MOST) -> Kind:
    """A whole number from `low` to `high`."""
    limits = f"from {low}" if high == _MOST else f"from {low} to {high}"
    return Kind(f"a whole number {limits}", lambda x: type(x) is int and low <= x <= high)


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """A finite number from `low` to `high`."""
    given = [f"{word} {end:g}" for word, end in (("from", low), ("to", high)) if math.isfinite(end)]
    return Kind(" ".join(["a number", *given]), lambda x: _is_number(x) and low <= x <= high)


def _is_number(x: Any) -> bool:
    return (type(x) is float and math.isfinite(x)) or (type(x) is int and abs(x) <= _MOST)


def list_of(kind: Kind, length: int | None = None) -> Kind:
    """A list whose items are all of a kind, and so many where `length` is given."""
    n = "" if length is None else f" of {length}"
    return Kind(
        f"a list{n}, each item {kind.expected}",
        lambda x: type(x) is list and length in (None, len(x)) and all(map(kind.accepts, x)),
    )


def row(*kinds: Kind) -> Kind:
    """A list with one item of each of these kinds."""
    return Kind(
        f"a list of {len(kinds)}: {', '.join(kind.expected for kind in kinds)}",
        lambda x: (
            type(x) is list
            and len(x) == len(kinds)
            and all(kind.accepts(item) for kind, item in zip(kinds, x, strict=True))
        ),
    )


def or_null(kind: Kind) -> Kind:
    """Something of a kind, or null."""
    return Kind(f"{kind.expected}, or null", lambda x: x is None or kind.accepts(x))


def optional(kind: Kind) -> Kind:
    """Something of a kind, or null, or no such field."""
    return Kind(f"{kind.expected}, or null", or_null(kind).accepts, absent=True)


def fields_of(table: Table, closed: bool = True) -> Kind:
    """An object with the fields of a table; if it is `closed`, with no others."""
    return Kind(
        f"an object with {', '.join(table)}",
        lambda x: (
            type(x) is dict and (not closed or x.keys() <= table.keys()) and _first_wrong(x, table) is None
        ),
    )


TEXT = Kind("a text", lambda x: type(x) is str)
FLAG = Kind("true or false", lambda x: type(x) is bool)
OBJECT = Kind("an object", lambda x: type(x) is dict)


def parse_json(text: str | bytes, where: str, error: type[Gpt2npError] = InputError) -> Any:
    """The content of a JSON text that we wrote: without NaN, infinities and anything that Unicode has not.

    Raises:
        error: it is not JSON, or holds such a thing, or an object has a key twice.
    """
    try:
        content = json.loads(text, parse_constant=_not_json, object_pairs_hook=_object)
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")
        return content
    except UnicodeEncodeError as e:
        half = e.object[e.start]
        raise error(
            f"{where}: a text in it is not valid Unicode: it holds {short(half)}, half a surrogate pair"
        ) from None
    except UnicodeDecodeError as e:
        raise error(f"{where}: byte 0x{e.object[e.start]:02x} at {e.start:,} is not UTF-8") from None
    except RecursionError:
        raise error(f"{where}: is not JSON of ours (lists or objects are nested too deeply)") from None
    except ValueError as e:
        raise error(f"{where}: is not JSON ({e})") from None


def read_own_json(path: str | os.PathLike[str], error: type[Gpt2npError] = InputError) -> Any:
    """The content of a regular file with such a text.

    Raises:
        error: what `files.read_text` and `parse_json` raise it for.
    """
    return parse_json(read_text(path, error), str(path), error)


def check(values: Any, table: Table, where: str, error: type[Gpt2npError], closed: bool = False) -> None:
    """Refuse an object that lacks a field of the table, or has something else in it.

    `closed` refuses fields that the table does not have.

    Raises:
        error: `where`, the field, what was found and what is expected.
    """
    if type(values) is not dict:
        raise error(f"{where}: is {short(values)}, expected an object with {', '.join(table)}")
    if (name := _first_wrong(values, table)) is not None:
        found = f"is {short(values[name])}" if name in values else "is missing"
        raise error(f"{where}: {name} {found}, expected {table[name].expected}")
    if closed and (others := values.keys() - table.keys()):
        raise error(f"{where}: {short(min(others))} is no field of it: it has {', '.join(table)}")


def _first_wrong(values: Mapping[str, Any], table: Table) -> str | None:
    """The first field that is missing or of another kind."""
    for name, kind in table.items():
        if not (kind.accepts(values[name]) if name in values else kind.absent):
            return name
    return None


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, _ in pairs:
            if name not in found:  # taken out when it came first
                raise ValueError(f"the key {short(name)} appears twice")
            del found[name]
    return found
