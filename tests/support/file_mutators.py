"""Ways to damage a file, drawn by chance: its bytes, or the JSON, zip, `.npy` or safetensors that it is."""

import io
import json
import random
import struct
import warnings
import zipfile

import numpy as np


class Raw(str):
    """A piece of JSON text that is written as it is."""


class Pairs(list):
    """A JSON object: it may have a key twice."""


HALF = '"\\ud800"'
CONTROL = ["\x1b[31mred", "\x07", "a\nb", "\r", "\x00", "\u202eabc", "\x9b2J", "\x7f", "é", "☃", "\U0001f600"]
# Values of another kind than what was there...
OTHER = [
    Raw("1e308"), Raw("-0.0"), Raw(str(2**63)), Raw(str(-(2**31))), Raw(str(2**31)), Raw("1e2"), Raw("373.5"),
    Raw("5e-324"), Raw("-1"), Raw("0"), Raw("1"), Raw("2"), Raw("true"), Raw("false"), Raw("null"), Raw("[]"),
    Raw("{}"), Raw('""'), Raw("[[]]"), Raw("[null]"), Raw('{"a": 1}'), Raw("[1, 2]"), Raw('"1"'),
    Raw('[["a", 1.0]]'),
    Raw("9" * 300), Raw("[[1]]"), Raw("0.5"), Raw('"0.5"'), Raw("[true]"), Raw('["a"]'),
]  # fmt: skip
# ...and what JSON, Unicode or a reader's memory does not have.
BROKEN = [
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"), Raw("-1e400"), Raw("9" * 5000),
    Raw("9" * 4000),
    Raw(HALF), Raw('"a\\udfffb"'), Raw(f"[{HALF}]"), Raw(f"{{{HALF}: 1}}"), Raw("[" * 500 + "]" * 500),
    Raw("[" * 100_000), Raw('{"a":' * 3000 + "1" + "}" * 3000), Raw('"' + "x" * 20_000 + '"'),
]  # fmt: skip


def mutated(file: bytes, rng: random.Random) -> bytes:
    """The same file with one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        file = _mutated_once(file, rng)
    return file


def _weird(rng: random.Random) -> Raw:
    return rng.choice(OTHER if rng.random() < 0.75 else BROKEN)


def _mutated_once(file: bytes, rng: random.Random) -> bytes:
    kinds = [_of_json, _of_json_lines, _of_safetensors, _of_zip, _of_npy]
    if rng.random() < 0.65:
        rng.shuffle(kinds)
        for kind in kinds:
            if (changed := kind(file, rng)) is not None:
                return changed
    return rng.choice(_OF_BYTES)(file, rng)


# -- bytes ------------------------------------------------------------------------------------------------


def _place(file: bytes, rng: random.Random) -> int:
    """A place in a file: often near its start or its end, where headers and directories are."""
    n = len(file)
    return rng.choice((rng.randrange(n + 1), min(n, rng.randrange(256)), max(0, n - rng.randrange(256))))


def _flip(file: bytes, rng: random.Random) -> bytes:
    changed = bytearray(file)
    for _ in range(rng.randint(1, 8) if file else 0):
        changed[min(_place(file, rng), len(file) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _replace(file: bytes, rng: random.Random) -> bytes:
    at, n = _place(file, rng), rng.choice((1, 4, 8, 64))
    new = rng.choice((bytes(n), b"\xff" * n, b"9" * n, rng.randbytes(n), b"\x00\x00\xc0\x7f" * n, b'"' * n))
    return file[:at] + new + file[at + len(new) :]


def _cut(file: bytes, rng: random.Random) -> bytes:
    return file[: _place(file, rng)]


def _cut_out(file: bytes, rng: random.Random) -> bytes:
    at = _place(file, rng)
    return file[:at] + file[at + rng.choice((1, 2, 4, 8, 100)) :]


def _insert(file: bytes, rng: random.Random) -> bytes:
    at = _place(file, rng)
    new = rng.choice(
        (rng.randbytes(4), b"\n", b"\x00", b"[" * 2000, b"\x1b[2J", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"{}\n")
    )
    return file[:at] + new + file[at:]


def _splice(file: bytes, rng: random.Random) -> bytes:
    start, at = _place(file, rng), _place(file, rng)
    piece = file[start : start + rng.choice((1, 8, 64, 1000))]
    return file[:at] + piece + file[at + rng.choice((0, len(piece))) :]


def _other(file: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (b"", b"\n", b"{}", b"[]", b"null", b"PK\x05\x06" + bytes(18), file + file, b"\x80\x02}.", file[::-1])
    )


_OF_BYTES = [_flip, _flip, _replace, _replace, _cut, _cut_out, _insert, _splice, _splice, _other]

# -- JSON -------------------------------------------------------------------------------------------------


def _parsed(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None


def written(node: object) -> str:
    """JSON text of what `_parsed` gives, with Raw pieces as they are."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{written(key)}: {written(value)}" for key, value in node) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(written, node)) + "]"
    return json.dumps(node, ensure_ascii=not (isinstance(node, str) and node.isprintable()))


