"""A trace: every kept array of one run, in one block of memory or one file, under every name it has."""

import os
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2np import tensorfile
from gpt2np.characters import joined
from gpt2np.errors import TraceError, UnknownSiteError, short, whole_number
from gpt2np.files import kind_of
from gpt2np.ops import Array
from gpt2np.outputs import check_kind, check_not_read
from gpt2np.tables import counted
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import Widened, log_probabilities, stored_for, top_k_tokens
from gpt2np.tracing.edits import told_of_edits
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.replay import embedded, unembedded
from gpt2np.tracing.sites import DIALECTS, TOP_K, Site
from gpt2np.tracing.trace_metadata import (
    NO_OTHER,
    file_metadata,
    in_other_names,
    of_another_model,
    read_metadata,
)
from gpt2np.tracing.trace_summary import summary

if TYPE_CHECKING:
    from gpt2np.export.dialects.dialect import Dialect
    from gpt2np.model import Model
    from gpt2np.tracing.verify import Verification


class Trace:
    """The recorded arrays of one run: `trace["h.3.attn.pattern"]` is [head, query, key], read-only.

    Any name of the site table works, in any dialect, with the layer inside or beside it:
    `trace["blocks.3.attn.hook_pattern"]`, `trace["attention_weights", 3]`, `trace["pattern", -1]` (the last
    layer). As a mapping it has the stored arrays only: `len(trace)`, `keys()`, `for name in trace`.
    """

    def __init__(
        self,
        plan: Plan,
        arrays: Mapping[str, Array],
        token_ids: Sequence[int],
        metadata: Mapping[str, Any],
        model: "Model | None" = None,
        last_logits: Array | None = None,
        timings: dict[str, float] | None = None,
    ) -> None:
        self.plan, self.model, self.timings = plan, model, timings
        self.config: ModelConfig = plan.config
        self.metadata = dict(metadata)
        self.token_ids = [int(i) for i in token_ids]
        self.positions = plan.positions
        self._arrays = {name: _read_only(array) for name, array in arrays.items()}
        self._last_logits = last_logits
        self._source: Path | None = None  # the file that it was opened from

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy, or out of a pickle, it can be written to no more than before."""
        vars(self).update(state)
        self._arrays = {name: _read_only(array) for name, array in self._arrays.items()}

    # -- looking things up ------------------------------------------------------------------------

    def __getitem__(self, key: str | tuple[str, int]) -> Array:
        """The array of a site: stored, or derived from what is stored.

        Raises:
            UnknownSiteError: no site has this name.
            TraceError: the site, or one that it is derived from, was not kept.
        """
        name, layer = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        stored = self._arrays.get(name) if layer is None and isinstance(name, str) else None
        if stored is not None:
            return stored
        site, layer = self.config.architecture.sites.resolve(name, layer, self.config.n_layer)
        full_name = site.full_name(layer)
        if full_name in self._arrays:
            return self._arrays[full_name]
        if not site.derived:
            others = [name for name in self._arrays if self.plan.by_name[name].site is site]
            there = f"; of this site there are {', '.join(others)}" if others else ""
            raise TraceError(
                f"{full_name} is not in this trace: it was not kept, or the run stopped before{there}"
            )
        try:
            return _read_only(self.derive(site.name, layer))
        except TraceError as error:
            raise TraceError(f"{full_name} is derived: {error}") from None

    def derive(self, site: str, layer: int | None) -> Array:
        """Compute a derived site, even if it is stored."""
        source = Widened(self) if self.plan.keep.dtype == "float16" else self
        with np.errstate(all="ignore"):
            return self.config.architecture.derived[site].compute(source, layer)

    def __contains__(self, key: object) -> bool:
        """Whether `trace[key]` is there, stored or derivable, under any name."""
        try:
            self[key]  # type: ignore[index]
        except (TraceError, UnknownSiteError, TypeError):
            return False
        return True

    def names(self) -> list[str]:
        """Full names of the stored arrays, in execution order."""
        return list(self._arrays)

    def keys(self) -> KeysView[str]:
        """Return the same as a view."""
        return self._arrays.keys()

    def values(self) -> ValuesView[Array]:
        """Return the stored arrays, in execution order."""
        return self._arrays.values()

    def items(self) -> ItemsView[str, Array]:
        """Full name and array of each stored array, in execution order."""
        return self._arrays.items()

    def get(self, key: str | tuple[str, int], default: Array | None = None) -> Array | None:
        """`trace[key]`, or `default` where that is not there."""
        try:
            return self[key]
        except (TraceError, UnknownSiteError):
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __bool__(self) -> bool:
        """True, even if nothing was kept."""
        return True

    def _ipython_key_completions_(self) -> list[str]:
        """What Tab offers after `trace[`: full names, stored or derivable, then those of other programs."""
        table = self.config.architecture.sites
        there = [row for row in table.expand(self.config.n_layer) if self._has(*row)]
        names = [name for name, _, _ in there]
        for dialect in DIALECTS:
            for _, site, layer in there:
                names += [name.replace("{i}", str(layer)) for name in site.names.get(dialect, ())]
        return [name for name in dict.fromkeys(names) if table.has(name, self.config.n_layer)]

    def _has(self, full_name: str, site: Site, layer: int | None) -> bool:
        """Whether a site was stored, or all that it is computed from."""
        stored = stored_for(self.config, site.name, layer)
        weights = site.derived and self.config.architecture.derived[site.name].needs_weights
        derivable = all(name in self._arrays for name in stored) and not (weights and self.model is None)
        return full_name in self._arrays or derivable

    @property
    def dims(self) -> dict[str, str]:
        """Axis names of each stored array: `dims["h.3.attn.pattern"]` is `"head query key"`."""
        return {name: self.plan.by_name[name].site.axes for name in self._arrays}

    @property
    def nbytes(self) -> int:
        """Bytes of the stored arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def stack(self, name: str) -> Array:
        """Return one site of every layer, [layer, ...]; a view if the arrays are evenly spaced in memory.

        Raises:
            UnknownSiteError: no site of a layer has this name.
            TraceError: some layer of it was not kept.
        """
        resolve = self.config.architecture.sites.resolve
        try:
            site = resolve(name, None, self.config.n_layer)[0]  # with a layer inside, which does not matter
        except UnknownSiteError:
            site = resolve(name, 0, self.config.n_layer)[0]
        if not site.layered:
            raise UnknownSiteError(f"{short(name)} is not in a layer: {site.name} has no number")
        n_layer = self.config.n_layer if self.plan.stop_at_layer is None else self.plan.stop_at_layer
        if n_layer == 0:
            raise TraceError(f"{name} is in no layer of this trace: the run stopped before the first")
        layers = [self[site.full_name(layer)] for layer in range(n_layer)]
        addresses = [array.__array_interface__["data"][0] for array in layers]
        gaps = set(np.diff(addresses).tolist())
        in_arena = all(site.full_name(layer) in self._arrays for layer in range(n_layer))
        if not (in_arena and len(gaps) == 1 and min(gaps) > 0):
            return _read_only(np.stack(layers))
        return np.lib.stride_tricks.as_strided(
            layers[0], (n_layer, *layers[0].shape), (gaps.pop(), *layers[0].strides), writeable=False
        )

    # -- the text and the prediction --------------------------------------------------------------

    @property
    def prompt(self) -> str | None:
        """The text that was run, if it was given as text."""
        return self.metadata.get("prompt")

    @property
    def edited(self) -> str:
        """What `edits` replaced in this run, "h.0.attn.z (zero heads=0)"; empty in the model's own run."""
        return told_of_edits(self.metadata)

    @property
    def tokens(self) -> list[str]:
        """Each token as text."""
        tokens = self.metadata.get("tokens")
        return list(tokens) if tokens else [f"<{i}>" for i in self.token_ids]

    @property
    def attention_mask(self) -> Array:
        """1 for every token, as Hugging Face's tokenizers say that none is padding: int64 [pos]."""
        return _read_only(np.ones(len(self.token_ids), np.int64))

    @property
    def position_ids(self) -> Array:
        """The row of the position embedding that each token gets: int64 [pos]."""
        return _read_only(np.arange(len(self.token_ids)))

    @np.errstate(under="ignore")
    def top(self, k: int = 5, pos: int = -1) -> list[tuple[str, int, float]]:
        """Return the k likeliest tokens to follow a position: (token, id, probability), likeliest first.

        A trace that was opened without its model, which has the vocabulary, names them by id: `<298>`.

        Raises:
            InputError: no such position, or k below 1.
            TraceError: neither the logits nor what they are computed from were kept.
        """
        k = whole_number("k", k, 1)
        logits = self._logits_at(pos).astype(np.float64)
        probabilities = np.exp(log_probabilities(logits))
        ids = top_k_tokens(logits, k)
        return [(self.token(i), i, float(probabilities[i])) for i in ids.tolist()]

    def top_k_tokens(self, k: int = TOP_K) -> Array:
        """Return the ids of the k likeliest tokens to follow each kept position: int64 [pos, k].

        Raises:
            InputError: k is below 1.
            TraceError: the logits were not kept.
        """
        return _read_only(top_k_tokens(self["logits"], whole_number("k", k, 1)))

    def _logits_at(self, pos: int) -> Array:
        n = len(self.token_ids)
        position = whole_number("pos", pos, -n, n - 1) % n
        if self._last_logits is not None and position == n - 1:
            return self._last_logits
        if position not in self.positions:
            raise TraceError(f"position {position} was not kept (kept are {self.positions})")
        row = self.positions.index(position)
        if "logits" in self._arrays:
            return np.asarray(self["logits"][row])
        if "ln_f" in self._arrays and self.model is not None:
            x = self["ln_f"][row : row + 1].astype(self.plan.dtype)
            return np.asarray(unembedded(x, self.parameters("logits"), self.config)[0])
        raise TraceError("the logits were not kept: keep='logits' (or 'ln_f', and open with model=)")

    def token(self, token_id: int) -> str:
        """Return one token as text."""
        tokenizer = getattr(self.model, "usable_tokenizer", None)
        return tokenizer.tokens([token_id])[0] if tokenizer is not None else f"<{token_id}>"

    # -- checking and keeping ---------------------------------------------------------------------

    def parameters(self, needed_for: str = "this") -> Any:
        """Return the parameters of the model that ran, as NamedTuples (`weights.py` of its architecture).

        Raises:
            TraceError: the trace was opened without its model.
        """
        return self.model_for(needed_for).parameters

    def model_for(self, needed_for: str) -> "Model":
        """Return the model that ran.

        Raises:
            TraceError: the trace was opened without its model.
        """
        if self.model is None:
            raise TraceError(f"{needed_for} needs the model's weights: Trace.open(path, model=...)")
        return self.model

    def verify(self, model: "Model | None" = None) -> "Verification":
        """Check every identity that must hold inside a trace; see `tracing.verify`.

        An opened trace needs its model for the identities in which weights occur, here or in `open`.

        Raises:
            VerificationError: names the first identity that does not hold.
        """
        from gpt2np.tracing.verify import verify

        if model is None:
            return verify(self)
        self.check_model(model, "verify")
        return verify(Trace(self.plan, self._arrays, self.token_ids, self.metadata, model))

    def to(self, dialect: str) -> "Dialect":
        """Return the trace in another program's names: `guide`, `hf`, `transformer_lens` or `llm.c`.

        Raises:
            InputError: no such dialect.
        """
        from gpt2np.export.dialects.dialect import Dialect

        return Dialect(self, dialect)

    def save(self, path: str | Path, *, sync: bool = True) -> None:
        """Write the trace as one `.safetensors` file, whole or not at all, replacing an existing one.

        It may be the one it was opened from. `sync=False` does not wait for the disk: unsafe in a power cut.

        Raises:
            InputError: the file is one of those that the model was read from.
            TraceError: the file cannot be written, or its name says that it is of another kind.
        """
        check_not_read(path, [file for file in self.source_files() if file != self._source])
        check_kind(path, ".safetensors", NO_OTHER, TraceError)
        tensorfile.save_tensors(Path(path), self._arrays, file_metadata(self.metadata), sync)

    def source_files(self) -> list[Path]:
        """Return the file that the trace was opened from, if any, and those that its model was read from."""
        of_model = [] if self.model is None else self.model.checkpoint.source_files()
        return [*filter(None, [self._source]), *of_model]

    @classmethod
    def open(cls, path: str | Path, model: "Model | None" = None) -> "Trace":
        """Open a saved trace, or an npz or safetensors file that `gpt2np export` wrote, in any dialect.

        The arrays of a saved trace are mapped, and read when they are used. What was exported becomes a
        trace by `export.dialects.read_dialect`, which says what it takes of memory.

        Raises:
            TraceError: the file is missing or damaged, is no trace, or is of another model than `model`.
        """
        path = Path(path)
        file = None if kind_of(path) == "a zip file" else tensorfile.open_tensors(path, error=TraceError)
        if file is None or in_other_names(file):
            from gpt2np.export.dialects.reading import read_dialect

            trace = read_dialect(path, model)
        else:
            plan, metadata = read_metadata(file)
            arrays = {entry.name: file[entry.name] for entry in plan.entries}
            trace = cls(plan, arrays, metadata["token_ids"], metadata, model)
        trace._source = Path(os.path.abspath(path))
        if model is not None:
            trace.check_model(model, path)
        return trace

    def check_model(self, model: "Model", where: object) -> None:
        """Refuse a model that did not make this trace, as far as config and recorded embeddings tell.

        The fingerprint alone refuses nothing: a copy of the same weights has another one.
        """
        same = model.config.to_dict() == self.config.to_dict()
        if same and self.model is not None and self.model is not model:
            mine, theirs = self.model.weights, model.weights
            same = mine.keys() == theirs.keys() and all(np.array_equal(mine[n], theirs[n]) for n in mine)
        elif same and self.metadata.get("fingerprint") != model.checkpoint.fingerprint:
            ids, positions = np.array(self.token_ids)[list(self.positions)], list(self.positions)
            for name, expected in embedded(model.parameters, self.config, ids, positions).items():
                if name in self._arrays and not self.metadata.get("edits"):
                    same = same and np.allclose(self._arrays[name], expected, rtol=2e-3, atol=2e-3)
        if not same:
            raise TraceError(f"{where}: {of_another_model(self.metadata, model.name)}")

    def _repr_html_(self) -> str:
        """What a notebook shows: tokens, prediction and sites; `gpt2np.view(trace)` is the whole page."""
        return summary(self)

    def __repr__(self) -> str:
        text = joined(self.tokens)
        if len(self.token_ids) > 12:
            text = text[: len(joined(self.tokens[:12]))] + "..."
        counts = (
            f"{counted(len(self.token_ids), 'token')}, {counted(len(self), 'array')}, {self.nbytes:,} bytes"
        )
        return f"<Trace of {text!r}: {counts}{f'; edited: {self.edited}' if self.edited else ''}>"


def _read_only(array: Array) -> Array:
    if array.flags.writeable:
        array = array.view()
        array.setflags(write=False)
    return array
