"""The shards of a capture, opened when they are read: rows of sites, and which token each row is of."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gpt2np.capture.captured_manifest import CapturedManifest, ShardFacts
from gpt2np.errors import TraceError
from gpt2np.ops import Array
from gpt2np.tensorfile import TensorFile, open_tensors

AGAIN = "run the capture again, and only this shard is made anew"
_MOST_OPEN = 64  # an open shard holds a file open, of which a process may have 1,024
_BESIDE = {"row_offsets": "int64", "token_offsets": "int64", "token_ids": "int32", "positions": "int32"}


class Shard:
    """One open shard. Rows are counted from its first, prompts from `facts.first_prompt`."""

    def __init__(self, manifest: CapturedManifest, facts: ShardFacts) -> None:
        """Map the file, and hold its header against the manifest.

        Raises:
            TraceError: it is missing or damaged, or has other arrays; names the file.
        """
        self.manifest, self.facts = manifest, facts
        self.path = manifest.folder / facts.file
        check_size(manifest, facts)
        try:
            open(self.path, "rb").close()  # what the system says no to is not damage
            self.file = open_tensors(self.path, TraceError)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read ({error.strerror})") from None
        except TraceError as error:
            raise TraceError(f"{error}; {AGAIN}") from None
        _check_header(self.file, manifest, facts)
        self.row_offsets, self.token_offsets = self.file["row_offsets"], self.file["token_offsets"]
        self.token_ids, self.positions = self.file["token_ids"], self.file["positions"]
        for offsets, last in ((self.row_offsets, facts.rows), (self.token_offsets, facts.tokens)):
            if offsets[0] != 0 or offsets[-1] != last or (np.diff(offsets) < 0).any():
                raise TraceError(f"{self.path}: is damaged in its offsets of prompts; {AGAIN}")
        for name, site in manifest.sites.items():
            if site.ragged and self.file.shape(name) != (self._ragged_begins[-1] * manifest.config.n_head,):
                raise TraceError(f"{self.path}: is damaged: {name} does not fit the offsets; {AGAIN}")

    def read_rows(self, name: str, start: int, out: Array) -> None:
        """Fill an array with rows of a site, from `start` on, without mapping them into memory.

        Raises:
            TraceError: the file cannot be read.
        """
        rest = out.reshape(-1).view(np.uint8).data
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.file.offset(name) + start * out[:1].nbytes)
                while n := file.readinto(rest):
                    rest = rest[n:]
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read ({error.strerror})") from None
        if rest:
            raise TraceError(f"{self.path}: is damaged: it has been cut short; {AGAIN}")

    def announce(self, name: str, start: int, stop: int) -> None:
        """Have the system read rows of a site ahead, where it can."""
        if not hasattr(os, "posix_fadvise"):
            return
        width = int(np.prod(self.file.shape(name)[1:], dtype=np.int64)) * self.file.numpy_dtype(name).itemsize
        with contextlib.suppress(OSError), open(self.path, "rb", buffering=0) as file:
            begin, n = self.file.offset(name) + start * width, (stop - start) * width
            os.posix_fadvise(file.fileno(), begin, n, os.POSIX_FADV_WILLNEED)

    def rows_of(self, prompt: int) -> slice:
        """The rows of a prompt."""
        at = prompt - self.facts.first_prompt
        return slice(int(self.row_offsets[at]), int(self.row_offsets[at + 1]))

    def ids_of(self, prompt: int) -> Array:
        """All token ids of a prompt, whichever of its rows are kept: int32 [tokens]."""
        at = prompt - self.facts.first_prompt
        ids: Array = self.token_ids[self.token_offsets[at] : self.token_offsets[at + 1]]
        return ids

    def ragged(self, name: str, prompt: int) -> Array:
        """The kept queries of a site `head query key` of a prompt: [query, head, key]."""
        at, heads = prompt - self.facts.first_prompt, self.manifest.config.n_head
        begins = self._ragged_begins
        shape = (
            int(self.row_offsets[at + 1] - self.row_offsets[at]),
            heads,
            int(self.token_offsets[at + 1] - self.token_offsets[at]),
        )
        return self.file[name][heads * begins[at] : heads * begins[at + 1]].reshape(shape)

    @functools.cached_property
    def _ragged_begins(self) -> Array:
        sizes = np.diff(self.row_offsets) * np.diff(self.token_offsets)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    def site(self, name: str, rows: slice) -> Array:
        """These rows of a site that is not ragged: a view of the file."""
        return self.file[name][rows]

    def row_positions(self, rows: slice) -> Array:
        """The position of each of these rows in its prompt: int32 [rows]."""
        kept: Array = self.positions[rows]
        return kept

    def row_prompts(self, rows: slice) -> Array:
        """The number of each row's prompt: int64 [rows]."""
        return self._places(rows) + self.facts.first_prompt

    def row_token_ids(self, rows: slice) -> Array:
        """The token of each row: int32 [rows]."""
        ids: Array = self.token_ids[self._tokens(rows)[0]]
        return ids

    def next_token_ids(self, rows: slice) -> Array:
        """The token behind that of each row, -1 behind the last one of a prompt: int32 [rows]."""
        at, ends = self._tokens(rows)
        behind: Array = self.token_ids[np.minimum(at + 1, self.facts.tokens - 1)]
        behind[at + 1 == ends] = -1
        return behind

    def _places(self, rows: slice) -> Array:
        """Which prompt of the shard each row is of."""
        numbers = np.arange(*rows.indices(self.facts.rows))
        return np.asarray(np.searchsorted(self.row_offsets, numbers, side="right") - 1)

    def _tokens(self, rows: slice) -> tuple[Array, Array]:
        """The place of each row's token among all tokens, and that of the end of its prompt."""
        prompts, positions = self._places(rows), self.positions[rows]
        at, ends = self.token_offsets[prompts] + positions, self.token_offsets[prompts + 1]
        if ((positions < 0) | (at >= ends)).any():
            raise TraceError(f"{self.path}: is damaged: a row is of a position behind its prompt; {AGAIN}")
        return at, ends