def _of_json(file: bytes, rng: random.Random) -> bytes | None:
    if file[:1] not in (b"{", b"["):
        return None
    try:
        node = _parsed(file.decode())
    except UnicodeDecodeError:
        return None
    try:
        return _bytes(written(_changed(node, rng))) if isinstance(node, list) else None
    except RecursionError:  # a change before this one has made it deep
        return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _of_json_lines(file: bytes, rng: random.Random) -> bytes | None:
    lines = file.split(b"\n")
    if len(lines) < 3 or file[:1] != b"{":
        return None
    i = rng.randrange(len(lines) - 1)
    way = rng.random()
    if way < 0.08:
        return b"\n".join(lines[:i] + lines[i + 1 :])
    if way < 0.16:
        return b"\n".join([*lines[:i], lines[i], *lines[i:]])
    if way < 0.2:
        return b"\n".join([*lines[::-1][1:], b""])
    changed = _of_json(lines[i], rng)
    return None if changed is None else b"\n".join([*lines[:i], changed, *lines[i + 1 :]])


def _places(node: object, found: list, most: int = 4000) -> list:
    """(container, index) of everything inside a node."""
    if isinstance(node, list) and not isinstance(node, Raw) and len(found) < most:
        for i, item in enumerate(node):
            found.append((node, i))
            _places(item[1] if isinstance(node, Pairs) else item, found, most)
    return found


def _changed(node: list, rng: random.Random) -> object:
    """The same with one change, at a place that is rather outside than deep inside."""
    places = _places(node, [])
    if not places or rng.random() < 0.03:
        return _weird(rng)
    container, i = places[min(rng.randrange(len(places)), rng.randrange(len(places)))]
    inside = [place for place in places if _holds_json(_value(*place))]
    if inside and rng.random() < 0.7:
        container, i = rng.choice(inside)
        container[i] = _with(container[i], _new_value(_value(container, i), rng), container)
        return node
    value = _value(container, i)
    way = rng.random()
    if isinstance(container, Pairs) and way < 0.4:
        key = container[i][0]
        if way < 0.15:
            del container[i]
        elif way < 0.22:
            container.insert(rng.randrange(len(container) + 1), (key, _weird(rng)))
        elif way < 0.3:
            container[i] = (
                rng.choice((*CONTROL, key + rng.choice(CONTROL), key.upper(), "", "__metadata__")),
                value,
            )
        elif way < 0.34:
            container.append((rng.choice(CONTROL), _weird(rng)))
        else:
            container.append((Raw(HALF), _weird(rng)))
        return node
    if way < 0.5:
        if isinstance(container, Pairs):
            container.reverse()
        else:
            del container[i]
        return node
    container[i] = _with(container[i], _new_value(value, rng), container)
    return node


def _value(container: list, i: int) -> object:
    return container[i][1] if isinstance(container, Pairs) else container[i]


def _with(item: object, value: object, container: list) -> object:
    """An item of a list or object with another value."""
    return (item[0], value) if isinstance(container, Pairs) else value


def _holds_json(value: object) -> bool:
    return (
        isinstance(value, str) and not isinstance(value, Raw) and value[:1] in ("{", "[") and len(value) > 2
    )


