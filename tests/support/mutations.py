"""The mutation matrix: mistakes of the catalogue, planted at random, and what compare makes of the dumps.

`python tests/support/mutation_table.py` plants all of them and writes `tests/reference/mutations.md`.
"""

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from support import gemma2_checkpoint
from support.planting import plant
from support.random_model import random_model

from gpt2np.model import Model
from gpt2np.reference.candidates import Candidate
from gpt2np.reference.comparison import Comparison, compare
from gpt2np.reference.error_measure import difference
from gpt2np.reference.mistake_replay import Scope
from gpt2np.reference.mistakes import CATALOGUE, KNOWN, PROMPT_MISTAKES, Mistake
from gpt2np.reference.mistakes.cache import CacheMistake
from gpt2np.reference.noise_bands import Expected, expect
from gpt2np.reference.precision import in_precision
from gpt2np.tracing.lines import lines
from gpt2np.tracing.sites import Site

VOCABULARY = 60
PER_HEAD = {"attn.qkv", "attn.scores", "attn.pattern", "attn.z"}
WITH_CACHE = {"position-restart", "cache-not-used", "mask-forgets-cache", "attention-window"}
WITH_CACHE |= {m.slug for m in CATALOGUE if isinstance(m, CacheMistake)}
SURE = 0.2  # of a band: what float32 itself may add to, or take from, an error


