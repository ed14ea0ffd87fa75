"""The examination of lesson 7: ten runs of one text, each by a program with one mistake.

Do not read on if you want to sit it: what is planted stands below.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2np.lessons.models import PROMPT, model_of_lessons
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.mistake_replay import Replays, Scope
from gpt2np.reference.mistakes import CATALOGUE, Mistake
from gpt2np.reference.noise_bands import Expected, expect
from gpt2np.tables import table, wrapped

Dump = dict[str, Array]
PREFILL = 6  # tokens that run at once; the others come one at a time, where a cache is what is wrong

# Slug, the form of the mistake, the steps, and in which layers; in the order of the examination.
_Planted = tuple[str, object, tuple[str, ...], Sequence[int] | None]
_ALL = range(4)
_PLANTED: tuple[_Planted, ...] = (
    ("scores-scaled-by-d-head", None, ("attn.scores",), _ALL),
    ("gelu-erf", None, ("mlp.post",), _ALL),
    ("missing-bias", None, ("attn.out",), (2,)),
    ("position-off-by-one", 1, ("wpe",), None),
    ("qkv-kv-swapped", None, ("attn.qkv",), _ALL),
    ("wrong-residual-branch", "adds to", ("resid_post",), _ALL),
    ("layernorm-ddof1", None, ("ln_1", "ln_2", "ln_f"), _ALL),
    ("mask-off-by-one", (2, "not a number"), ("attn.scores",), _ALL),
    ("heads-merged-untransposed", None, ("attn.out",), _ALL),
    (
        "stale-cache-row",
        (PREFILL, "own", "before", "keys and values"),
        ("attn.qkv", "attn.scores", "attn.z"),
        _ALL,
    ),
)
# Answers that are wrong everywhere, to choose among.
_OTHERS = (
    *("activation-relu", "bias-twice", "embedding-scaled", "heads-permuted", "layernorm-no-mean"),
    *("mask-missing", "position-missing", "position-restart", "residual-missing", "scores-unscaled"),
)


@dataclass(frozen=True)
class Examination:
    """Ten dumps, each a dict of steps in float32, and the answers that there are to choose among.

    `truth` is the right run in float64, steps in the order of execution; `bands` says how far float32 may be
    off, by step: an array that broadcasts. `noise` is both of these for
    `compare`. `choices` maps each answer to what it means.
    """

    dumps: tuple[Dump, ...]
    truth: Mapping[str, Array]
    bands: Mapping[str, Array]
    choices: Mapping[str, str]
    noise: Expected

    def clues(self, dump: Mapping[str, Array], step: str) -> str:
        """Return where a step of a dump is wrong, and how: by a factor, or by a summand."""
        theirs, truth = np.asarray(dump[step], np.float64), self.truth[step]
        seen = np.isfinite(truth)  # what is not the future
        with np.errstate(invalid="ignore"):
            error = np.where(theirs == truth, 0.0, np.abs(theirs - truth))
        off = error > self.bands[step]
        rows = np.moveaxis(off, -2 if step.endswith(("scores", "pattern")) else 0, 0)
        positions = " ".join(str(i) for i, row in enumerate(rows) if row.any())
        said = [f"{step}: {off.mean():.0%} of its numbers are off, at positions {positions}"]
        if not seen.all():
            share = np.isfinite(theirs[~seen]).mean()
            said.append(f"numbers in the future, where none should be: {share:.0%}")
        large = seen & (np.abs(truth) > np.abs(truth[seen]).mean())
        factors = theirs[large] / truth[large]
        said.append(f"theirs / true, where it is large: {factors.min():.4f} to {factors.max():.4f}")
        if theirs.ndim == 2:
            shown = " and ".join(f"{i} [{_few(theirs[i] - truth[i])}]" for i in (0, 5))
            said.append(f"theirs - true, first columns: position {shown}")
        return "\n  ".join(said)

    def __str__(self) -> str:
        rows = []
        for slug, meaning in self.choices.items():
            first, *others = wrapped(meaning).splitlines()
            rows += [[slug, first], *(["", line] for line in others)]
        return table(rows, "<<", indent=0)

    def __repr__(self) -> str:
        return str(self)


def _few(row: Array) -> str:
    """The first numbers of a row; what is below any band is 0."""
    return " ".join(f"{x:.2g}" for x in np.where(np.abs(row[:5]) > 1e-7, row[:5], 0.0))


def examination() -> Examination:
    """Return the examination of lesson 7, for the prompt of the lessons and `tiny`.

    Example:
        >>> examination().dumps[0]["h.0.ln_1"].shape  # of the first of ten programs
        (12, 192)
    """
    expected = expected_of(model_of_lessons(), PROMPT)
    dumps = tuple(planted(expected, *each) for each in _PLANTED)
    return Examination(dumps, fixed(steps_of(expected)), fixed(bands_of(expected)), choices(), expected)


def choices() -> dict[str, str]:
    """The answers that there are to choose among, and what each means."""
    found = {m.slug: m.explanation for m in CATALOGUE if m.slug in (*answers(), *_OTHERS)}
    return dict(sorted(found.items()))


def answers() -> tuple[str, ...]:
    """The right answers, in the order of the dumps."""
    return tuple(slug for slug, *_ in _PLANTED)


@functools.lru_cache(maxsize=4)
def expected_of(model: Model, prompt: str) -> Expected:
    """The right run of a prompt and its noise; computed once."""
    return expect(model, model.token_ids(prompt))


@functools.lru_cache(maxsize=4)
def expected_of_tokens(model: Model, token_ids: tuple[int, ...]) -> Expected:
    """The same for the first tokens of a prompt."""
    return expect(model, token_ids)


def names_of(model: Model) -> list[str]:
    """The steps of a run that a program can record, in the order of execution."""
    n_layer = model.config.n_layer
    return [
        n
        for n, site, _ in model.config.architecture.sites.expand(n_layer)
        if not site.derived and n not in ("wte", "wpe")
    ]


def steps_of(expected: Expected) -> Dump:
    """The right values of all steps."""
    return {name: expected.truth[name] for name in names_of(model_of_lessons())}


def bands_of(expected: Expected) -> Dump:
    """How far float32 may be off, by step."""
    return {name: expected.bands[name] for name in names_of(model_of_lessons())}


def fixed(dump: Dump) -> Dump:
    """A dump whose arrays cannot be changed any more: a judge must leave them as they are."""
    for array in dump.values():
        array.flags.writeable = False
    return dump


def mistake_called(slug: str) -> Mistake:
    """A mistake of the catalogue."""
    return next(mistake for mistake in CATALOGUE if mistake.slug == slug)


def planted(
    expected: Expected, slug: str, form: object, steps: Sequence[str], layers: Sequence[int] | None
) -> Dump:
    """What a program with a mistake in these steps records, in float32; `layers` None: before all layers."""
    mistake = mistake_called(slug)
    replays = Replays(model_of_lessons(), expected.truth, PREFILL)
    names = names_of(model_of_lessons())
    inside = [step if step == "ln_f" else f"h.{layer}.{step}" for layer in layers or () for step in steps]
    run = replays.replay(mistake, form, inside or steps, Scope(), "logits")
    dump = {name: np.asarray(run[name], np.float32) for name in names}
    for layer, block in enumerate(model_of_lessons().parameters.h):
        if "attn.qkv" in mistake.unseen:  # a program has it right: what is wrong is how it is read
            x, c_attn = run[f"h.{layer}.ln_1"], block.attn.c_attn
            dump[f"h.{layer}.attn.qkv"] = (x @ c_attn.weight + c_attn.bias).astype(np.float32)
    return fixed(dump)
