"""Forms of mistakes as programs show them, and dumps of which no mistake may be named."""

import numpy as np
import pytest
from support.planting import plant
from support.random_model import random_model

from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes import KNOWN

SHAPE = {"n_layer": 3, "n_head": 3, "n_embd": 24, "vocab_size": 90, "n_positions": 32}
IDS = [7, 3, 44, 12, 80, 7, 65, 33, 2, 51, 18]
MISTAKES = {mistake.slug: mistake for mistake in KNOWN}


@pytest.fixture(scope="module")
def model():
    return random_model(5, "float32", **SHAPE)


@pytest.fixture(scope="module")
def right(model):
    return plant(model, IDS)


def without(dump, *kinds):
    """The dump without some sites of every layer."""
    return {name: array for name, array in dump.items() if not name.endswith(kinds)}


# -- named in every form ----------------------------------------------------------------------------


ATTENTION = ("attn.scores", "attn.pattern")
FORMS = [
    *(("mask-off-by-one", (0, empty), ATTENTION) for empty in ("not a number", "uniform", "zero")),
    *(("mask-anticausal", (1, empty), ATTENTION) for empty in ("not a number", "uniform", "zero")),
    ("mask-off-by-one", (2, "not a number"), ATTENTION),
    ("mask-anticausal", (0, "not a number"), ATTENTION),
    ("softmax-wrong-axis", "head, with a finite mask", ATTENTION),
    ("softmax-wrong-axis", "query", ATTENTION),
    ("softmax-wrong-axis", "query and key", ATTENTION),
    *(("layernorm-no-mean", form, ()) for form in ("anywhere", "above", "in the variance")),
    *((f"transposed-{name}", form, ()) for name in ("c-attn", "c-proj", "c-fc")
      for form in ("[n_in, n_out]", "[n_out, n_in]")),
    ("flash-not-rescaled", ("values", 1), ATTENTION),
    ("flash-not-rescaled", ("sum", 1), ATTENTION),
    ("layer-order", "one too late", ()),
    ("qkv-part-repeated", (0, 0, 2), ("attn.q", "attn.k", "attn.v", *ATTENTION)),
    ("qkv-part-repeated", (0, 1, 1), ("attn.q", "attn.k", "attn.v", *ATTENTION)),
]  # fmt: skip


@pytest.mark.every(2)
@pytest.mark.parametrize(("slug", "form", "left_out"), FORMS, ids=lambda x: str(x) if x else "")
def test_each_form_is_named(model, slug, form, left_out):
    mistake = MISTAKES[slug]
    forms = list(mistake.variants(model.config, len(IDS), range(1, len(IDS))))
    variant = next(v for v in forms if v == form or (isinstance(v, tuple) and v[0] == form))
    for layer in (0, 1):
        dump = plant(model, IDS, mistake, variant, layer)
        found = compare(without(dump, *left_out), model, IDS, search=0)
        assert (found.verdict, found.mistake, found.layer) == ("wrong", slug, layer)


@pytest.mark.parametrize(
    ("filled", "part"),
    [
        ("zero", "values"),
        pytest.param("before", "keys and values", marks=pytest.mark.slow),
        pytest.param("last", "keys", marks=pytest.mark.slow),
    ],
)
def test_a_stale_row_is_seen_in_the_cache_itself(model, filled, part):
    dump = plant(model, IDS, MISTAKES["stale-cache-row"], (6, "new", filled, part), 1, prefill=6)
    cache = {name: array for name, array in dump.items() if name.endswith(("attn.k", "attn.v"))}
    for prefill in (6, None):
        found = compare(cache, model, IDS, prefill=prefill, search=0)
        assert (found.mistake, found.layer, found.position) == ("stale-cache-row", 1, 6)


@pytest.mark.parametrize("fill", [-np.inf, -1e10, float(np.finfo(np.float32).min), 0.0])
def test_a_masked_score_may_hold_anything(model, fill):
    dump = plant(model, IDS, MISTAKES["mask-off-by-one"], (0, "zero"), 1)
    name = "h.1.attn.scores"
    dump[name] = np.where(np.isfinite(dump[name]), dump[name], np.float32(fill))
    found = compare(dump, model, IDS, search=0)
    assert (found.site, found.mistake) == (name, "mask-off-by-one")


@pytest.mark.parametrize("ids", [[*IDS[:4], 50, 51, *IDS[5:]], IDS[:4] + IDS[6:], [9, *IDS[1:], 4]])
def test_another_number_of_tokens_ran(model, ids):
    dump = plant(model, ids)
    found = compare(
        {name: dump[name] for name in ("wte", "embed", "h.0.ln_1", "logits")}, model, IDS, search=0
    )
    assert found.mistake == "wrong-token-ids"
    assert f"{len(ids)} tokens ran instead of {len(IDS)}" in found.candidates[0].detail


# -- not named --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("logits",), ("h.1.attn.z",), ("ln_f", "logits"), ("h.0.attn.out",)])
def test_what_is_not_a_number_has_no_name(model, right, names):
    for n in (1, len(IDS)):
        dump = {name: np.full_like(right[name], np.nan)[:n] for name in names}
        found = compare(dump, model, IDS[:n], search=0)
        assert (found.verdict, found.mistake) == ("wrong", None)


def test_a_token_type_in_the_place_of_the_token_is_no_other_token(model, right):
    dump = dict(right)
    dump["wte"] = np.repeat(model.weights["wte.weight"][:1], len(IDS), axis=0)
    found = compare(dump, model, IDS, search=0)
    assert (found.site, found.mistake) == ("wte", None)


def test_logits_alone_are_not_called_untied(model, right):
    logits = np.random.default_rng(0).normal(0, 1, right["logits"].shape).astype(np.float32)
    assert compare({"logits": logits}, model, IDS, search=0).mistake is None
    assert (
        compare({"logits": logits, "ln_f": right["ln_f"]}, model, IDS, search=0).mistake == "untied-weights"
    )


def test_two_mistakes_with_the_same_numbers_are_both_listed(model):
    dump = plant(model, IDS, MISTAKES["position-constant"], 0)
    found = compare(dump, model, IDS, search=0)
    assert [c.slug for c in found.candidates] == ["position-restart", "position-constant"]


@pytest.mark.parametrize("start", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 8))])
def test_a_mistake_of_other_rows_is_not_named(model, start):
    """From a later position on than any form of the catalogue has it: some that it would change is right."""
    mistake = MISTAKES["cache-not-used"]
    variant = next(
        v for v in mistake.variants(model.config, len(IDS), [4]) if "new tokens" in mistake.detail(v)
    )
    whole, dump = plant(model, IDS, mistake, variant, 0), plant(model, IDS)
    for name in ("attn.scores", "attn.pattern"):
        dump[f"h.0.{name}"][:, start:] = whole[f"h.0.{name}"][:, start:]
    found = compare({name: dump[name] for name in dump if name.startswith("h.0.attn")}, model, IDS, search=0)
    assert (found.site, found.mistake) == ("h.0.attn.scores", None)


def test_a_factor_that_a_norm_hides_is_told_by_what_follows(model):
    scaled = MISTAKES["residual-scaled"]
    dump = plant(model, IDS, scaled, next(iter(scaled.variants(model.config, len(IDS), []))))
    kept = {name: dump[name] for name in dump if name.endswith(("attn.out", "ln_2", "resid_post"))}
    assert compare(kept, model, IDS, search=0).mistake == "residual-scaled"