def _new_value(value: object, rng: random.Random) -> object:
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.8:  # JSON as a text
        inner = _parsed(value)
        if isinstance(inner, list):
            return written(_changed(inner, rng))
    if rng.random() < 0.5:
        return _weird(rng)
    if isinstance(value, str):
        return rng.choice(
            (
                value + rng.choice(CONTROL),
                rng.choice(CONTROL),
                value[:-1],
                value * 2,
                "../" + value,
                value.upper(),
            )
        )
    if isinstance(value, bool) or value is None:
        return rng.choice((0, 1, "true", [], not value))
    if isinstance(value, int | float):
        if not abs(value) < 1e300:
            return 0
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value + 0.5, str(value), [value], value * 10**6)
        )
    if isinstance(value, Pairs | list):
        return rng.choice(
            (type(value)(value[1:]), type(value)(value + value), [value], len(value), type(value)())
        )
    return _weird(rng)


# -- files with JSON inside -------------------------------------------------------------------------------


def _of_safetensors(file: bytes, rng: random.Random) -> bytes | None:
    n = int.from_bytes(file[:8], "little")
    if len(file) < 10 or n > len(file) - 8 or file[8:9] != b"{":
        return None
    if rng.random() < 0.1:
        n = rng.choice((0, 1, n - 1, n + 1, n + 8, 2**62, len(file)))
        return struct.pack("<Q", n) + file[8:]
    header = _of_json(file[8 : 8 + n], rng)
    return None if header is None else struct.pack("<Q", len(header)) + header + file[8 + n :]


def _of_npy(file: bytes, rng: random.Random) -> bytes | None:
    if file[:6] != b"\x93NUMPY" or len(file) < 12:
        return None
    n = int.from_bytes(file[8:10], "little")
    text = file[10 : 10 + n].decode("latin-1")
    if "<U" in text and rng.random() < 0.8:
        data = file[10 + n :]
        try:
            changed = _of_json(data[: len(data) // 4 * 4].decode("utf-32-le").encode(), rng)
        except UnicodeDecodeError:
            changed = None
        if changed is not None:
            return _npy_of_text(changed.decode(errors="replace"))
    swaps = (
        (
            "<f4",
            rng.choice(
                ("<f8", ">f4", "<i4", "|b1", "<c8", "<f2", "|O", "<U1", "|V4", "<q9", "|S4", "<M8[s]")
            ),
        ),
        (
            "(",
            rng.choice(("(1, ", "(-1, ", "(2, ", "((", "(1.5, ", "(True, ", "('a', ", "(" * 60, "(10**9, ")),
        ),
        ("False", rng.choice(("True", "None", "1", "'x'", "False,"))),
        ("'shape'", rng.choice(("'form'", "shape", "b'shape'", "'shape', 'shape'"))),
        ("{", rng.choice(("[", "{{", "", "{'a': 1, ", "\x00"))),
        ("}", rng.choice(("", "]", "}}", "\\"))),
    )
    old, new = rng.choice(swaps)
    changed = text.replace(old, new, 1)
    if rng.random() < 0.7:  # of the right length
        changed = changed.rstrip().ljust(n - 1)[: n - 1] + "\n"
    raw = changed.encode("latin-1", "replace")
    return (
        file[:6]
        + rng.choice((file[6:8],) * 8 + (b"\x02\x00", b"\x03\x00"))
        + struct.pack("<H", len(raw) % 65536)
        + raw
        + file[10 + n :]
    )


def _npy_of_text(text: str) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.array(text), allow_pickle=False)
    return out.getvalue()


def _of_zip(file: bytes, rng: random.Random) -> bytes | None:
    if file[:2] != b"PK":
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # it is damaged already
        return None
    if not entries:
        return None
    i, way = rng.randrange(len(entries)), rng.random()
    name, content = entries[i]
    if way < 0.1:
        del entries[i]
    elif way < 0.2:
        entries.append(
            (rng.choice((name, name + ".npy", rng.choice(CONTROL) + ".npy", "../x.npy", "a/")), content)
        )
    elif way < 0.35:
        new = rng.choice(
            (
                rng.choice(CONTROL) + name,
                name.replace(".npy", ""),
                "gpt2np.npy",
                rng.choice(entries)[0],
                name[1:],
            )
        )
        entries[i] = (new, content)
    else:
        entries[i] = (name, _mutated_once(content, rng))
    return zipped(entries, rng.choice((zipfile.ZIP_STORED,) * 6 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))


def zipped(entries: list, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these entries, also with names twice."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names twice
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name.replace("\0", "0")), content, compression)
    return out.getvalue()
