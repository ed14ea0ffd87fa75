"""The keys and values of one text, from a KV file of any format, and queries of them."""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from gpt2np.errors import InputError, TraceError, short
from gpt2np.ops import Array
from gpt2np.outputs import whole_file
from gpt2np.tables import counted
from gpt2np.text.token_search import bytes_of_tokens, find_text
from gpt2np.tracing.trace import Trace

PARTS = ("key", "value")
ROTATED = "rotated"  # what a file says of keys that are turned by their positions
COLUMNS = ["layer", "head", "token_idx", "token_id", "token", "key_norm", "value_norm"]


@dataclass(frozen=True)
class KV:
    """Keys and values of every layer, [pos, head, d_head] each, and what is known about the text.

    `kv["h.3.attn.k"]` is an array under its name in a trace: `sites` are the names of keys and values in a
    layer. What other people's files do not say is None. `n_query_head` and `keys`, what the keys are, are
    None in files of models that have a key head for every head and say nothing of their keys: GPT-2s.
    """

    model: str
    tokens: list[str]
    layers: list[tuple[Array, Array]]  # keys, values
    text: str | None = None
    token_ids: list[int] = field(default_factory=list)  # empty where a file does not say
    prediction: dict[str, Any] | None = None  # `predicted_next_token` of document 003
    fingerprint: str | None = None
    exact: bool = True  # False: kept in float16
    digest: str | None = None  # as the file says; `computed_digest` is that of the numbers
    n_query_head: int | None = None
    keys: str | None = None
    sites: tuple[str, ...] = ("attn.k", "attn.v")
    schema: str | None = None  # as a JSON file says

    def __repr__(self) -> str:
        size = f"{self.n_layer} layers, {self.n_head} heads, d_head {self.d_head}"
        return f"<KV of {counted(len(self.tokens), 'token')} by {self.model}: {size}>"

    def _ipython_key_completions_(self) -> list[str]:
        """What Tab offers after `kv[`."""
        return [f"h.{layer}.{site}" for layer in range(self.n_layer) for site in self.sites]

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def n_head(self) -> int:
        """Key and value heads of a layer."""
        return int(self.layers[0][0].shape[1])

    @property
    def d_head(self) -> int:
        """Numbers in a key, and in a value."""
        return int(self.layers[0][0].shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(array.nbytes for pair in self.layers for array in pair)

    def __getitem__(self, name: str, /) -> Array:
        for layer, pair in enumerate(self.layers):
            for site, array in zip(self.sites, pair, strict=True):
                if name == f"h.{layer}.{site}":
                    return array
        held = ", ".join(f"h.i.{site}" for site in self.sites)
        raise TraceError(f"a KV file has keys and values ({held}), not {short(name)}")

    @classmethod
    def of(cls, trace: Trace, prediction: dict[str, Any] | None = None) -> "KV":
        """Return the keys and values of a trace: views of it, no copies.

        Raises:
            TraceError: it lacks those of some layer or position.
        """
        facts = trace.metadata
        if len(trace.positions) < len(trace.token_ids):
            raise TraceError(f"keys and values are there for {trace.positions} only, not for every position")
        config, architecture = trace.config, trace.config.architecture
        keys, values = architecture.cache
        layers = [(trace[f"h.{i}.{keys}"], trace[f"h.{i}.{values}"]) for i in range(config.n_layer)]
        silent = architecture.keys is None
        text = trace.prompt
        if "n_prompt" in facts:  # then that is the text before the response
            text = b"".join(bytes_of_tokens(trace.tokens)).decode(errors="replace")
        prediction = prediction or facts.get("predicted_next_token")
        return cls(
            str(facts.get("model")),
            trace.tokens,
            layers,
            text,
            trace.token_ids,
            prediction,
            facts.get("fingerprint"),
            trace.plan.keep.dtype != "float16",
            facts.get("digest"),
            None if silent else config.n_head,
            architecture.keys,
            architecture.cache,
        )

    def computed_digest(self) -> str:
        """SHA-256 over token ids, then each layer's keys and values: little-endian int64 and float32."""
        digest = hashlib.sha256(np.array(self.token_ids, "<i8").tobytes())
        for pair in self.layers:
            for array in pair:
                digest.update(np.ascontiguousarray(array, "<f4").data)
        return digest.hexdigest()

    def check_digest(self, where: object) -> None:
        """Refuse keys and values that are not those of which the file's digest was made, if it has one.

        Raises:
            TraceError: they are others; `where` is the file.
        """
        if self.digest is not None and self.digest != self.computed_digest():
            raise TraceError(
                f"{where}: is damaged: its token ids, keys and values are not those of its digest "
                "(if you changed them on purpose, set its digest to null)"
            )

    # -- questions --------------------------------------------------------------------------------

    @np.errstate(under="ignore")
    def norms(self, layer: int, part: str) -> Array:
        """Return the length of each key or value vector of a layer: [head, pos], float64."""
        vectors = self.layers[layer][PARTS.index(part)].astype(np.float64)
        return np.asarray(np.sqrt(np.einsum("phd,phd->hp", vectors, vectors)))

    def check(self, layer: int = 0, head: int = 0, token: int = 0) -> None:
        """Refuse a coordinate that does not exist."""
        limits = {"layer": self.n_layer, "head": self.n_head, "token": len(self.tokens)}
        for (axis, limit), given in zip(limits.items(), (layer, head, token), strict=True):
            check_coordinate(axis, given, limit)

    def find(self, text: str) -> list[range]:
        """Return where a text occurs, ignoring case: the token that contains it, or the tokens that spell it.

        Raises:
            InputError: the text is empty.
        """
        if not text:
            raise InputError("the text to look for is empty")
        return find_text(text, self.tokens, self.text)

    def summary(self, layer: int) -> list[dict[str, Any]]:
        """For each head of a layer the mean, smallest and largest norm of its keys and of its values."""
        self.check(layer)
        rows: list[dict[str, Any]] = [{"head": head} for head in range(self.n_head)]
        for part in PARTS:
            for row, norms in zip(rows, self.norms(layer, part), strict=True):
                row |= {
                    f"{part}_norm_{name}": float(value)
                    for name, value in (("mean", norms.mean()), ("min", norms.min()), ("max", norms.max()))
                }
        return rows

    def range_of_norms(self, part: str) -> tuple[float, float]:
        """Return the smallest and the largest norm of all keys, or of all values.

        Raises:
            InputError: something else than keys and values.
        """
        _check_part(part)
        norms = [self.norms(layer, part) for layer in range(self.n_layer)]
        return min(float(of.min()) for of in norms), max(float(of.max()) for of in norms)

    def between(self, low: float, high: float, part: str) -> "list[Coordinate]":
        """Return the coordinates whose key or value has a norm of `low` to `high`, in order.

        Raises:
            InputError: no such range, or something else than keys and values.
        """
        _check_part(part)
        if not low <= high:  # NaN too
            raise InputError(f"the norm's range must go from small to large, not from {low} to {high}")
        found = []
        for layer in range(self.n_layer):
            norms = self.norms(layer, part)
            for head, token in np.argwhere((low <= norms) & (norms <= high)).tolist():
                found.append(Coordinate(layer, head, token))
        return found

    def rows(self, coordinates: "Iterable[Coordinate]") -> Iterator[dict[str, Any]]:
        """Yield one row of a table for each coordinate, with its norms: `COLUMNS`."""
        norms: dict[int, list[Array]] = {}
        for layer, head, token in coordinates:
            if layer not in norms:
                norms = {layer: [self.norms(layer, part) for part in PARTS]}
            token_id = self.token_ids[token] if self.token_ids else None
            key_norm, value_norm = (float(of_part[head, token]) for of_part in norms[layer])
            row = (layer, head, token, token_id, self.tokens[token], key_norm, value_norm)
            yield dict(zip(COLUMNS, row, strict=True))

    def coordinates(
        self, layers: Iterable[int] | None = None, tokens: Iterable[int] | None = None
    ) -> "Iterator[Coordinate]":
        """Yield every coordinate, or those of some layers or tokens."""
        positions = list(range(len(self.tokens)) if tokens is None else tokens)
        for layer in range(self.n_layer) if layers is None else layers:
            for head in range(self.n_head):
                yield from (Coordinate(layer, head, token) for token in positions)


class Coordinate(NamedTuple):
    """Where a key and a value stand: layer, head and token, each counted from 0."""

    layer: int
    head: int
    token: int


def check_coordinate(axis: str, given: int, limit: int) -> None:
    """Refuse what is not one of 0 to limit - 1.

    Raises:
        InputError: says which axis, and how far it goes.
    """
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 0 <= given < limit:
        raise InputError(f"{axis} {short(given)} is not one of 0 to {limit - 1}")


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise InputError(f"norms are of key or value, not of {short(part)}")


def write_csv(path: str | PathLike[str], columns: list[str], rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as a CSV file with a header; returns how many.

    A text that a spreadsheet would run as a formula, as `=1+1` or `-`, has an apostrophe before it, and one
    more where it has some: of a text that is apostrophes and then one of `= + - @`, also behind line feeds, a
    tab or a carriage return, the first apostrophe is not part of it.

    Raises:
        InputError: the file cannot be written.
    """
    n = 0
    with whole_file(path) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({column: _as_cell(value) for column, value in row.items()})
            n += 1
    return n


# What a spreadsheet takes for a formula, or may after it has dropped what is before it.
_FORMULA = re.compile(r"'*(?:[=+\-@\t\r＝＋－＠]|\n+[=+\-@＝＋－＠])")


def _as_cell(value: Any) -> Any:
    """A text that a spreadsheet would run gets an apostrophe before it; numbers stay what they are."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
