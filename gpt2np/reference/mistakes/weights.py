"""Mistakes in the parameters of norms and matrix products: which ones, how they lie, how exact they are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2np.ops import Array, LayerNorm, Linear, layer_norm, linear, product, project
from gpt2np.reference.mistakes.base import At, Mistake, Seen
from gpt2np.reference.precision import rounded
from gpt2np.tracing.contract import ModelConfig

_FAR = 16.0  # times its band: what no small error of another kind is
LINEAR = ("attn.qkv", "attn.out", "mlp.pre", "mlp.out")
# Where the parameters of each step are.
PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "ln_1": lambda block: block.ln_1,
    "attn.qkv": lambda block: block.attn.c_attn,
    "attn.out": lambda block: block.attn.c_proj,
    "ln_2": lambda block: block.ln_2,
    "mlp.pre": lambda block: block.mlp.c_fc,
    "mlp.out": lambda block: block.mlp.c_proj,
}


class TransposedWeight(Mistake):
    """A weight read as [n_out, n_in]."""

    cure = "Conv1D weights are [n_in, n_out]: x @ weight. torch.nn.Linear's are [n_out, n_in]: x @ weight.T."

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        stored = "[n_out, n_in]" if "[n_out, n_in]" in config.architecture.naming.layout else "[n_in, n_out]"
        yield from sorted(("[n_in, n_out]", "[n_out, n_in]"), key=lambda layout: layout != stored)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        linear(x, Linear(self.as_read(p.weight, variant), p.bias), out=out)

    def as_read(self, weight: Array, variant: str) -> Array:
        """The matrix [n_in, n_out] that comes of reading the file's numbers in the other order."""
        if variant == "[n_in, n_out]":
            return weight.reshape(weight.T.shape).T
        return weight.T.ravel().reshape(weight.shape)

    def detail(self, variant: Any) -> str:
        return f"the file has {variant}"


class TransposedCAttn(TransposedWeight):
    """c_attn, or the matrices of queries, keys and values of a model that has them apart."""

    slug = "transposed-c-attn"
    explanation = "c_attn.weight is read transposed; where there is none, q_proj, k_proj or v_proj."
    hints = (
        "In which order do the numbers of a matrix lie in your file?",
        "Does the first number of your result use the first column, or the first row?",
    )
    steps = ("attn.qkv",)

    def steps_in(self, config: ModelConfig, operations: Mapping[str, Callable[..., None]]) -> tuple[str, ...]:
        apart = (step for step in ("attn.q", "attn.k", "attn.v") if operations.get(step) is project)
        return tuple(apart) or super().steps_in(config, operations)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from super().variants(config, n_tokens, starts)
        if "attn.qkv" in config.architecture.sites:
            yield from ((0, 1, 2), (0,), (1,), (2,))  # queries, keys and values as matrices of their own

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step != "attn.qkv":
            x, weight = inputs
            project(x, self.as_read(weight, variant), out=out)
            return
        if isinstance(variant, str):
            super().run(at, variant, *inputs, out=out)
            return
        x, p = inputs
        thirds = p.weight.reshape(len(p.weight), 3, -1).copy()
        thirds[:, variant] = thirds[:, variant].transpose(2, 1, 0)
        linear(x, Linear(thirds.reshape(p.weight.shape), p.bias), out=out)

    def detail(self, variant: Any) -> str:
        if isinstance(variant, str):
            return super().detail(variant)
        return " and ".join(("queries", "keys", "values")[i] for i in variant) + ", each by itself"


class TransposedCProj(TransposedWeight):
    """c_proj, of attention or of the MLP."""

    slug = "transposed-c-proj"
    explanation = "c_proj.weight is read transposed; attention's is square, so no shape gives it away."
    hints = (
        "If the rows and columns of this matrix were exchanged, would an error tell you?",
        "Which of the two sides of your matrix meets the vector?",
    )
    steps = ("attn.out", "mlp.out")


class TransposedCFc(TransposedWeight):
    """c_fc."""

    slug = "transposed-c-fc"
    explanation = "mlp.c_fc.weight is read transposed."
    hints = (
        "In which order do the numbers of a matrix lie in your file?",
        "Which of the two sides of your matrix meets the vector?",
    )
    steps = ("mlp.pre",)


class MissingBias(Mistake):
    """A bias that is not added."""

    slug = "missing-bias"
    explanation = "A bias is not added. (HF initialises biases to 0: tests on fresh models do not see it.)"
    cure = (
        "Every LayerNorm has a bias, and every matrix but the unembedding; in GPT-Neo, q, k and v have none."
    )
    hints = (
        "What comes out if you put in zeros?",
        "Are all the parameters of this step in use?",
    )
    steps = ("ln_1", *LINEAR, "ln_2", "ln_f")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        op = layer_norm if isinstance(p, LayerNorm) else linear
        op(x, p._replace(bias=np.zeros_like(p.bias)), out=out)


class BiasTwice(Mistake):
    """A bias that is added twice."""

    slug = "bias-twice"
    explanation = "A bias is added twice, or once for each of two parts that are then summed."
    cure = "Add the bias once, after the whole sum."
    hints = (
        "What comes out if you put in zeros?",
        "How often does the same number come in?",
    )
    steps = ("ln_1", *LINEAR, "ln_2", "ln_f")

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from dict.fromkeys((2, config.n_head)) if config.n_head > 1 else (2,)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        op = layer_norm if isinstance(p, LayerNorm) else linear
        op(x, p._replace(bias=variant * p.bias), out=out)

    def detail(self, variant: Any) -> str:
        return "" if variant == 2 else f"{variant} times: once a head"