@dataclass
class Case:
    """A mistake at a place: the run without it, the dump with it, and what would show in float64."""

    slug: str
    placement: int
    model: Model
    ids: list[int]  # what compare is told
    dump: dict[str, np.ndarray]
    exact: dict[str, np.ndarray]  # the dump of a float64 run with the mistake
    where: str
    prefill: int | None = None
    layer: int | None = None
    present: list[str] = field(default_factory=list)

    @cached_property
    def expected(self) -> Expected:
        """Truth and noise."""
        return expect(self.model, self.ids[-self.model.config.n_positions :])

    def reaches(self, site: str) -> np.ndarray:
        """How far the mistake itself is outside the band of a site, in bands, element by element."""
        truth, exact = self.expected.truth[site], self.exact[site]
        kind, layer = resolved(self.model, site)
        error = difference(exact, truth, kind, None if layer is None else self.model.config.window(layer))
        with np.errstate(all="ignore"):
            share = error / np.broadcast_to(self.expected.bands[site], error.shape)
        return np.where(error == 0, 0.0, share)

    def reach(self, site: str) -> float:
        """The largest of them."""
        if self.exact[site].shape != self.expected.truth[site].shape:
            return self.reach_of_part(site)
        return float(np.max(self.reaches(site)))

    def reach_of_part(self, site: str) -> float:
        """The same for other numbers of positions: 0 if they may be the first, or the last ones.

        That is only right for what comes before positions meet, and as long as all sites say the same.
        """
        n, exact = len(self.expected.truth["wte"]), self.exact
        if len(exact["wte"]) > n:  # the first rows may be those that were asked for
            fits = exact[site].ndim == 2 and np.array_equal(exact[site][:n], self.expected.truth[site])
            return 0.0 if fits else np.inf
        sites = self.present[: self.present.index(site) + 1]
        for start in (0, n - len(exact["wte"])):
            truth = {name: self.expected.truth[name][start : start + len(exact["wte"])] for name in sites}
            if all(np.array_equal(exact[name], truth[name]) for name in sites):
                return 0.0
        return np.inf

    def half(self) -> "Case":
        """The same with every other site left out, at random, of which the mistake may still be seen."""
        rng = np.random.default_rng(zlib.crc32(f"{self.slug} {self.placement}".encode()))
        names = list(self.dump)
        kept = sorted(rng.choice(len(names), len(names) // 2, replace=False))
        other = Case(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        other.present = [names[i] for i in kept]
        other.__dict__["expected"] = self.expected
        return other


# -- planting -----------------------------------------------------------------------------------------


def case_of(slug: str, placement: int) -> Case:
    """The mistake at a random place of a random run; the same for the same numbers."""
    rng = np.random.default_rng([zlib.crc32(slug.encode()), placement])
    n_head, d_head, n_layer = (int(rng.integers(*of)) for of in ((2, 5), (3, 9), (2, 5)))
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_head * d_head, "vocab_size": VOCABULARY}
    shape["n_positions"] = 16
    if slug == "gelu-tanh":
        shape["activation_function"] = "gelu"
    if slug == "scores-scaled-anyway":
        shape["scale_attn_weights"] = False
    if slug == "scores-scaled-by-layer":
        shape["scale_attn_by_inverse_layer_idx"] = bool(rng.integers(2))
    model = random_model(int(rng.integers(1 << 30)), "float32", **shape)
    ids = rng.integers(0, VOCABULARY, int(rng.integers(6, 14))).tolist()
    mistake = next((m for m in CATALOGUE if m.slug == slug), None)
    if mistake is None:
        return other_prompt(slug, placement, model, ids, rng)
    if not steps_in(mistake, model) or not list(mistake.variants(model.config, len(ids), [1])):
        model = random_gemma(
            rng, shared=slug == "groups-interleaved"
        )  # which has the steps that GPT-2 has not
    if slug in RECORDED:
        return recorded(slug, placement, model, ids, rng)
    return in_a_run(mistake, placement, model, ids, rng)


def random_gemma(rng, shared: bool) -> Model:
    """A Gemma-2 of any shape, or of several heads a key; windows are shorter than the text, caps bend."""
    groups, heads_of_group = int(rng.integers(2, 4)), int(rng.integers(1 + shared, 4))
    sizes = {"num_attention_heads": groups * heads_of_group, "num_key_value_heads": groups}
    sizes |= {"head_dim": 2 * int(rng.integers(2, 6)), "hidden_size": int(rng.integers(9, 25))}
    sizes |= {"sliding_window": int(rng.integers(2, 5)), "vocab_size": VOCABULARY}
    sizes["query_pre_attn_scalar"] = sizes["head_dim"] + int(rng.integers(1, 9))
    kinds = "SFSF"[rng.integers(2) :][: int(rng.integers(2, 4))]
    return gemma2_checkpoint.in_memory(kinds, int(rng.integers(1 << 30)), **sizes)


def resolved(model: Model, name: str) -> tuple[Site, int | None]:
    """A site and its layer, by full name."""
    return model.config.architecture.sites.resolve(name, None, model.config.n_layer)


def steps_in(mistake: Mistake, model: Model) -> tuple[str, ...]:
    """The steps in which a mistake may be made in a model."""
    operations = {name.split(".", 2)[-1]: line.op for name, line in lines(model.config).items()}
    return mistake.steps_in(model.config, operations)


def in_a_run(mistake: Mistake, placement: int, model: Model, ids: list[int], rng) -> Case:
    """A form of the mistake in one of its steps, in one layer, in some heads, at some positions."""
    config, prefill = model.config, None
    if mistake.slug in WITH_CACHE and rng.integers(2):
        prefill = int(rng.integers(2, len(ids)))
    variants = list(mistake.variants(config, len(ids), starts(len(ids), prefill)))
    variant = variants[rng.integers(len(variants))]
    able = steps_in(mistake, model)
    kinds = [kind for kind in able if not mistake.together]
    steps = [kinds[rng.integers(len(kinds))]] if kinds else list(able)
    layers = [at for _, s, at in config.architecture.sites.expand(config.n_layer) if s.name in steps]
    layer = layers[rng.integers(len(layers))]
    layer = None if mistake.in_all(variant) else layer
    position, head = int(rng.integers(len(ids))), int(rng.integers(config.n_head))
    rows = [slice(None), slice(position, position + 1), slice(position, None)][rng.integers(3)]
    heads = (head,) if PER_HEAD.issuperset(mistake.steps) and rng.integers(2) else None
    whole = (
        mistake.whole
        or mistake.slug in WITH_CACHE
        or (mistake.together and not PER_HEAD.issuperset(mistake.steps))
    )
    scope = Scope() if whole else Scope(heads, rows)
    if mistake.slug == "dropout-active":
        mistake, scope = Dropout(int(rng.integers(1 << 30)), rng.uniform(0.1, 0.5)), Scope()
    planted = (mistake, variant, layer, scope, prefill, steps)
    where = f"{' '.join(steps)} {variant} layer {layer} of {config.n_layer} {scope} tokens {len(ids)}"
    dump, exact = (plant(m, ids, *planted) for m in (model, in_precision(model, "float64")))
    return Case(mistake.slug, placement, model, ids, dump, exact, where, prefill, layer, list(dump))


def starts(n: int, prefill: int | None) -> list[int]:
    """Positions from which on a cache may have been in use."""
    return list(range(1, n)) if prefill is None else [prefill]


class Dropout(Mistake):
    """Values that are 0 with a probability, and larger by as much otherwise: the catalogue only sees them."""

    slug = "dropout-active"

    def __init__(self, seed: int, p: float) -> None:
        self.seed, self.p = seed, p

    def run(self, at, variant, *inputs, out) -> None:
        out *= (np.random.default_rng(self.seed).random(out.shape) >= self.p) / (1 - self.p)


ONLY_RECOGNISED = {"bias-added"}  # in its own step, where the dump has what that reads
RECORDED = {"targets-not-shifted", "rows-reversed", "record-overwritten"}


def recorded(slug: str, placement: int, model: Model, ids: list[int], rng) -> Case:
    """A run without a mistake, and what was made of its arrays."""
    n_layer, moved = model.config.n_layer, int(rng.choice([0, 2]))
    kinds = ["ln_1", "attn.z", "attn.qkv", "mlp.pre", "mlp.out", "resid_post"]
    buffer = kinds[rng.integers(len(kinds))] if rng.integers(3) else "embed"
    dumps = []
    for m in (model, in_precision(model, "float64")):
        dump = plant(m, ids)
        if slug == "targets-not-shifted":
            logits = dump["logits"].astype(np.float64)
            losses = np.log(np.exp(logits).sum(-1)) - logits[range(len(ids)), np.roll(ids, -moved)]
            dump["loss"] = losses.astype(m.dtype)
        elif slug == "rows-reversed":
            dump = {
                name: x if name.endswith(("scores", "pattern")) else x[::-1].copy()
                for name, x in dump.items()
            }
        elif buffer == "embed":  # a stream that is added to in place
            dump["embed"] = dump[f"h.{n_layer - 1}.resid_post"].copy()
        else:  # one array for all layers
            dump |= {f"h.{i}.{buffer}": dump[f"h.{n_layer - 1}.{buffer}"].copy() for i in range(n_layer)}
        dumps.append(dump)
    return Case(slug, placement, model, ids, *dumps, f"{slug} {buffer} {moved}", None, None, list(dumps[0]))


def other_prompt(slug: str, placement: int, model: Model, ids: list[int], rng) -> Case:
    """A run of other tokens than those that compare is told."""
    n = len(ids)
    at, rows = int(rng.integers(1, n)), slice(None)
    if slug == "bos-prepended":
        bos = [VOCABULARY - 1, 0][rng.integers(2)]
        ran, rows = [bos, *ids], [slice(None), slice(1, None), slice(0, n)][rng.integers(3)]
    elif slug == "context-truncated" and rng.integers(2):
        ids = rng.integers(0, VOCABULARY, 16 + at).tolist()
        ran = ids[:16]
    elif slug == "context-truncated":
        ran = ids[at:]
    else:
        ran = list(ids)
        if rng.integers(2):
            ran[at] = (ran[at] + int(rng.integers(1, VOCABULARY))) % VOCABULARY
        else:
            ran = ids[::-1]
    planted = []
    for m in (model, in_precision(model, "float64")):
        dump = plant(m, ran)
        for name in dump:
            axes = resolved(model, name)[0].axis_names
            dump[name] = dump[name][
                tuple(rows if a in ("pos", "query", "key") else slice(None) for a in axes)
            ]
        planted.append(dump)
    where = f"ran {ran} rows {rows} for {ids}"
    return Case(slug, placement, model, ids, *planted, where, None, None, list(planted[0]))


# -- judging ------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What compare said of a case: `found`, `twin`, `hidden` or `missed`; did it give a wrong name?"""

    case: Case
    kind: str
    said: str
    wrong_name: bool = False


def judge(case: Case) -> Outcome:
    """Whether compare finds the site, its layer and the mistake.

    Arrays that it refuses, since nothing says how they are laid out (as many tokens as a head is wide, and
    wrong everywhere), are as good as missing.
    """
    dump = {name: case.dump[name] for name in case.present}
    found = compare(dump, case.model, case.ids, prefill=case.prefill, search=0)
    said = f"{found.verdict} {found.site} {[c.slug for c in found.candidates]}"
    present = [n for n in case.present if n not in {name for name, _ in found.refused}]
    twin = found.mistake not in (None, case.slug) and same_numbers(case, present, found)
    wrong = found.mistake not in (None, case.slug) and not twin
    reaches = {name: case.reach(name) for name in present}
    first = next((name for name in present if reaches[name] > 1), None)
    if first is None:  # the mistake changes nothing that is more than noise
        fine = found.verdict == "within-noise" or max(reaches.values(), default=0.0) > 1 - SURE
        return Outcome(case, "hidden" if fine else "missed", said, wrong)
    # an error at the very edge of a band may fall on either side of it
    may = [n for n in present[: present.index(first) + 1] if reaches[n] > 1 - SURE]
    if reaches[first] < 1 + SURE:
        may += [n for n in present if reaches[n] > 1][1:2]
    if found.site not in may or not right_place(case, found):
        return Outcome(case, "missed", said, wrong)
    kind = "found" if found.mistake == case.slug else "twin" if twin else "missed"
    return Outcome(case, kind, said, wrong)


def right_place(case: Case, found: Comparison) -> bool:
    """Whether layer, first position and heads are those at which the mistake leaves the band."""
    site, layer = resolved(case.model, found.site)
    if found.layer != layer or case.exact[found.site].shape != case.expected.truth[found.site].shape:
        return found.layer == layer
    reaches, axes = case.reaches(found.site), site.axis_names
    rows = along(reaches, "query" if site.quadratic else "pos", axes)
    right = rows[found.position] > 1 - SURE and not (rows[: found.position] > 1 + SURE).any()
    if "head" in axes:
        heads = along(reaches, "head", axes)
        said = np.isin(np.arange(len(heads)), found.first.measure.heads)
        right &= bool((said | (heads < 1 + SURE)).all() and not (said & (heads < 1 - SURE)).any())
    return bool(right)


def along(x: np.ndarray, axis: str, axes: tuple[str, ...]) -> np.ndarray:
    """The largest values along an axis."""
    return x.max(axis=tuple(i for i, name in enumerate(axes) if name != axis))


def same_numbers(case: Case, names: list[str], found: Comparison) -> bool:
    """Whether the mistake that compare named gives the numbers of the dump, at every site that it compared.

    It is planted anew, in float64, in the layer, heads and positions that compare says; what it gives must
    be what the planted mistake gives, as far as float32 can tell.
    """
    best = found.candidates[0]
    config = case.model.config
    for other in planted_anew(best, case, in_precision(case.model, "float64")):
        sites = {n: resolved(case.model, n) for n in names}
        windows = {n: None if at is None else config.window(at) for n, (_, at) in sites.items()}
        if all(
            n in other
            and other[n].shape == case.exact[n].shape
            and (difference(other[n], case.exact[n], sites[n][0], windows[n]) <= case.expected.bands[n]).all()
            for n in names
        ):
            return True
    return False


def planted_anew(best: Candidate, case: Case, model: Model) -> Iterator[dict[str, np.ndarray]]:
    """Runs with a mistake in the form, layer, heads and positions that compare says."""
    n, config = len(case.ids), model.config
    for mistake in PROMPT_MISTAKES:
        for other in mistake.prompts(tuple(case.ids), tuple(case.ids), config):
            if (mistake.slug, other.detail) == (best.slug, best.detail):
                yield {name: array[other.rows] for name, array in plant(model, list(other.token_ids)).items()}
    for mistake in CATALOGUE:
        if mistake.slug != best.slug or mistake.slug in RECORDED:
            continue
        able = list(steps_in(mistake, case.model))
        sets = [able] if mistake.together else [*([s] for s in able), able]
        for variant, steps in itertools.product(
            list(mistake.variants(config, n, starts(n, case.prefill))), sets
        ):
            if mistake.detail(variant) == best.detail:
                scope = Scope(best.heads, best.rows)
                layer = None if mistake.in_all(variant) else best.layer
                yield plant(model, case.ids, mistake, variant, layer, scope, case.prefill, steps)


def slugs() -> list[str]:
    """Of every mistake that can be planted, and may be named wherever it shows."""
    return [mistake.slug for mistake in KNOWN if mistake.slug not in ONLY_RECOGNISED]
