"""Mistakes in the matrix products and what they read: weights, biases, the cut into heads, activations."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.ops import Array, LayerNorm, Linear, gelu_erf, gelu_tanh, layer_norm, linear, relu
from gpt2np.reference.mistakes.base import At, Mistake
from gpt2np.reference.precision import rounded

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


class CutIntoHeads(Mistake):
    """The fused qkv cut up in another way than [pos, 3, head, d_head]."""

    steps = ("attn.qkv",)
    unseen = ("attn.qkv",)

    def order(self, columns: Array, config: Config, variant: Any) -> Array:
        """Which columns are taken for q, k and v: [3*n_embd], from arange, in our order."""
        raise NotImplementedError

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        linear(*inputs, out=out)
        out[...] = out[:, self.order(np.arange(out.shape[1]), at.config, variant)]


class HeadsBeforeQkv(CutIntoHeads):
    """[pos, head, 3, d_head]."""

    slug = "heads-before-qkv"
    explanation = "The fused qkv is cut into heads first, and then into q, k and v ([pos, head, 3, d_head])."
    cure = "GPT-2's columns are all queries, then all keys, then all values: [pos, 3, head, d_head]."

    def order(self, columns: Array, config: Config, variant: Any) -> Array:
        return columns.reshape(config.n_head, 3, config.d_head).transpose(1, 0, 2).ravel()


class QkvInterleaved(CutIntoHeads):
    """q, k, v, q, k, v, ..."""

    slug = "qkv-interleaved"
    explanation = "The fused qkv is taken as q, k, v, q, k, v, ... ([pos, head, d_head, 3])."
    cure = "GPT-2's columns are all queries, then all keys, then all values: [pos, 3, head, d_head]."

    def order(self, columns: Array, config: Config, variant: Any) -> Array:
        return columns.reshape(-1, 3).T.ravel()


class HeadsStrided(CutIntoHeads):
    """[pos, 3, d_head, head]."""

    slug = "heads-strided"
    explanation = "A head's columns are taken n_head apart ([pos, 3, d_head, head])."
    cure = "A head's columns lie side by side: [pos, 3, head, d_head]."

    def order(self, columns: Array, config: Config, variant: Any) -> Array:
        return columns.reshape(3, config.d_head, config.n_head).transpose(0, 2, 1).ravel()


class KvSwapped(CutIntoHeads):
    """q, v, k."""

    slug = "qkv-kv-swapped"
    explanation = "Keys and values are swapped."
    cure = "The thirds of the fused qkv are q, k, v, in this order."

    def order(self, columns: Array, config: Config, variant: Any) -> Array:
        return columns.reshape(3, -1)[[0, 2, 1]].ravel()


class QkvOrder(CutIntoHeads):
    """Any other order of the three."""

    slug = "qkv-order"
    explanation = "Queries, keys and values are taken in another order."
    cure = "The thirds of the fused qkv are q, k, v, in this order."

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from ((1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

    def order(self, columns: Array, config: Config, variant: Any) -> Array:
        return columns.reshape(3, -1)[list(variant)].ravel()

    def detail(self, variant: Any) -> str:
        return "they are taken for " + ", ".join("qkv"[i] for i in variant)


class TransposedWeight(Mistake):
    """A weight read as [n_out, n_in]."""

    cure = "Conv1D weights are [n_in, n_out]: x @ weight. torch.nn.Linear's are [n_out, n_in]: x @ weight.T."

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        n_in, n_out = p.weight.shape
        linear(x, Linear(p.weight.reshape(n_out, n_in).T, p.bias), out=out)


class TransposedCAttn(TransposedWeight):
    """c_attn."""

    slug = "transposed-c-attn"
    explanation = "attn.c_attn.weight is read transposed."
    steps = ("attn.qkv",)


class TransposedCProj(TransposedWeight):
    """c_proj, of attention or of the MLP."""

    slug = "transposed-c-proj"
    explanation = "c_proj.weight is read transposed; attention's is square, so no shape gives it away."
    steps = ("attn.out", "mlp.out")


class TransposedCFc(TransposedWeight):
    """c_fc."""

    slug = "transposed-c-fc"
    explanation = "mlp.c_fc.weight is read transposed."
    steps = ("mlp.pre",)


class MissingBias(Mistake):
    """A bias that is not added."""

    slug = "missing-bias"
    explanation = "A bias is not added. (HF initialises biases to 0: tests on fresh models do not see it.)"
    cure = "c_attn, c_fc, both c_proj and every LayerNorm have a bias; only the unembedding has none."
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
    steps = ("ln_1", *LINEAR, "ln_2", "ln_f")

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from dict.fromkeys((2, config.n_head)) if config.n_head > 1 else (2,)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        op = layer_norm if isinstance(p, LayerNorm) else linear
        op(x, p._replace(bias=variant * p.bias), out=out)

    def detail(self, variant: Any) -> str:
        return "" if variant == 2 else f"{variant} times: once a head"


class RoundedWeights(Mistake):
    """Weights that went through a half precision."""

    steps = ("wte", "wpe", "ln_1", *LINEAR, "ln_2", "ln_f", "logits")
    precision = "float16"

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, p = inputs
        if at.step in ("wte", "wpe"):
            out[...] = rounded(p[x], self.precision)
        elif at.step == "logits":
            np.matmul(x, rounded(p, self.precision).T, out=out)
        else:
            op = layer_norm if isinstance(p, LayerNorm) else linear
            parts = {"weight": rounded(p.weight, self.precision), "bias": rounded(p.bias, self.precision)}
            op(x, p._replace(**parts), out=out)


class WeightsFloat16(RoundedWeights):
    """float16."""

    slug = "weights-float16"
    explanation = "The weights were rounded to float16."
    cure = "Load the float32 checkpoint, or compare with a reference whose weights are rounded too."


class WeightsBfloat16(RoundedWeights):
    """bfloat16."""

    slug = "weights-bfloat16"
    explanation = "The weights were rounded to bfloat16."
    cure = "Load the float32 checkpoint, or compare with a reference whose weights are rounded too."
    precision = "bfloat16"


class WrongLayerWeights(Mistake):
    """Parameters of a neighbouring layer."""

    slug = "wrong-layer-weights"
    explanation = "The step runs with another layer's parameters."
    cure = "Check how layers are numbered when the checkpoint is loaded: h.0 is the first."
    steps = tuple(PARAMETERS)

    def variants(self, config: Config, n_tokens: int, prefill: int) -> Iterator[Any]:
        yield from (1, -1)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        other = ((at.layer or 0) + variant) % at.config.n_layer
        p = PARAMETERS[at.step](at.parameters.h[other])
        (layer_norm if isinstance(p, LayerNorm) else linear)(inputs[0], p, out=out)

    def detail(self, variant: Any) -> str:
        return "those of the layer " + ("after it" if variant == 1 else "before it")


class Activation(Mistake):
    """Another activation function."""

    steps = ("mlp.post",)


class GeluErf(Activation):
    """GELU by the error function."""

    slug = "gelu-erf"
    explanation = "GELU is computed by the error function; GPT-2 was trained with the tanh approximation."
    cure = "Use gelu_new, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): approximate='tanh' in torch."

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        gelu_erf(inputs[0], out=out)


class GeluTanh(Activation):
    """The tanh approximation where the config says gelu."""

    slug = "gelu-tanh"
    explanation = (
        "GELU is computed by its tanh approximation, but the config's activation_function is another."
    )
    cure = "Read activation_function from the config: `gelu` is the exact one."

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        gelu_tanh(inputs[0], out=out)


class GeluQuick(Activation):
    """x sigmoid(1.702 x)."""

    slug = "gelu-quick"
    explanation = "GELU is computed as x * sigmoid(1.702 x) (quick GELU, as in CLIP)."
    cure = "Use the tanh approximation, gelu_new."

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0] * (0.5 + 0.5 * np.tanh(0.851 * inputs[0]))


class ActivationRelu(Activation):
    """max(x, 0)."""

    slug = "activation-relu"
    explanation = "The MLP uses ReLU."
    cure = "Use the tanh approximation of GELU, gelu_new."

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        relu(inputs[0], out=out)


class ActivationMissing(Activation):
    """x."""

    slug = "activation-missing"
    explanation = "The MLP has no activation function."
    cure = "Apply gelu_new between c_fc and c_proj."

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = inputs[0]