class BiasAdded(Mistake):
    """A bias where the model has none."""

    slug = "bias-added"
    explanation = "A bias is added where this model has none: every position is off by the same vector."
    cure = "In GPT-Neo q, k and v have no bias, and in Gemma-2 nothing has one."
    hints = (
        "What comes out if you put in zeros?",
        "Is what you add anywhere in the file?",
    )
    steps = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.pre", "mlp.up", "mlp.proj")
    operations = (project, product)

    def recognise(self, seen: Seen) -> str | None:
        """The same vector at every position, although what comes in differs, and far larger than noise."""
        if not seen.confirmed or len(seen.truth) < 3:
            return None
        apart = seen.values.astype(np.float64) - seen.truth
        band = np.broadcast_to(seen.band, apart.shape)
        shift, differs = apart.mean(axis=0), np.abs(seen.truth - seen.truth.mean(axis=0)) > 4 * band
        large = (np.abs(shift) > _FAR * band.max(axis=0)).any()
        return "" if large and differs.any() and (np.abs(apart - shift) <= band).all() else None


class RoundedWeights(Mistake):
    """Weights that went through a half precision."""

    steps = ("wte", "wpe", "ln_1", *LINEAR, "ln_2", "ln_f", "logits")
    precision = "float16"

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("weight and bias", "weight")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        if at.step in ("wte", "wpe"):
            out[...] = rounded(p[x], self.precision)
        elif at.step == "logits":
            np.matmul(x, rounded(p, self.precision).T, out=out)
        else:
            op = layer_norm if isinstance(p, LayerNorm) else linear
            parts = {name: rounded(getattr(p, name), self.precision) for name in variant.split(" and ")}
            op(x, p._replace(**parts), out=out)

    def detail(self, variant: Any) -> str:
        return "" if variant == "weight and bias" else "but not the bias"


class WeightsFloat16(RoundedWeights):
    """float16."""

    slug = "weights-float16"
    explanation = "The weights were rounded to float16."
    cure = "Load the float32 checkpoint, or compare with a reference whose weights are rounded too."
    hints = (
        "How many digits do your parameters have?",
        "Where did your numbers lose their last digits?",
    )


class WeightsBfloat16(RoundedWeights):
    """bfloat16."""

    slug = "weights-bfloat16"
    explanation = "The weights were rounded to bfloat16."
    cure = "Load the float32 checkpoint, or compare with a reference whose weights are rounded too."
    hints = (
        "How many digits do your parameters have?",
        "Where did your numbers lose their last digits?",
    )
    precision = "bfloat16"


class WrongLayerWeights(Mistake):
    """Parameters of a neighbouring layer, of the first or of the last."""

    slug = "wrong-layer-weights"
    explanation = "The step runs with another layer's parameters."
    cure = "Check how layers are numbered when the checkpoint is loaded: h.0 is the first."
    hints = (
        "Is it the arithmetic that is wrong, or what it is done with?",
        "To which part of the model do these parameters belong?",
    )
    of_gpt2 = True
    steps = tuple(PARAMETERS)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("after it", "before it", "first", "last")

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        layer, n_layer = at.layer or 0, at.config.n_layer
        other = {"after it": (layer + 1) % n_layer, "before it": layer - 1, "first": 0, "last": -1}[variant]
        p = PARAMETERS[at.step](at.parameters.h[other])
        (layer_norm if isinstance(p, LayerNorm) else linear)(inputs[0], p, out=out)

    def detail(self, variant: Any) -> str:
        return (
            f"those of the {variant} layer"
            if variant in ("first", "last")
            else f"those of the layer {variant}"
        )


class QkvBiasPart(Mistake):
    """The bias of c_attn for some of q, k and v only."""

    slug = "qkv-bias-part"
    explanation = "c_attn's bias is added to some of queries, keys and values only."
    cure = "c_attn.bias has 3 * n_embd numbers: a third each for queries, keys and values."
    hints = (
        "What comes out if you put in zeros?",
        "Is everything that comes out of this step wrong, or only a part of it?",
    )
    steps = ("attn.qkv",)

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((0, 1), (0, 2), (1, 2), (0,), (1,), (2,))

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        bias = p.bias.reshape(3, -1) * np.isin(np.arange(3), variant)[:, None]
        linear(x, p._replace(bias=bias.ravel()), out=out)

    def detail(self, variant: Any) -> str:
        return "to " + " and ".join("qkv"[i] for i in variant) + " only"


class LayerStride(Mistake):
    """Parameters of all layers in one array, and a layer's found at the wrong place."""

    slug = "layer-stride"
    explanation = (
        "A layer's parameters are read at the wrong offset: each layer is taken to be of another size."
    )
    cure = "Layer i begins at i times the size of one layer's tensor: 3 * n_embd for c_attn.bias."
    hints = (
        "Is the first layer right?",
        "How many numbers do you have to pass over to get to where you want to be?",
    )
    of_gpt2 = True
    steps = LINEAR
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("bias", "weight", "weight, [n_out, n_in] in the file") if config.n_layer > 1 else ()

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        layer, d = at.layer or 0, at.config.n_embd
        parts = [PARAMETERS[at.step](block) for block in at.parameters.h]
        if variant == "bias":
            every = np.concatenate([part.bias for part in parts])
            linear(x, p._replace(bias=every[layer * d :][: p.bias.size]), out=out)
            return
        turned = variant != "weight"
        every = np.concatenate([(part.weight.T if turned else part.weight).ravel() for part in parts])
        found = every[layer * d * d :][: p.weight.size]
        weight = found.reshape(p.weight.T.shape).T if turned else found.reshape(p.weight.shape)
        linear(x, p._replace(weight=weight), out=out)

    def detail(self, variant: Any) -> str:
        size = "n_embd" if variant == "bias" else "n_embd * n_embd"
        return f"its {variant}; a layer is taken to have {size} numbers"
