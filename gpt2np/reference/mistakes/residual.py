"""Mistakes in how the parts of a block are put together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.architectures.gpt2.forward import attention, mlp
from gpt2np.ops import Array, layer_norm, linear
from gpt2np.reference.mistakes.base import At, Mistake, silent
from gpt2np.tracing.contract import ModelConfig


class ResidualMissing(Mistake):
    """x = f(x) instead of x + f(x)."""

    slug = "residual-missing"
    explanation = "A block's output replaces the residual stream instead of being added to it."
    cure = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x))."
    hints = (
        "What is left of a token after some layers?",
        "Is the old vector still part of the new one?",
    )
    steps = ("resid_mid", "resid_post")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[1]


class ResidualAfterNorm(Mistake):
    """The normalised vector is what the output is added to."""

    slug = "residual-after-ln"
    explanation = (
        "The residual is taken after LayerNorm (or LayerNorm overwrites its input): the output is added to"
        " the normalised vector."
    )
    cure = "Keep x from before LayerNorm, and add to that."
    hints = (
        "Which of two vectors do you go on with?",
        "Is the stream still as the last step left it, or has it been tidied up?",
    )
    steps = ("resid_mid", "resid_post")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = at.earlier("ln_1" if at.step == "resid_mid" else "ln_2") + inputs[1]


class WrongResidualBranch(Mistake):
    """The MLP's output is added to the stream from before attention, or reads it."""

    slug = "wrong-residual-branch"
    explanation = (
        "The MLP adds to, or reads, the residual stream from before attention, or not the whole stream."
    )
    cure = "Attention and MLP run one after the other: the MLP reads, and adds to, resid_mid."
    hints = (
        "Who is told what the tokens have learned from each other, and who is not?",
        "Which vector comes in here: an old one or the latest?",
    )
    steps = ("ln_2", "resid_post")
    together = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("adds to", "reads", "reads the output of attention alone, without")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "ln_2":
            sources = {"reads": "resid_pre", "adds to": "resid_mid"}
            layer_norm(at.earlier(sources.get(variant, "attn.out")), inputs[1], out=out)
        else:
            out[...] = (at.earlier("resid_pre") if variant == "adds to" else inputs[0]) + inputs[1]

    def detail(self, variant: Any) -> str:
        return f"it {variant} it"


class PostNorm(Mistake):
    """LayerNorm after the residual addition, as in the first Transformer."""

    slug = "post-norm"
    explanation = (
        "LayerNorm comes after the residual addition (post-norm); GPT-2 normalises before each part."
    )
    cure = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x)): the stream itself is never normalised."
    hints = (
        "In which order do things happen in a layer?",
        "Is something tidied up for those who look at it, or for good?",
    )
    steps = ("ln_1", "attn.qkv", "resid_mid", "ln_2", "mlp.pre", "resid_post")
    together = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("sum", "norm")  # what the dump calls resid_mid and resid_post

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = at.earlier("resid_pre"), at.block
        if at.step == "attn.qkv":
            linear(x, p.attn.c_attn, out=out)
            return
        total = x + attention(
            x, p.attn, gpt2_only(at.config, "such block"), at.layer or 0, silent(at, x).at("attn")
        )
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
            total = x + mlp(x, p.mlp, gpt2_only(at.config, "such block"), silent(at, x).at("mlp"))
            if at.step == "resid_post" and variant == "sum":
                out[...] = total
            else:
                layer_norm(total, p.ln_2, out=out)


class SublayerMissing(Mistake):
    """x instead of x + f(x)."""

    slug = "sublayer-missing"
    explanation = (
        "The output of attention, or of the MLP, is computed but never added to the residual stream."
    )
    cure = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x))."
    hints = (
        "What has changed between what comes in and what goes out?",
        "What became of the result that you had here?",
    )
    steps = ("resid_mid", "resid_post")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0]


class ResidualTwice(Mistake):
    """One of the two summands twice."""

    slug = "residual-twice"
    explanation = "One of the two summands is added twice: the residual stream, or the output of the part."
    cure = "x = x + f(x): each once, and not in place inside of f too."
    hints = (
        "How often does each thing go into this sum?",
        "Do two different lines do the same thing?",
    )
    steps = ("resid_mid", "resid_post")

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("stream", "output")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0] + inputs[1] + inputs[0 if variant == "stream" else 1]

    def detail(self, variant: Any) -> str:
        return f"the {variant} is"


class ResidualScaled(Mistake):
    """An output multiplied by what only initial weights are multiplied by."""

    slug = "residual-scaled"
    explanation = (
        "Outputs are scaled by 1/sqrt(n_layer) as they are added: the paper scales initial weights so."
    )
    cure = "Add outputs as they are: a trained checkpoint has the scale in its weights."
    hints = (
        "How much of each part's result arrives?",
        "What does the paper say to do once only, at the very start?",
    )
    steps = ("resid_mid", "resid_post")
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("n_layer", "2 * n_layer")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        n = at.config.n_layer * (2 if variant == "2 * n_layer" else 1)
        out[...] = inputs[0] + inputs[1] / n**0.5

    def detail(self, variant: Any) -> str:
        return f"by 1/sqrt({variant})"


class MlpReadsLn1(Mistake):
    """c_fc(ln_1(x))."""

    slug = "mlp-reads-ln-1"
    explanation = (
        "The MLP reads ln_1's output again instead of ln_2's: the buffer, or the variable, is stale."
    )
    cure = "mlp(ln_2(x)), with the x that attention has added to."
    hints = (
        "Who wrote what you read here, and when?",
        "Does this part know what the tokens have learned from each other?",
    )
    steps = ("mlp.pre",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        linear(at.earlier("ln_1"), inputs[1], out=out)
