"""Reading a folder of captured prompts: `open_capture`."""

import functools
import os
import warnings
from collections.abc import Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from gpt2np.capture.captured_manifest import CapturedManifest, read_captured, read_finished
from gpt2np.capture.row_arrays import RowArray
from gpt2np.capture.row_batches import shuffled_batches
from gpt2np.capture.shard_reading import OF_TOKENS, Column, Shard, Shards, column_of
from gpt2np.errors import InputError, TraceError, UnknownSiteError, short, whole_number
from gpt2np.ops import Array
from gpt2np.tables import counted
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.plan import human_bytes
from gpt2np.tracing.site_patterns import sites_named

if TYPE_CHECKING:
    from gpt2np.capture.verification import CaptureCheck
    from gpt2np.model import Model

BUFFER = 256_000_000  # bytes from which a batch is drawn


class Captured:
    """A folder of captured prompts: `captured["h.3.resid_post"]` has a row for every kept token.

    Any name of the site table works, in any dialect: `captured["blocks.3.hook_resid_post"]`,
    `captured["resid_post", 3]`. Beside the sites there are `"token_id"`, `"next_token_id"` (-1 behind a
    prompt's last token), `"position"` and `"prompt"` of every row. Prompts are numbered from 0; -1 is the
    last. Nothing is read before it is asked for. Made by `open_capture`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.manifest: CapturedManifest = read_captured(folder)
        self.folder = self.manifest.folder
        self.sha256, wrong = read_finished(self.folder, {s.file: s.bytes for s in self.manifest.shards})
        if wrong:
            cure = "run the capture again, and it makes the shard anew, or delete the line"
            raise TraceError(f"{wrong[0]}: {cure}")
        self.shards = Shards(self.manifest, [s for s in self.manifest.shards if s.file in self.sha256])

    def __reduce__(self) -> tuple[type["Captured"], tuple[Path]]:
        return Captured, (self.folder,)

    # -- what it is -------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Full names of the captured sites, in execution order."""
        return list(self.manifest.sites)

    @property
    def model(self) -> Mapping[str, Any]:
        """What the manifest says of the model: its name, commit, fingerprint, dtype."""
        return self.manifest.model

    @property
    def config(self) -> ModelConfig:
        """The config of the model."""
        return self.manifest.config

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the capture: positions, store and so on."""
        return self.manifest.options

    @property
    def n_prompts(self) -> int:
        """Number of prompts, those of unfinished shards among them."""
        return self.manifest.prompts

    @property
    def n_rows(self) -> int:
        """Number of rows of the finished shards."""
        return self.shards.n_rows

    @property
    def nbytes(self) -> int:
        """Bytes of the finished shards."""
        return sum(shard.bytes for shard in self.shards.there)

    @functools.cached_property
    def prompts(self) -> Sequence[int]:
        """The numbers of the prompts that are there: all, unless the capture is unfinished."""
        if not self.unfinished:
            return range(self.n_prompts)
        spans = [range(s.first_prompt, s.first_prompt + s.prompts) for s in self.shards.there]
        return [number for span in spans for number in span]

    @property
    def unfinished(self) -> list[str]:
        """The files of shards that are still to be made."""
        return [shard.file for shard in self.manifest.shards if shard.file not in self.sha256]

    @property
    def state(self) -> str:
        """How much is there, in words: "3 of 10 shards are finished"; empty if it is everything."""
        n, missing = len(self.manifest.shards), len(self.unfinished)
        return f"{n - missing} of {counted(n, 'shard')} are finished" if missing else ""

    def __repr__(self) -> str:
        state = f", {self.state}" if self.unfinished else ""
        counts = f"{counted(self.n_prompts, 'prompt')}, {counted(len(self), 'site')}"
        return f"<Captured {self.folder}: {counts}, {self.n_rows:,} rows, {human_bytes(self.nbytes)}{state}>"

    # -- arrays -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.manifest.sites)

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.sites)

    def keys(self) -> KeysView[str]:
        """Return the names as a view."""
        return self.manifest.sites.keys()

    def __contains__(self, key: object) -> bool:
        """Whether `captured[key]` is there, under any name."""
        try:
            self[key]  # type: ignore[index]
        except (TraceError, UnknownSiteError):
            return False
        return True

    def __getitem__(self, key: str | tuple[str, int]) -> RowArray:
        """The rows of a site, or of what every token has, as an array that is read when it is used.

        Raises:
            UnknownSiteError: no site has this name.
            TraceError: the site was not captured, or is attention, which has no rows of one length.
        """
        if isinstance(key, str) and key in OF_TOKENS:
            return RowArray(self.shards, OF_TOKENS[key])
        return RowArray(self.shards, self._column(self._name(key)))

    def rows(self, prompt: int) -> dict[str, Array]:
        """Return what was captured of a prompt: the rows of each site, [row, ...], by its full name.

        Of attention's scores and patterns these are [query, head, key]. They are read-only views of the file.

        Raises:
            InputError: there is no such prompt.
            TraceError: its shard is unfinished, or damaged.
        """
        prompt, shard = self.shard_of(prompt)
        rows = shard.rows_of(prompt)
        return {
            name: shard.ragged(name, prompt) if site.ragged else shard.file[name][rows]
            for name, site in self.manifest.sites.items()
        }

    def token_ids(self, prompt: int) -> Array:
        """Return all token ids of a prompt, of whichever rows were kept: int32 [tokens].

        Raises:
            InputError, TraceError: as `rows`.
        """
        prompt, shard = self.shard_of(prompt)
        return shard.ids_of(prompt)

    def positions(self, prompt: int) -> Array:
        """Return the positions whose rows were kept of a prompt: int32 [rows].

        Raises:
            InputError, TraceError: as `rows`.
        """
        prompt, shard = self.shard_of(prompt)
        kept: Array = shard.positions[shard.rows_of(prompt)]
        return kept

    @overload
    def batches(
        self,
        sites: str | tuple[str, int],
        size: int,
        *,
        seed: int = ...,
        epochs: int | None = ...,
        buffer: int = ...,
        drop_last: bool = ...,
    ) -> Iterator[Array]: ...
    @overload
    def batches(
        self,
        sites: list[str],
        size: int,
        *,
        seed: int = ...,
        epochs: int | None = ...,
        buffer: int = ...,
        drop_last: bool = ...,
    ) -> Iterator[dict[str, Array]]: ...
    def batches(
        self,
        sites: str | tuple[str, int] | list[str],
        size: int,
        *,
        seed: int = 0,
        epochs: int | None = 1,
        buffer: int = BUFFER,
        drop_last: bool = False,
    ) -> Iterator[Array] | Iterator[dict[str, Array]]:
        """Return an iterator over the rows in random order, `size` at a time: [size, ...].

        One site gives arrays; a list gives dicts of arrays by full names, and may hold patterns
        (`"resid_post"`: of every layer that was captured), `"token_id"`, `"next_token_id"`, `"position"` and
        `"prompt"`. Every row comes once an epoch, in an order that `seed` decides; `epochs=None` never ends.
        The last batch of an epoch is smaller, or with `drop_last` left out. Rows are mixed within `buffer`
        bytes of them, which that memory is taken for. Batches are yours: they can be written to.

        Raises:
            InputError: a number is out of range, or there are no rows for one batch.
            UnknownSiteError: no site has this name.
            TraceError: a site was not captured, or a shard is missing or damaged.

        Example:
            >>> for batch in captured.batches("h.3.resid_post", 4096, epochs=2):
            ...     train(batch.astype("float32"))
        """
        size, seed = whole_number("size", size, 1), whole_number("seed", seed, 0)
        epochs = None if epochs is None else whole_number("epochs", epochs, 1)
        buffer = whole_number("buffer", buffer, 1)
        alone = not isinstance(sites, list)
        if isinstance(sites, list):
            columns = [column for pattern in sites for column in self._columns(pattern)]
        else:
            columns = [self[sites].column]
        columns = list(dict.fromkeys(columns))
        if not columns:
            raise InputError("batches of no sites: give the name of one, or a list of names")
        if self.n_rows < (size if drop_last else 1):
            rows = counted(self.n_rows, "row") + (" so far" if self.unfinished else "")
            whole = f" of {size:,}; without drop_last there are smaller ones" if drop_last else ""
            raise InputError(f"{self.folder}: has {rows}, too few for a batch{whole}")
        self.shards.check_sizes()
        found = shuffled_batches(self.shards, columns, size, seed, epochs, buffer, drop_last)
        return (batch[columns[0].name] for batch in found) if alone else found

    # -- checking ---------------------------------------------------------------------------------

    def verify(self, model: "Model | None" = None, sample: int = 8) -> "CaptureCheck":
        """Check that the shards are what was captured; see `capture.verification.verify_capture`.

        Raises:
            VerificationError: names the shards that are damaged, or the prompt whose rows differ.
        """
        from gpt2np.capture.verification import verify_capture

        return verify_capture(self, model, sample)

    # -- looking things up ------------------------------------------------------------------------

    def _name(self, key: str | tuple[str, int]) -> str:
        """The full name of a site that was captured, by any of its names."""
        sites = self.manifest.sites
        if isinstance(key, str) and key in sites:
            return key
        name, layer = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        site, layer = self.config.architecture.sites.resolve(name, layer, self.config.n_layer)
        full_name = site.full_name(layer)
        if full_name not in sites:
            raise TraceError(f"{full_name} was not captured: {self.folder} has {_listed(self.names)}")
        return full_name

    def _column(self, name: str) -> Column:
        """The column of a captured site."""
        if self.manifest.sites[name].ragged:
            raise TraceError(
                f"{name} has as many keys as each prompt has tokens, so it is no array of rows: "
                "captured.rows(prompt) has it, [query, head, key]"
            )
        return column_of(name, self.manifest)

    def _columns(self, pattern: str) -> list[Column]:
        """The columns that a name or pattern means, of those that were captured."""
        if pattern in OF_TOKENS:
            return [OF_TOKENS[pattern]]
        meant = [name for name, _, _ in sites_named(self.config, pattern)]
        names = [name for name in meant if name in self.manifest.sites]
        if not names:
            raise TraceError(f"{short(pattern)} was not captured: {self.folder} has {_listed(self.names)}")
        return [self._column(name) for name in names]

    def shard_of(self, prompt: int) -> tuple[int, Shard]:
        """A prompt's number, counted from the first, and its open shard.

        Raises:
            InputError, TraceError: as `rows`.
        """
        n = self.n_prompts
        number = whole_number("prompt", prompt, -n, n - 1) % n
        planned = self.manifest.shards
        facts = planned[int(np.searchsorted(self._firsts, number, side="right")) - 1]
        if facts.file not in self.sha256:
            raise TraceError(f"prompt {number} is in {facts.file}, which is not finished: {self.state}")
        return number, self.shards.open(self._there[facts.file])

    @functools.cached_property
    def _firsts(self) -> Array:
        return np.array([shard.first_prompt for shard in self.manifest.shards])

    @functools.cached_property
    def _there(self) -> dict[str, int]:
        return {shard.file: i for i, shard in enumerate(self.shards.there)}


def open_capture(folder: str | os.PathLike[str]) -> Captured:
    """Open a folder that `gpt2np capture --text` or `Model.capture` wrote; nothing but its manifest is read.

    An unfinished one opens with the shards that are finished, and a warning that says how many they are.

    Raises:
        TraceError: there is no such folder, or its manifest is damaged.
        InputError: `folder` is no path.
    """
    captured = Captured(folder)
    if captured.unfinished:
        warnings.warn(f"{folder}: {captured.state}; run the capture again to finish it", stacklevel=2)
    return captured


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 6 else f"{', '.join(names[:4])}, ... {names[-1]}"
