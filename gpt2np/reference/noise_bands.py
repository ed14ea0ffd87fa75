"""Truth with error bars: a run in float64, and how far float32 arithmetic may be from it at every site.

Two implementations without a mistake differ in the last digits, since they add up in another order. How much
that is depends on the model, the text, the layer and the position, so it is measured: the run is repeated in
float32 with sums taken in different orders, and each one's distance from the float64 run is one sample of the
noise. A band is a multiple of the noise that no implementation without a mistake was seen to leave.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np import ops
from gpt2np.model import Model
from gpt2np.ops import Array, Linear
from gpt2np.ops.readable_parameters import as_held
from gpt2np.reference.precision import EPSILON, in_precision, rounded
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import Derived, bases
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.sites import Site
from gpt2np.tracing.step import Step
from gpt2np.tracing.trace import Trace

BAND = 16.0  # times the noise; the largest error of a normal distribution's 10**9 numbers is 6 times it
_INSIDE = 1.5  # times as much in half precisions: some programs round them inside a step, too
_SHAKEN = 16  # runs in half precision for a short text, where what is done to one row may be luck
_TAIL = 3.2  # times the root mean square: the largest of a thousand numbers of a normal distribution
_STEP = 0.2  # of the spacing of numbers: the root mean square of what one addition is rounded by
_IN_TURN = 256  # additions that programs make one after another before they cut a sum into blocks
# Derived sites whose bands follow from those of others, or which have none.
_FOLLOWS = ("resid_pre", "attn.heads", "probabilities", "loss", "top_k_tokens")
_HUGE = 300.0  # logits that are off by more can mean any probability, and e**709 is the largest number
_SMALL = 20_000_000  # parameters of a model of which a run is as good as free
_FEW = 100_000  # elements of a residual stream below which single runs are luck, and more of them are made


class Expected:
    """What a run without a mistake gives: `truth`, a float64 trace, and `bands` around its sites.

    `bands[name]` is the largest absolute error that arithmetic in this precision explains, in float64; it
    broadcasts against `truth[name]` and has length 1 along the last axis, except where each element has a
    band of its own (`probabilities`).

    Example:
        >>> expected = expect(gpt2np.load("tiny"), [464, 3])
        >>> np.abs(trace["h.0.ln_1"] - expected.truth["h.0.ln_1"]) <= expected.bands["h.0.ln_1"]
    """

    def __init__(self, truth: Trace, bands: Mapping[str, Array]) -> None:
        self.truth, self.bands = truth, bands


def expect(
    model: Model, token_ids: Sequence[int], precision: str = "float32", truth: Trace | None = None
) -> Expected:
    """Truth and bands for a prompt; `precision` is that of the arithmetic: float32, float16 or bfloat16.

    `truth` is the float64 trace of this prompt, where it has been run already.
    """
    truth = in_precision(model, "float64").trace(list(token_ids)) if truth is None else truth
    noise = Noise(truth, precision)
    few = truth["embed"].size * model.config.n_layer < _FEW
    single = in_precision(model, "float32", None if precision == "float32" else precision)
    small = model.config.n_parameters < _SMALL  # adding one product after another takes its time in Python
    for pieces in ((1, 2, 3, 5, 7, 0) if small else (1, 2, 3)) if few else (1, 3):
        noise.sample(single, pieces)
    for _ in range(_SHAKEN if few and small and precision != "float32" else 0):
        noise.sample(single, 1, shaken=True)
    return Expected(truth, Bands(truth, noise.rows, precision))


class Noise:
    """Errors of float32 runs, by site: a number a row (a position, or a head's query).

    It is the root mean square error of the row, or more where a few elements have most of the error. Derived
    sites are computed from the same runs, but for those whose bands follow from others.
    """

    def __init__(self, truth: Trace, precision: str) -> None:
        self.truth, self.precision = truth, precision
        self.rows: dict[str, Array] = {}
        self._sites = _sites_of(truth.config)
        self._after, self._shared = _derivable(truth.config)
        self._shaken, self._rng = False, np.random.default_rng(0)

    def sample(self, model: Model, pieces: int, shaken: bool = False) -> None:
        """Run once, every matrix product summed in so many pieces; keep the larger errors.

        With 0 pieces one product after another is added to the bias, or to 0, as a plain program does it.
        `shaken`: every result is off by up to one rounding, as in a program that rounds inside a step too.
        """
        self._shaken = shaken
        config: Any = model.config  # which has a base of angles where there is something to turn

        def swap(name: str, op: Callable[..., None]) -> Callable[..., None]:
            if pieces == 0:
                op = _IN_TURN_OF.get(op, op)
            elif pieces > 1 and op in _IN_PIECES:
                op = functools.partial(_IN_PIECES[op], pieces=pieces)
            elif pieces > 1 and op is ops.rotate:
                op = functools.partial(_rotate_by_float32, theta=config.rope_theta)
            return functools.partial(self._run, results, name, op)

        ids = np.array(self.truth.token_ids)
        results = _Results(self.truth, model)
        run = Pass(model.config, model.dtype, [PackedSequence(ids)], swap=swap)
        with np.errstate(all="ignore"):
            model.config.architecture.forward(as_held(model.parameters), model.config, Step(run))

    def _run(self, results: "_Results", name: str, op: Callable[..., None], *inputs: Any, out: Array) -> None:
        """One step, rounded if the precision is a half one; its error is noted."""
        op(*inputs, out=out)
        if self.precision != "float32" and op is ops.layer_norm:
            _round_the_mean(inputs[0], inputs[1], out, self.precision)
        if self._shaken:
            out *= 1 + (2 * self._rng.random(out.shape, out.dtype) - 1) * EPSILON[self.precision] / 2
        if self.precision != "float32":
            out[...] = rounded(out, self.precision)
        least = _from_the_bias(inputs[-1]) if isinstance(inputs[-1], Linear) else 0.0
        self._note(name, out, least)
        results.arrays[name] = out
        for full_name, derived, layer in self._after.get(name, ()):
            values = derived.compute(results, layer)
            self._note(full_name, values, least if derived.view is not None else 0.0)
        if name in self._shared:
            results.arrays[name] = out.copy()  # read again when more is there; the run may use `out` again
        else:
            del results.arrays[name]

    def _note(self, name: str, values: Array, least: float = 0.0) -> None:
        truth, site = self.truth[name], self._sites[name][0]
        if site.axis_names == ("pos",):
            values = values[:, None]
        error = values.reshape(*truth.shape[: values.ndim - 1], -1) - truth.reshape(*values.shape[:-1], -1)
        if site.unseen == -np.inf or self.precision != "float32":
            np.nan_to_num(error, copy=False, nan=0.0)  # -inf from -inf: the future of the scores
        n = np.isfinite(values).sum(axis=-1, keepdims=True) if site.unseen == -np.inf else error.shape[-1]
        rms = np.sqrt(np.einsum("...i,...i->...", error, error)[..., None] / n)
        noise = np.maximum(rms, np.abs(error).max(axis=-1, keepdims=True) / _TAIL)
        noise = np.maximum(np.where(np.isfinite(noise), noise, 0.0), least)  # float16 overflows
        self.rows[name] = np.maximum(noise, self.rows[name]) if name in self.rows else noise


class _Results:
    """What a run has computed so far, as functions of derived sites read it."""

    def __init__(self, truth: Trace, model: Model) -> None:
        self.config, self.token_ids, self.positions = truth.config, truth.token_ids, truth.positions
        self.arrays: dict[str, Array] = {}
        self._model = model

    def __getitem__(self, name: str, /) -> Array:
        return self.arrays[name]

    def parameters(self, needed_for: str = "", /) -> Any:
        """Those of the model that runs."""
        return self._model.parameters


def _sites_of(config: ModelConfig) -> dict[str, tuple[Site, int | None]]:
    """Every site of a model by full name, with its layer."""
    return {name: (site, layer) for name, site, layer in config.architecture.sites.expand(config.n_layer)}


def _derivable(config: ModelConfig) -> tuple[dict[str, list[tuple[str, Derived, int | None]]], set[str]]:
    """Which derived sites can be computed when a step is done, by its name, and what has to be kept for them.

    A derived site that reads several stored ones is computed when the last of them is there.
    """
    after: dict[str, list[tuple[str, Derived, int | None]]] = {}
    shared: set[str] = set()
    order = {name: i for i, name in enumerate(_sites_of(config))}
    for name, (site, layer) in _sites_of(config).items():
        if site.derived and site.name not in _FOLLOWS:
            *before, last = sorted(bases(config, site.name, layer), key=order.__getitem__)
            derived = config.architecture.derived[site.name]
            after.setdefault(last, []).append((name, derived, layer))
            shared.update(before)
    return after, shared


class Bands(Mapping[str, Array]):
    """The band of every site, stored or derived, by full name."""

    def __init__(self, truth: Trace, noise: Mapping[str, Array], precision: str) -> None:
        self._truth, self._noise, self._epsilon = truth, noise, EPSILON[precision]
        self._sites = _sites_of(truth.config)
        self._bands: dict[str, Array] = {}

    def __iter__(self) -> Iterator[str]:
        return (name for name, (site, _) in self._sites.items() if site.name != "top_k_tokens")

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> Array:
        if name not in self._bands:
            self._bands[name] = self._band(name)
        return self._bands[name]

    def _band(self, name: str) -> Array:
        site, layer = self._sites[name]
        if site.name == "resid_pre":
            return self[f"h.{layer - 1}.resid_post" if layer else "embed"]
        if site.name == "attn.heads":  # each is part of a sum, and no noisier than the sum
            return np.repeat(self[f"h.{layer}.attn.out"][:, None], self._truth.config.n_head, axis=1)
        if site.name == "probabilities":
            p, growth = self._truth[name], self._growth()
            moved = p * (1 - p) * growth / (1 + np.minimum(p, 1 - p) * growth)
            return np.asarray(moved + self._of_softmax() * p + self._epsilon * 1e-3)
        if site.name == "loss":
            loss = np.nan_to_num(self._truth[name])
            rounding = self._of_softmax() + self._epsilon * np.abs(loss)
            return np.asarray(np.log1p((1 - np.exp(-loss)) * self._growth()[:, 0]) + rounding)
        noise, scale = self._noise[name], self._scale(name)
        typical = np.sqrt(np.mean(np.square(noise / scale)))  # what a lucky row would have had
        wide = BAND * (1.0 if self._epsilon == EPSILON["float32"] else _INSIDE)
        band = wide * np.maximum(np.maximum(noise, typical * scale), 0.25 * self._epsilon * scale)
        if site.axis_names == ("pos",):
            return np.asarray(band[..., 0] / 2)
        largest = np.abs(self._truth[name]).max(
            axis=-1, keepdims=True, initial=0.0, where=np.isfinite(self._truth[name])
        )
        sums = 2 * (self._truth.config.n_layer if layer is None else layer + 1)  # in the residual stream
        sums = 0 if site in self._truth.config.architecture.sites.before_layers else sums
        roundings = max(2.0, 6 * _STEP * float(np.sqrt(sums)))
        band = np.maximum(band, roundings * self._epsilon * largest)
        if site.name == "attn.pattern":  # in many a row all the error is in one or two elements
            spread = (self._truth[name] * (1 - self._truth[name])).max(axis=-1, keepdims=True)
            band = np.maximum(band, spread * self[f"h.{layer}.attn.scores"])
        if site.name == "mlp.post":  # a few neurons fire, and have what error they had before
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.nan_to_num(self._truth[name] / self._truth[f"h.{layer}.mlp.pre"])
            slope = np.clip(slope.max(axis=-1, keepdims=True), 0.0, 1.0)
            band = np.maximum(band, slope * self[f"h.{layer}.mlp.pre"])
        return np.asarray(band)

    def _growth(self) -> Array:
        """By how much more than 1 an exponential may grow: its logit is too large, the others are too small.

        A probability p becomes p (1 + growth) / (1 + p growth) then; where all are off the other way, 1 - p
        becomes that of 1 - p.
        """
        return np.asarray(np.expm1(2 * np.minimum(self["logits"], _HUGE)))

    def _of_softmax(self) -> float:
        """Relative error of a probability: of an exponential, and of the sum over the vocabulary."""
        n = min(self._truth.config.vocab_size, _IN_TURN)
        return BAND * self._epsilon * (0.25 + _STEP * float(np.sqrt(n)))

    def _scale(self, name: str) -> Array:
        """The size of the numbers that a row's error comes from."""
        site, layer = self._sites[name]
        if site.name in ("attn.scores", "attn.scores_raw"):  # a small score may be the sum of large products
            q, k = self._truth[f"h.{layer}.attn.q"], self._truth[f"h.{layer}.attn.k"]
            k_norms = np.repeat(_rms(np.linalg.norm(k, axis=-1).T), q.shape[1] // k.shape[1], axis=0)
            norms = np.linalg.norm(q, axis=-1).T * k_norms  # [head, query]
            size = norms[..., None] * self._truth.config.attention_scale(layer or 0)
        elif site.name.endswith(".mean"):
            norm = name.removesuffix(".mean")
            size = _rms(self._truth[norm + ".normalized"]) / self._truth[norm + ".rstd"][:, None]
        else:
            x = self._truth[name]
            size = _rms(x[:, None] if site.axis_names == ("pos",) else x)
            mean = name.removesuffix(".normalized") + ".mean"
            if mean in self._sites:  # which is taken off, and may be far larger than what is left
                size = size * np.maximum(
                    1.0, np.abs(self._truth[mean] * self._truth[mean[:-4] + "rstd"])[:, None]
                )
        return np.asarray(np.maximum(size, 1e-3 * _rms(size.ravel()) + 1e-30))


def _rms(x: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", x, x)[..., None] / x.shape[-1]))


def _round_the_mean(x: Array, p: ops.LayerNorm, out: Array, precision: str) -> None:
    """Make of a LayerNorm one that takes off a rounded mean, as many programs do."""
    mean, rstd = ops.layer_norm_statistics(x, p.epsilon)
    out += (mean - rounded(mean, precision)) * rstd * p.weight


def _from_the_bias(p: Linear) -> float:
    """Rounding error of a sum that begins with the bias, and adds one product after another to it."""
    additions = min(len(p.weight), _IN_TURN)
    return float(_STEP * EPSILON["float32"] * np.sqrt(additions * np.mean(np.square(p.bias))))


# The operations that sum, with their sums cut into pieces: the same mathematics in another order.


def _matmul(a: Array, b: Array, out: Array, pieces: int) -> None:
    n = a.shape[-1]
    ends = [round(n * i / pieces) for i in range(pieces + 1)]
    out[...] = 0
    for start, end in itertools.pairwise(ends):
        if end > start:
            out += np.matmul(a[..., start:end], b[..., start:end, :])


def _linear(x: Array, p: Linear, *, out: Array, pieces: int) -> None:
    _matmul(x, p.weight, out, pieces)
    out += p.bias


def _linear_in_turn(x: Array, p: Linear, *, out: Array) -> None:
    out[...] = p.bias
    term = np.empty_like(out)
    for column, row in zip(x.T, p.weight, strict=True):
        np.multiply(column[:, None], row, out=term)
        out += term


def _product(x: Array, weight: Array, *, out: Array, pieces: int) -> None:
    _matmul(x, weight, out.reshape(len(out), -1), pieces)  # which is as wide as all heads, if it has some


def _product_in_turn(x: Array, weight: Array, *, out: Array) -> None:
    total = out.reshape(len(out), -1)
    _linear_in_turn(x, Linear(weight, np.zeros(weight.shape[1], weight.dtype)), out=total)


def _scores(q: Array, k: Array, scale: float, *, out: Array, pieces: int) -> None:
    _dot_scores(q * scale, k, None, out=out, pieces=pieces)


def _dot_scores(q: Array, k: Array, window: int | None, *, out: Array, pieces: int) -> None:
    _matmul(q.transpose(1, 0, 2), _of_all_heads(k, len(out)).transpose(1, 2, 0), out, pieces)
    out[:, ops.unseen(range(len(k) - len(q), len(k)), len(k), window)] = -np.inf


def _capped_scores(
    q: Array, k: Array, scale: float, cap: float | None, window: int | None, *, out: Array, pieces: int
) -> None:
    _dot_scores(q * scale, k, window, out=out, pieces=pieces)
    hidden = np.isneginf(out)
    ops.capped(out, cap, out=out)
    out[hidden] = -np.inf


def _mix(pattern: Array, v: Array, *, out: Array, pieces: int) -> None:
    values = _of_all_heads(v, len(pattern)).transpose(1, 0, 2)
    _matmul(pattern, values, out.transpose(1, 0, 2), pieces)


def _of_all_heads(x: Array, n_head: int) -> Array:
    """Keys or values [pos, kv_head, d_head], each repeated for the heads that share it."""
    return np.repeat(x, n_head // x.shape[1], axis=1)


def _rotate_by_float32(x: Array, _: ops.Turn, *, out: Array, theta: float) -> None:
    """Turn by angles that are products in float32, as most programs do: the further on, the less exact."""
    j = np.arange(x.shape[-1] // 2, dtype=np.float32)
    frequencies = 1 / np.float32(theta) ** (2 * j / np.float32(x.shape[-1]))
    angles = np.arange(len(x), dtype=np.float32)[:, None, None] * frequencies
    ops.rotate(x, ops.Turn(np.cos(angles), np.sin(angles)), out=out)


def _unembedding(x: Array, table: Array, *, out: Array, pieces: int) -> None:
    _matmul(x, table.T, out, pieces)


def _capped_unembedding(x: Array, table: Array, cap: float | None, *, out: Array, pieces: int) -> None:
    _unembedding(x, table, out=out, pieces=pieces)
    ops.capped(out, cap, out=out)


_IN_TURN_OF: dict[Callable[..., None], Callable[..., None]] = {
    ops.linear: _linear_in_turn,
    ops.product: _product_in_turn,
    ops.project: _product_in_turn,
}
_IN_PIECES: dict[Callable[..., None], Callable[..., None]] = {
    ops.linear: _linear,
    ops.product: _product,
    ops.project: _product,
    ops.scaled_scores: _scores,
    ops.dot_scores: _dot_scores,
    ops.capped_scores: _capped_scores,
    ops.mix: _mix,
    ops.unembedding: _unembedding,
    ops.capped_unembedding: _capped_unembedding,
}
