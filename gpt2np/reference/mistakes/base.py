"""What a mistake is: which steps it touches, what they compute with it, how to recognise and to cure it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from gpt2np.architectures.gpt2.config import Config
from gpt2np.ops import (
    ACTIVATIONS,
    Array,
    add,
    capped_scores,
    dot_scores,
    layer_norm,
    linear,
    lookup,
    mix,
    scaled_scores,
    unembedding,
    unseen,
)
from gpt2np.ops import (
    softmax as softmax_op,
)
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.step import Step
from gpt2np.tracing.trace import Trace

# What GPT-2 computes in each step: a mistake is told in terms of these operations and their inputs.
_OPERATIONS: dict[str, tuple[Callable[..., None], ...]] = {
    **dict.fromkeys(("wte", "wpe"), (lookup,)),
    **dict.fromkeys(("embed", "resid_mid", "resid_post"), (add,)),
    **dict.fromkeys(("ln_1", "ln_2", "ln_f"), (layer_norm,)),
    **dict.fromkeys(("attn.qkv", "attn.out", "mlp.pre", "mlp.out"), (linear,)),
    "attn.scores": (scaled_scores, dot_scores),
    "attn.pattern": (softmax_op,),
    "attn.z": (mix,),
    "mlp.post": tuple(ACTIVATIONS.values()),
    "logits": (unembedding,),
}
# What computes scores in any model: `products` and what follows here do as they do.
SCORES: tuple[Callable[..., None], ...] = (scaled_scores, dot_scores, capped_scores)
EVERY_SITE = ("every site",)  # the steps of a mistake that is recognised wherever it is


class Sites(Protocol):
    """Arrays of a run by full name, derived ones too."""

    def __getitem__(self, name: str) -> Array:
        """A site."""


@dataclass(frozen=True)
class At:
    """Where a mistake is replayed: the step, its layer, and what the run has computed before."""

    step: str  # "attn.scores"
    layer: int | None
    config: ModelConfig
    parameters: Any
    found: Sites  # results so far
    prefill: int  # tokens that ran at once; the others one at a time, with a cache

    def earlier(self, site: str) -> Array:
        """An earlier result of the same block: `at.earlier("resid_pre")`."""
        return self.found[f"h.{self.layer}.{site}"]

    @property
    def block(self) -> Any:
        """The parameters of the block."""
        return self.parameters.h[self.layer or 0]


@dataclass(frozen=True)
class Seen:
    """The first wrong site of a dump, for mistakes that are recognised where they cannot be replayed."""

    site: str  # "attn.z"
    layer: int | None
    values: Array  # in the dump
    truth: Array
    band: Array
    right: Trace  # the run without a mistake
    confirmed: bool  # whether the dump itself shows that what the step reads is right


class Mistake:
    """A mistake in one or more steps of a block.

    A subclass says `slug`, `explanation`, `cure`, two `hints` that give nothing away, the `steps` it touches,
    and what they compute instead, in `run`; where the mistake comes in several forms, `variants` lists them
    and `run` is given one. `unseen` are sites that look right although the replay changes them: a fused qkv
    that is only cut up wrongly. A mistake in steps that belong `together` is made in all of them, any other
    may be made in one alone; a `whole` one is never one of some heads or positions only. What is `rare` is
    tried after all that is not; what may be recognised `anywhere` is looked for at any site. One `of_gpt2`
    reads parameters that other models have not, one `of_scores` computes the scores anew. One that is made in
    other operations than GPT-2's says in which: `operations`. Norms undo one that `only_scales` vectors.
    """

    slug: ClassVar[str]
    explanation: ClassVar[str]
    cure: ClassVar[str]
    hints: ClassVar[tuple[str, str]]
    steps: ClassVar[tuple[str, ...]]
    rare: ClassVar[bool] = False
    anywhere: ClassVar[bool] = False
    of_gpt2: ClassVar[bool] = False
    of_scores: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    only_scales: ClassVar[bool] = False
    operations: ClassVar[tuple[Callable[..., None], ...]] = ()
    unseen: ClassVar[tuple[str, ...]] = ()
    together: ClassVar[bool] = False

    def steps_in(self, config: ModelConfig, operations: Mapping[str, Callable[..., None]]) -> tuple[str, ...]:
        """The steps in which it may be made in a model, whose steps are these operations, by site."""
        if self.steps == EVERY_SITE:
            return self.steps
        sites = config.architecture.sites
        usual: Mapping[str, tuple[Callable[..., None] | None, ...]] = _OPERATIONS
        there = tuple(
            s
            for s in self.steps
            if s in sites and operations.get(s) in (self.operations or usual.get(s, (None,)))
        )
        of_another = self.of_gpt2 and not isinstance(config, Config)
        if not self.operations and (self.of_scores or {"attn.scores", "attn.z"}.intersection(self.steps)):
            of_another |= config.n_kv_head != config.n_head
        return () if of_another or (self.together and there != self.steps) else there

    def variants(self, config: ModelConfig, n_tokens: int, starts: Sequence[int]) -> Iterator[Any]:
        """The forms of the mistake that are worth a replay.

        `starts` are the positions from which on a cache may have been in use.
        """
        yield None

    def in_all(self, variant: Any) -> bool:
        """Whether this form is made in every layer, or not at all."""
        return False

    def run(self, at: At, variant: Any, *inputs: Any, out: Array) -> None:
        """What the step computes with this mistake: into `out`, from the inputs of the step."""
        out.fill(np.nan)  # a mistake that cannot be replayed, only recognised

    def recognise(self, seen: Seen) -> str | None:
        """What distinguishes this form, if the values of a touched site can only come from this mistake."""
        return None

    def detail(self, variant: Any) -> str:
        """What distinguishes this form, for the report."""
        return ""


@dataclass(frozen=True)
class OtherPrompt:
    """Tokens that may have run instead, and which of their rows the dump then has."""

    token_ids: tuple[int, ...]
    rows: slice
    detail: str


class PromptMistake:
    """A mistake before the model: it ran on other tokens than it should have.

    `reads_ids` if the tokens may be any, and are to be read from the dump's embeddings.
    """

    slug: ClassVar[str]
    explanation: ClassVar[str]
    cure: ClassVar[str]
    hints: ClassVar[tuple[str, str]]
    steps: ClassVar[tuple[str, ...]] = ("wte",)
    reads_ids: ClassVar[bool] = False

    def prompts(
        self, ids: tuple[int, ...], whole: tuple[int, ...], config: ModelConfig
    ) -> Iterator[OtherPrompt]:
        """Prompts that may have run: `ids` is what the reference ran, `whole` what was asked for."""
        raise NotImplementedError


def products(q: Array, k: Array) -> Array:
    """Dot products of queries and keys, neither scaled nor masked: [head, query, key].

    Heads share keys with those beside them where there are fewer of these.
    """
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return np.asarray(np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0)))


def capped(at: At, scores: Array) -> Array:
    """Scores bent towards the cap that the model has for them, if it has one."""
    cap: float | None = getattr(at.config, "attn_logit_softcapping", None)
    return scores if cap is None else np.asarray(cap * np.tanh(scores / cap))


def scaled_products(at: At, q: Array, k: Array) -> Array:
    """Dot products of queries and keys, scaled and capped as the layer has them, not masked."""
    return capped(at, products(q, k) * at.config.attention_scale(at.layer or 0))


def not_seen(at: At, n_query: int, n_key: int) -> Array:
    """Which keys the last queries of a layer do not see: the future, and what its window leaves out."""
    return unseen(range(n_key - n_query, n_key), n_key, at.config.window(at.layer or 0))


def softmax(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """exp(x) divided by its sum along an axis."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))


def future(n_query: int, n_key: int, shift: int = 1) -> Array:
    """Where the key comes at least `shift` after the query: bool [query, key]."""
    past = n_key - n_query
    return np.asarray(np.arange(n_key) >= np.arange(n_query)[:, None] + past + shift)


def silent(at: At, x: Array, layer: int | None = None) -> Step:
    """A step that records nothing, for a part that runs once more: `x` has its rows and its precision.

    It is of the mistake's layer, or of this one.
    """
    rows = [PackedSequence(np.zeros(len(x), np.int64))]
    return Step(Pass(at.config, x.dtype, rows), "", at.layer if layer is None else layer)
