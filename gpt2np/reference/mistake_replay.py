"""Runs a stretch of the model in float64 with a mistake in it: what a dump with this mistake would hold."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.sites import split_qkv
from gpt2np.model import Model
from gpt2np.ops import Array, LayerNorm, Norm, layer_norm, rms_norm
from gpt2np.ops.readable_parameters import as_held
from gpt2np.reference.mistakes import At, Mistake
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import bases, block_input
from gpt2np.tracing.lines import lines
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.sites import Site
from gpt2np.tracing.step import Step
from gpt2np.tracing.trace import Trace


@dataclass(frozen=True)
class Scope:
    """Where a mistake is made: in all heads or some, at all positions or some."""

    heads: tuple[int, ...] | None = None
    rows: slice = field(default_factory=lambda: slice(None))

    def apply(self, out: Array, wrong: Array, site: Site, n_head: int) -> None:
        """Put the wrong values into `out` where the scope says so."""
        if site.name == "attn.qkv":
            out, wrong = (split_qkv(x, n_head) for x in (out, wrong))  # [3, pos, head, d_head]
            axes: tuple[str, ...] = ("3", "pos", "head", "d_head")
        else:
            axes = site.axis_names
        index: list[Any] = [slice(None)] * len(axes)
        for i, axis in enumerate(axes):
            if axis in ("pos", "query"):
                index[i] = self.rows
            elif axis == "head" and self.heads is not None:
                index[i] = list(self.heads)
        out[tuple(index)] = wrong[tuple(index)]


class Replayed:
    """The sites of a replay by full name, derived ones too; what was not replayed is the truth's."""

    def __init__(self, truth: Trace, model: Model, found: Mapping[str, Array]) -> None:
        self.config, self.positions = truth.config, truth.positions
        self.token_ids = truth.token_ids
        self._truth, self._model, self._found = truth, model, found

    def parameters(self, needed_for: str = "", /) -> Any:
        """The parameters in float64."""
        return self._model.parameters

    def __getitem__(self, name: str) -> Array:
        if name in self._found:
            return self._found[name]
        site, layer = self.config.architecture.sites.resolve(name, None, self.config.n_layer)
        if not site.derived:
            return self._truth[name]
        norm, _, statistic = site.name.rpartition(".")
        if norm.startswith("ln_") and norm_output(self.config, norm, layer) in self._found:
            return self._statistic(norm, layer, statistic)
        with np.errstate(all="ignore"):
            return self.config.architecture.derived[site.name].compute(self, layer)

    def _statistic(self, norm: str, layer: int | None, statistic: str) -> Array:
        """What a norm must have computed inside, if its output is what was replayed."""
        p: Any = self._model.parameters if layer is None else self._model.parameters.h[layer]
        parameters: Norm = getattr(p, norm)
        shift = parameters.bias if isinstance(parameters, LayerNorm) else 0.0
        x = self[norm_reads(self.config, norm, layer)]
        with np.errstate(all="ignore"):
            normalized = (self._found[norm_output(self.config, norm, layer)] - shift) / parameters.weight
            if statistic == "normalized":
                return np.asarray(normalized)
            if statistic == "rms":
                return np.asarray(np.sum(x * x, axis=-1) / np.sum(normalized * x, axis=-1))
            centred = x - x.mean(axis=-1, keepdims=True)
            rstd = np.sum(normalized * centred, axis=-1) / np.sum(centred * centred, axis=-1)
            return np.asarray(
                rstd if statistic == "rstd" else x.mean(axis=-1) - normalized.mean(axis=-1) / rstd
            )


class _Reached(Exception):
    """The last step that was asked for has run."""


class Replays:
    """Replays mistakes in one run."""

    def __init__(self, model: Model, truth: Trace, prefill: int) -> None:
        """`truth` is a trace in float64; `model` computes in float64, or in float32 to be quick."""
        self.model, self.truth, self.prefill = model, truth, prefill

    def replay(
        self,
        mistake: Mistake,
        variant: Any,
        steps: Iterable[str],
        scope: Scope,
        until: str,
        columns: Array | None = None,
    ) -> Replayed:
        """The sites up to `until` of a run in which the mistake is made in these steps (full names).

        With `columns` only these of the logits are computed: all are as many as there are words.
        """
        cfg = self.model.config
        touched = {n: cfg.architecture.sites.resolve(n, None, cfg.n_layer) for n in steps}
        last = until_step(until, cfg)
        found: dict[str, Array] = {}

        def swap(name: str, op: Callable[..., None]) -> Callable[..., None]:
            def run(*inputs: Any, out: Array) -> None:
                if name not in touched and not found:  # before the mistake all is as it should be
                    out[...] = self.truth[name]
                    if name == last:
                        raise _Reached
                    return
                if name == "logits" and name not in touched and columns is not None:
                    x, words, *others = inputs
                    found[name] = np.empty((len(x), len(columns)), out.dtype)
                    op(x, words[columns], *others, out=found[name])
                    raise _Reached
                if name not in touched or scope != Scope():
                    op(*inputs, out=out)
                if name in touched:
                    site, layer = touched[name]
                    at = At(site.name, layer, cfg, self.model.parameters, replayed, self.prefill)
                    wrong = np.empty_like(out)
                    mistake.run(at, variant, *inputs, out=wrong)
                    scope.apply(out, wrong, site, cfg.n_head)
                found[name] = out.copy()
                if name == last:
                    raise _Reached

            return run

        replayed = Replayed(self.truth, self.model, found)
        sequence = PackedSequence(np.array(self.truth.token_ids))
        run = Pass(cfg, self.model.dtype, [sequence], start=self._start(touched), swap=swap)
        with np.errstate(all="ignore"), contextlib.suppress(_Reached):
            cfg.architecture.forward(as_held(self.model.parameters), cfg, Step(run))
        return replayed

    def _start(self, touched: Mapping[str, tuple[Site, int | None]]) -> tuple[int, Array] | None:
        """The block to begin with, and what enters it: nothing before the mistake is run again."""
        before = self.model.config.architecture.sites.before_layers
        if any(site in before for site, _ in touched.values()):
            return None
        inside, n_layer = (
            [layer for _, layer in touched.values() if layer is not None],
            self.model.config.n_layer,
        )
        first = min(inside, default=n_layer)
        return first, self.truth[block_input(first, n_layer)].astype(self.model.dtype)


def until_step(name: str, config: ModelConfig) -> str:
    """The step after which a site, stored or derived, is known."""
    table = config.architecture.sites
    site, layer = table.resolve(name, None, config.n_layer)
    norm, _, _ = site.name.rpartition(".")
    if not site.derived:
        return name
    return norm_output(config, norm, layer) if norm.startswith("ln_") else bases(config, site.name, layer)[0]


def norm_reads(config: ModelConfig, norm: str, layer: int | None) -> str:
    """The site that a norm reads, of which there are statistics."""
    return config.architecture.derived[f"{norm}.normalized"].reads[0](layer, config.n_layer)


def norm_output(config: ModelConfig, norm: str, layer: int | None) -> str:
    """The site that a norm gives: it bears the norm's name, or that of the part whose last step it is."""
    if norm in config.architecture.sites.by_name:
        return config.architecture.sites[norm].full_name(layer)
    return _behind(config)[norm_reads(config, norm, layer)]


@functools.lru_cache(maxsize=4)
def _behind(config: ModelConfig) -> dict[str, str]:
    """The sites that norms give, by what they read."""
    norms = layer_norm, rms_norm
    return {str(line.reads[0]): name for name, line in lines(config).items() if line.op in norms}