class Column(NamedTuple):
    """Something that every row has: a site's numbers, or a fact of its token, made from an open shard."""

    name: str
    row: tuple[int, ...]
    dtype: np.dtype[np.generic]
    of: Callable[[Shard, slice], Array]


def column_of(site: str, manifest: CapturedManifest) -> Column:
    """The column of a site that is not ragged."""
    facts = manifest.sites[site]
    return Column(site, facts.row, facts.dtype, functools.partial(_rows_of_site, site))


def _rows_of_site(site: str, shard: Shard, rows: slice) -> Array:
    return shard.site(site, rows)


_ID = np.dtype(np.int32)
OF_TOKENS = {
    "prompt": Column("prompt", (), np.dtype(np.int64), Shard.row_prompts),
    "position": Column("position", (), _ID, Shard.row_positions),
    "token_id": Column("token_id", (), _ID, Shard.row_token_ids),
    "next_token_id": Column("next_token_id", (), _ID, Shard.next_token_ids),
}


class Shards:
    """The finished shards of a capture, in order. Rows are counted over them, in `starts`.

    `starts[i]` is the first row of shard i, `starts[-1]` the number of all rows.
    """

    def __init__(self, manifest: CapturedManifest, there: list[ShardFacts]) -> None:
        self.manifest, self.there = manifest, there
        self.starts = np.cumsum([0, *(shard.rows for shard in there)])
        self.open = functools.lru_cache(_MOST_OPEN)(self._open)

    def _open(self, i: int) -> Shard:
        return Shard(self.manifest, self.there[i])

    def __reduce__(self) -> tuple[type["Shards"], tuple[CapturedManifest, list[ShardFacts]]]:
        return Shards, (self.manifest, self.there)  # another process opens the files itself

    def __len__(self) -> int:
        return len(self.there)

    def __iter__(self) -> Iterator[Shard]:
        return (self.open(i) for i in range(len(self)))

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    def check_sizes(self) -> None:
        """Refuse, before a long reading, shards that are missing or cut short.

        Raises:
            TraceError: names the first.
        """
        for facts in self.there:
            check_size(self.manifest, facts)


def check_size(manifest: CapturedManifest, facts: ShardFacts) -> None:
    """Refuse a shard that is missing, or has not the size that it was captured with.

    Raises:
        TraceError: names it.
    """
    path = manifest.folder / facts.file
    try:
        size = os.stat(path).st_size
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise TraceError(f"{path}: {reason}; {AGAIN}") from None
    if size != facts.bytes:
        raise TraceError(
            f"{path}: is damaged: has {size:,} bytes, was captured with {facts.bytes:,}; {AGAIN}"
        )


def _check_header(file: TensorFile, manifest: CapturedManifest, facts: ShardFacts) -> None:
    """Hold names, dtypes and shapes against the manifest; a ragged site's length follows from the offsets."""
    shapes: dict[str, tuple[int, ...] | None] = {
        "row_offsets": (facts.prompts + 1,),
        "token_offsets": (facts.prompts + 1,),
        "token_ids": (facts.tokens,),
        "positions": (facts.rows,),
    }
    dtypes = {name: np.dtype(dtype) for name, dtype in _BESIDE.items()}
    for name, site in manifest.sites.items():
        shapes[name] = None if site.ragged else (facts.rows, *site.row)
        dtypes[name] = site.dtype
    for name, shape in shapes.items():
        found = (file.shape(name), file.numpy_dtype(name)) if name in file else None
        if found is None or found[1] != dtypes[name] or shape not in (None, found[0]):
            said = "is missing" if found is None else f"is {found[1]} {list(found[0])}"
            expected = f"{dtypes[name]}" + ("" if shape is None else f" {list(shape)}")
            raise TraceError(f"{file.path}: {name} {said}, expected {expected} by the manifest; {AGAIN}")
    theirs, ours = file.metadata.get("fingerprint"), manifest.model.get("fingerprint")
    if theirs is not None and ours is not None and theirs != ours:
        raise TraceError(f"{file.path}: is of another capture (fingerprint {theirs}, not {ours}); {AGAIN}")
