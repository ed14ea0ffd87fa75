"""Mistakes in how the parts are put together, and at the end."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.forward import attention, mlp
from gpt2np.ops import Array, layer_norm, linear
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.tracing.step import Pass, Step
from gpt2np.tracing.step import Sequence as PackedSequence


class ResidualMissing(Mistake):
    """x = f(x) instead of x + f(x)."""

    slug = "residual-missing"
    explanation = "A block's output replaces the residual stream instead of being added to it."
    cure = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x))."
    steps = ("resid_mid", "resid_post")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[1]


class ResidualAfterNorm(Mistake):
    """The normalised vector is what the output is added to."""

    slug = "residual-after-ln"
    explanation = "The residual is taken after LayerNorm: the output is added to the normalised vector."
    cure = "Keep x from before LayerNorm, and add to that."
    steps = ("resid_mid", "resid_post")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = at.earlier("ln_1" if at.step == "resid_mid" else "ln_2") + inputs[1]


class WrongResidualBranch(Mistake):
    """The MLP's output is added to the stream from before attention, or reads it."""

    slug = "wrong-residual-branch"
    explanation = "The MLP adds to, or reads, the residual stream from before attention."
    cure = "Attention and MLP run one after the other: the MLP reads, and adds to, resid_mid."
    steps = ("ln_2", "resid_post")

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from ("adds to", "reads")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "ln_2":
            x = at.earlier("resid_pre") if variant == "reads" else inputs[0]
            layer_norm(x, inputs[1], out=out)
        else:
            out[...] = (at.earlier("resid_pre") if variant == "adds to" else inputs[0]) + inputs[1]

    def detail(self, variant: Any) -> str:
        return f"it {variant} it"


class PostNorm(Mistake):
    """LayerNorm after the residual addition, as in the first Transformer."""

    slug = "post-norm"
    explanation = (
        "LayerNorm stands after the residual addition (post-norm); GPT-2 normalises before each part."
    )
    cure = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x)): the stream itself is never normalised."
    steps = ("ln_1", "attn.qkv", "resid_mid", "ln_2", "mlp.pre", "resid_post")
    together = True

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from ("sum", "norm")  # what the dump calls resid_mid and resid_post

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = at.earlier("resid_pre"), at.block
        if at.step == "attn.qkv":
            linear(x, p.attn.c_attn, out=out)
            return
        total = x + attention(x, p.attn, at.config, at.layer or 0, _silent(at, x).at("attn"))
        if at.step == "resid_mid" and variant == "sum":
            out[...] = total
            return
        x = np.empty_like(total)
        layer_norm(total, p.ln_1, out=x)
        if at.step in ("ln_1", "resid_mid"):
            out[...] = x
        elif at.step == "mlp.pre":
            linear(x, p.mlp.c_fc, out=out)
        else:
            total = x + mlp(x, p.mlp, at.config, _silent(at, x).at("mlp"))
            if at.step == "resid_post" and variant == "sum":
                out[...] = total
            else:
                layer_norm(total, p.ln_2, out=out)


def _silent(at: At, x: Array) -> Step:
    """A step that records nothing."""
    return Step(Pass(at.config, x.dtype, [PackedSequence(np.zeros(len(x), np.int64))]), "", at.layer)


class DropoutActive(Mistake):
    """Some values are 0, and the others larger by 1 / (1 - p)."""

    slug = "dropout-active"
    explanation = "Dropout is active: some values are 0, and the others are larger by 1 / (1 - p)."
    cure = "Evaluate without dropout: model.eval()."
    steps = ("embed", "attn.pattern", "attn.out", "mlp.out")

    def recognise(self, values: Array, truth: Array, band: Array) -> bool:
        kept = (values != 0) & (np.abs(truth) > 10 * band)
        if not kept.any() or not ((values == 0) & (np.abs(truth) > 10 * band)).any():
            return False
        factor = float(np.median(values[kept] / truth[kept]))
        rest = np.abs(values - factor * truth) > np.maximum(4 * band, 1e-4 * np.abs(values))
        dropped = (values == 0) & (truth != 0)
        share = float(dropped.mean() / max((truth != 0).mean(), 1e-9))
        return bool(factor > 1.001 and not (rest & ~dropped).any() and abs(share - (1 - 1 / factor)) < 0.2)


class UntiedWeights(Mistake):
    """The unembedding is not the matrix that it should be."""

    slug = "untied-weights"
    explanation = (
        "The unembedding is another matrix: not tied to wte, or tied where the checkpoint has lm_head."
    )
    cure = "lm_head.weight is wte.weight, unless the checkpoint has an lm_head.weight of its own."
    steps = ("logits",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        np.matmul(inputs[0], at.parameters.wte.T, out=out)

    def recognise(self, values: Array, truth: Array, band: Array) -> bool:
        """Logits that have nothing to do with those expected, whatever the unembedding reads."""
        if not np.isfinite(values).all() or values.shape[-1] < 16:
            return False
        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (values, truth))
        product = float(np.linalg.norm(a) * np.linalg.norm(b))
        return product == 0 or abs(float(np.sum(a * b))) / product < 0.5
