"""Mistakes in how q, k and v are cut out of the fused qkv, and in how the heads' results are put together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.sites import split_qkv
from gpt2np.ops import Array, linear, project
from gpt2np.reference.mistakes.base import At, Mistake, Seen
from gpt2np.tracing.contract import ModelConfig


class CutIntoHeads(Mistake):
    """The fused qkv cut up in another way than [pos, 3, head, d_head]."""

    steps = ("attn.qkv",)
    unseen = ("attn.qkv",)

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
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
    hints = (
        "You have one long row and want many small pieces: what do you separate from what, and when?",
        "Which numbers in the long row belong to one and the same little piece?",
    )

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        return columns.reshape(config.n_head, 3, config.d_head).transpose(1, 0, 2).ravel()


class QkvInterleaved(CutIntoHeads):
    """q, k, v, q, k, v, ..."""

    slug = "qkv-interleaved"
    explanation = "The fused qkv is taken as q, k, v, q, k, v, ... ([pos, head, d_head, 3])."
    cure = "GPT-2's columns are all queries, then all keys, then all values: [pos, 3, head, d_head]."
    hints = (
        "You have one long row and want many small pieces: which numbers are neighbours in it?",
        "What is it that you find beside the very first number?",
    )

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        return columns.reshape(-1, 3).T.ravel()


class HeadsStrided(CutIntoHeads):
    """[pos, 3, d_head, head]."""

    slug = "heads-strided"
    explanation = "A head's columns are taken n_head apart ([pos, 3, d_head, head])."
    cure = "A head's columns are side by side: [pos, 3, head, d_head]."
    hints = (
        "Which numbers in a long row belong to one and the same little piece?",
        "Are they neighbours, or far apart?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((0, 1, 2), (1,), (0,), (2,))

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        parts = columns.reshape(3, -1).copy()
        strided = columns.reshape(3, config.d_head, config.n_head).transpose(0, 2, 1).reshape(3, -1)
        parts[list(variant)] = strided[list(variant)]
        return np.asarray(parts.ravel())

    def detail(self, variant: Any) -> str:
        return "" if len(variant) == 3 else f"of {'qkv'[variant[0]]} only"


class KvSwapped(CutIntoHeads):
    """q, v, k."""

    slug = "qkv-kv-swapped"
    explanation = "Keys and values are swapped."
    cure = "The thirds of the fused qkv are q, k, v, in this order."
    hints = (
        "What is looked at, and what is taken away from there?",
        "Are two of your parts in each other's place?",
    )

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        return columns.reshape(3, -1)[[0, 2, 1]].ravel()


class QkvOrder(CutIntoHeads):
    """Any other order of the three."""

    slug = "qkv-order"
    explanation = "Queries, keys and values are taken in another order."
    cure = "The thirds of the fused qkv are q, k, v, in this order."
    hints = (
        "Three parts come out of one matrix: how do you know which is which?",
        "Who asks in your program, who answers, and what is handed over?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        return columns.reshape(3, -1)[list(variant)].ravel()

    def detail(self, variant: Any) -> str:
        return "they are taken for " + ", ".join("qkv"[i] for i in variant)


class QkvPartRepeated(CutIntoHeads):
    """K = Q, V = K and the like."""

    slug = "qkv-part-repeated"
    explanation = "One third of the fused qkv is read twice: keys are the queries again, or values the keys."
    cure = "Queries begin at column 0, keys at n_embd, values at 2 * n_embd."
    hints = (
        "Three parts come out of one matrix: are your three really three?",
        "Do two of your arrays hold the same numbers?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((0, 0, 2), (0, 1, 1), (0, 2, 2), (1, 1, 2), (0, 1, 0), (2, 1, 2), (0, 0, 0))

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        return columns.reshape(3, -1)[list(variant)].ravel()

    def detail(self, variant: Any) -> str:
        return ", ".join(f"{'qkv'[i]} is {'qkv'[j]}" for i, j in enumerate(variant) if i != j)


class QkvColumnsShifted(CutIntoHeads):
    """A part that begins one column too early or too late."""

    slug = "qkv-columns-shifted"
    explanation = "Queries, keys or values are taken one column off."
    cure = "The thirds begin at columns 0, n_embd and 2 * n_embd."
    hints = (
        "Where does each of your parts start, and where does it end?",
        "Does one of your parts hold a number of its neighbour?",
    )
    rare = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        yield from ((1, 1), (1, -1), (2, -1), (0, 1))

    def order(self, columns: Array, config: ModelConfig, variant: Any) -> Array:
        part, shift = variant
        parts = columns.reshape(3, -1).copy()
        parts[part] += shift
        return np.asarray(parts.ravel())

    def detail(self, variant: Any) -> str:
        return f"{'qkv'[variant[0]]} one {'too late' if variant[1] > 0 else 'too early'}"


class HeadsCutUntransposed(Mistake):
    """[pos, n_embd] reshaped to [head, pos, d_head] as it lies in memory."""

    slug = "heads-cut-untransposed"
    explanation = (
        "[pos, n_embd] is reshaped to [head, pos, d_head] at once: heads hold parts of other positions."
    )
    cure = "Reshape to [pos, head, d_head] first, then transpose to [head, pos, d_head]."
    hints = (
        "Which numbers may be together in one small piece, and whose are they?",
        "Does the first piece of yours hold something of the second token?",
    )
    steps = ("attn.qkv",)
    whole = True
    unseen = ("attn.qkv",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        linear(*inputs, out=out)
        for part in split_qkv(out, at.config.n_head):  # [pos, head, d_head]
            part[...] = part.reshape(part.shape[1], part.shape[0], -1).transpose(1, 0, 2)


class MergedHeads(Mistake):
    """The heads put together in another way than [pos, head, d_head], before or after they are recorded."""

    steps = ("attn.z", "attn.out")

    def merged(self, z: Array, variant: Any) -> Array:
        """Results in the order in which they are read, from [pos, head, d_head]; any shape."""
        raise NotImplementedError

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        if at.step == "attn.z":
            out[...] = self.merged(_mixed(*inputs), variant).reshape(out.shape)
        else:
            x, p = inputs
            z = x.reshape(len(x), at.config.n_head, at.config.d_head)
            linear(self.merged(z, variant).reshape(x.shape), p, out=out)


class HeadsMergedUntransposed(MergedHeads):
    """[head, pos, d_head] reshaped to [pos, n_embd] as it lies in memory."""

    slug = "heads-merged-untransposed"
    explanation = (
        "[head, pos, d_head] is reshaped to [pos, n_embd] without moving the heads behind pos first."
    )
    cure = "Transpose to [pos, head, d_head] before merging heads."
    hints = (
        "Many small pieces stand side by side in a row: whose numbers come first, and whose next?",
        "Does the row of one token hold something of another token?",
    )

    def merged(self, z: Array, variant: Any) -> Array:
        return np.ascontiguousarray(z.transpose(1, 0, 2))


class HeadsMergedInterleaved(MergedHeads):
    """[pos, d_head, head] instead of [pos, head, d_head]."""

    slug = "heads-merged-interleaved"
    explanation = "Heads are merged number by number ([pos, d_head, head]): first every head's first number."
    cure = "A head's numbers stay side by side: column head * d_head + i."
    hints = (
        "Many small pieces become one long row: what is the neighbour of what?",
        "Which two numbers are the first two of your long row?",
    )

    def merged(self, z: Array, variant: Any) -> Array:
        return z.transpose(0, 2, 1)


class HeadsPermuted(MergedHeads):
    """The heads in another order."""

    slug = "heads-permuted"
    explanation = "The heads' results are put together in another order than that of the heads."
    cure = "Head 0 comes first: the rows of c_proj belong to the heads in their order."
    hints = (
        "Who is the reader of your long row, and what does he expect where?",
        "Is every piece right, and only its place wrong?",
    )

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        heads = tuple(range(config.n_head))
        orders = (heads[::-1], heads[1:] + heads[:1], heads[-1:] + heads[:-1])
        yield from dict.fromkeys(order for order in orders if order != heads)

    def merged(self, z: Array, variant: Any) -> Array:
        return z[:, list(variant)]

    def recognise(self, seen: Seen) -> str | None:
        """Any order at all, where the dump has the heads."""
        if seen.site != "attn.z":
            return None
        heads = range(seen.truth.shape[1])
        band = np.broadcast_to(seen.band, seen.truth.shape)
        order = []
        for head in heads:
            fits = (abs(seen.values[:, head, None] - seen.truth) <= band).all(axis=(0, 2))
            if np.count_nonzero(fits) != 1:
                return None
            order.append(int(np.flatnonzero(fits)[0]))
        return self.detail(tuple(order)) if sorted(order) == list(heads) else None

    def detail(self, variant: Any) -> str:
        return "they stand as " + ", ".join(map(str, variant))


class ProjectionsExchanged(Mistake):
    """The matrices of queries, keys and values, where there are three, in another order."""

    slug = "projections-exchanged"
    explanation = "The matrices of queries, keys and values are in each other's place."
    cure = "q_proj gives the queries, k_proj the keys and v_proj the values."
    hints = (
        "How do you know which of your three parts is which?",
        "Who asks in your program, who answers, and what is handed over?",
    )
    steps = ("attn.q", "attn.k", "attn.v")
    operations = (project,)
    together = True
    whole = True

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        orders = ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1))
        yield from orders if config.n_kv_head == config.n_head else orders[1:2]  # which are of one shape

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        attn = at.block.attn
        matrices = attn.q_proj, attn.k_proj, attn.v_proj
        project(inputs[0], matrices[variant[self.steps.index(at.step)]], out=out)

    def detail(self, variant: Any) -> str:
        return ", ".join(f"{'qkv'[i]} is {'qkv'[j]}" for i, j in enumerate(variant) if i != j)


class HeadsMissing(Mistake):
    """Zeros instead of a head's result."""

    slug = "heads-missing"
    explanation = "The results of some heads, or of some positions, are 0: they are never computed."
    cure = "Run every head and every position: loops end at n_head, and at the last token."
    hints = (
        "Has everything been written that you read here?",
        "Where do you start to count, and where do you stop?",
    )
    steps = ("attn.z",)

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        out.fill(0.0)


def _mixed(pattern: Array, v: Array) -> Array:
    """Values averaged with the pattern, without a mistake: [pos, head, d_head]."""
    return np.asarray(np.matmul(pattern, v.transpose(1, 0, 2)).transpose(1, 0, 2))
