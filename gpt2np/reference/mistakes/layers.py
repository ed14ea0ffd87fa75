"""Mistakes in the order of layers, and in which of them reads what."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.architectures.gpt2.forward import block
from gpt2np.ops import Array, add, layer_norm, linear
from gpt2np.reference.mistakes.base import At, Mistake, silent
from gpt2np.reference.mistakes.weights import PARAMETERS
from gpt2np.tracing.contract import ModelConfig

_EVERY = ("ln_1", "attn.qkv", "attn.out", "ln_2", "mlp.pre", "mlp.out")


class LayerSkipped(Mistake):
    """A block that does nothing."""

    slug = "layer-skipped"
    explanation = "A layer is left out: the next one reads what this one should have read."
    cure = "Run all n_layer blocks; range(n_layer) is all of them."
    hints = (
        "How many times does your loop go round?",
        "Who is the last to add something before tokens are made of it?",
    )
    steps = ("resid_post",)
    whole = True

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out[...] = at.earlier("resid_pre")


class LayerOrder(Mistake):
    """Whole blocks in another order."""

    slug = "layer-order"
    explanation = (
        "Layers run in another order, or one runs in place of another: all parameters are another's."
    )
    cure = "Run h.0, h.1, h.2, ... as the numbers count, not as their names sort: h.10 comes after h.9."
    hints = (
        "Is it the arithmetic that is wrong, or what it is done with?",
        "Which piece did your loader hand you after the first?",
    )
    of_gpt2 = True
    steps = (*_EVERY, "resid_mid", "ln_f")
    whole = True
    together = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        n = config.n_layer
        sorted_names = sorted(range(n), key=str)
        orders: dict[str, Sequence[int]] = {
            "in reverse": range(n - 1, -1, -1),
            "sorted by their names": sorted_names,
            "one too late": [i - 1 if i else n - 1 for i in range(n)],
            "one too early": [(i + 1) % n for i in range(n)],
            "the first in place of each": [0] * n,
            "the last in place of each": [n - 1] * n,
        }
        for i, j in itertools.combinations(range(n), 2):
            exchanged = [*range(i), j, *range(i + 1, j), i, *range(j + 1, n)]
            orders[f"layers {i} and {j} exchanged"] = exchanged
        seen = {tuple(range(n))}
        for name, order in orders.items():
            if tuple(order) not in seen:
                seen.add(tuple(order))
                yield name, tuple(order), False
                if len(set(order)) == n:  # of one that runs twice, another is not recorded at all
                    yield name, tuple(order), True

    def in_all(self, variant: Any) -> bool:
        return bool(variant[2])

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        _, order, under_own_number = variant
        x, *rest = inputs
        if not under_own_number:
            if at.step in PARAMETERS:
                rest = [PARAMETERS[at.step](at.parameters.h[order[at.layer or 0]])]
        elif at.step in ("ln_1", "resid_mid", "ln_f"):
            x = self._stream(at, order if at.layer is None else order[: order.index(at.layer)])
        op = add if at.step == "resid_mid" else layer_norm if at.step.startswith("ln_") else linear
        op(x, *rest, out=out)

    def _stream(self, at: At, order: Sequence[int]) -> Array:
        """The residual stream behind these blocks, run in this order."""
        right = next((i for i, layer in enumerate(order) if i != layer), len(order))
        right = right if at.layer is None else min(right, at.layer)
        x = at.found[f"h.{right - 1}.resid_post" if right else "embed"]
        for layer in order[right:]:
            x = block(
                x, at.parameters.h[layer], gpt2_only(at.config, "such block"), layer, silent(at, x, layer)
            )
        return x

    def detail(self, variant: Any) -> str:
        name, _, under_own_number = variant
        return f"{name}, each recorded under its own number" if under_own_number else name


class LayerTwice(Mistake):
    """A block of its own output."""

    slug = "layer-twice"
    explanation = "A layer runs twice, the second time on its own output."
    cure = "Run each block once, in turn."
    hints = (
        "How many times does your loop go round?",
        "Does somebody get to see what he has just said himself?",
    )
    of_gpt2 = True
    steps = ("ln_1", "resid_mid", "resid_post")
    whole = True
    together = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("first", "second")  # of its runs which the dump has

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x, other = inputs
        if variant == "second" and at.step != "resid_post":
            x = self._run(at, at.earlier("resid_pre"))
        (layer_norm if at.step == "ln_1" else add)(x, other, out=out)
        if variant == "first" and at.step == "resid_post":
            out[...] = self._run(at, out.copy())

    def _run(self, at: At, x: Array) -> Array:
        return block(x, at.block, gpt2_only(at.config, "such block"), at.layer or 0, silent(at, x))

    def detail(self, variant: Any) -> str:
        return "" if variant == "first" else "its arrays are those of the second time"


class StaleStream(Mistake):
    """A block that reads, and adds to, the residual stream of an earlier layer."""

    slug = "stale-stream"
    explanation = "A block reads what an earlier layer left, not the residual stream as it is now."
    cure = "Each block reads the last block's output, and adds to it."
    hints = (
        "Is the first layer right?",
        "Who wrote what you read here: the one before you?",
    )
    steps = ("ln_1", "resid_mid")
    whole = True
    together = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("embed", "first", "the last but one") if config.n_layer > 1 else ()

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        x = earlier_stream(at, at.layer or 0, variant)
        if at.step == "resid_mid":
            add(x, inputs[1], out=out)
        else:
            layer_norm(x, inputs[1], out=out)

    def detail(self, variant: Any) -> str:
        return "it reads " + _STREAMS[variant]


class FinalNormStale(Mistake):
    """ln_f that reads the residual stream of an earlier layer."""

    slug = "ln-f-stale"
    explanation = "ln_f reads what an earlier layer left, not the last block's output."
    cure = "ln_f reads the residual stream after the last block."
    hints = (
        "Do all your layers have a say in which token comes next?",
        "Who wrote what you read here, and was nobody after him?",
    )
    steps = ("ln_f",)
    whole = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ("first", "the last but one", "embed") if config.n_layer > 1 else ("embed",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        layer_norm(earlier_stream(at, at.config.n_layer, variant), inputs[1], out=out)

    def detail(self, variant: Any) -> str:
        return "it reads " + _STREAMS[variant]


_STREAMS = {
    "embed": "the embedding",
    "first": "the output of the first layer",
    "the last but one": "the output of the layer before the one before it",
}


def earlier_stream(at: At, layer: int, variant: str) -> Array:
    """What one of the layers before this one has left."""
    source = {"embed": -1, "first": 0}.get(variant, layer - 2)
    source = min(source, layer - 1)
    return at.found[f"h.{source}.resid_post" if source >= 0 else "embed"]
