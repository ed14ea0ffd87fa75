"""Dumps of right runs under names that are one layer off, or are those of another step."""

import numpy as np
import pytest
from support.planting import plant
from support.random_model import random_model

from gpt2np.errors import InputError
from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes import KNOWN

IDS = [3, 14, 15, 9, 26, 5, 35, 8, 9]
MODEL = random_model(4, "float32", n_layer=4, n_head=3, n_embd=24, vocab_size=60)
TRACE = MODEL.trace(IDS)
STREAM = [np.array(TRACE[name]) for name in ("embed", *(f"h.{i}.resid_post" for i in range(4)))]
NORM = np.array(TRACE["ln_f"])


def hold(dump, **options):
    return compare(dump, MODEL, IDS, **options)


def layers(kind):
    return [np.array(TRACE[f"h.{i}.{kind}"]) for i in range(4)]


def named(form, arrays, first=0):
    return {form.format(i + first): x for i, x in enumerate(arrays)}


# Names, what is recorded under them, and a part of the note.
MOVED = {
    "embedding first": (named("layer_{}", STREAM), "every layer_* is our hidden_states.*"),
    "ln_f last": (named("layer_{}", [*STREAM[:-1], NORM]), "--map 'layer_*=hidden_states.*'"),
    "inputs of blocks": (named("h.{}", STREAM[:-1]), "every h.* is our h.*.resid_pre"),
    "inputs, by our names": (named("h.{}.resid_post", STREAM[:-1]), "'h.*.resid_post=h.*.resid_pre'"),
    "outputs as inputs": (named("h.{}.resid_pre", STREAM[1:]), "--map 'h.*.resid_pre=h.*.resid_post'"),
    "without the first": (named("layer_{}", [*STREAM[2:], NORM]), "your layer_0 is our h.1.resid_post"),
    "numbered from 1": (named("hidden_states.{}", STREAM, 1), "your hidden_states.1 is our embed"),
    "sublayers": (named("layer_{}.mlp", layers("mlp.out")[1:]), "your layer_0.mlp is our h.1.mlp.out"),
    "norms": (named("gpt2.h.{}.ln_2", layers("ln_2")[1:]), "your gpt2.h.0.ln_2 is our h.1.ln_2"),
    "patterns": (named("h.{}.attn.pattern", layers("attn.pattern")[1:]), "our h.1.attn.pattern"),
    "two layers on": (named("h.{}.attn.z", layers("attn.z")[2:]), "your h.0.attn.z is our h.2.attn.z"),
    "a stack of inputs": ({"resid_post": np.stack(STREAM[:-1])}, "resid_post is our embed to h.2.resid_post"),
    "a stack of outputs": ({"resid_pre": np.stack(STREAM[1:])}, "our h.0.resid_post to h.3.resid_post"),
    "a stack of both": ({"resid_post": np.stack(STREAM)}, "resid_post is our embed to h.3.resid_post"),
    "beside what is right": (
        named("layer_{}", STREAM) | {"logits": np.array(TRACE["logits"]), "h.1.ln_2": layers("ln_2")[1]},
        "hidden_states.*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVED)
def test_names_are_told_and_no_mistake(case):
    dump, said = MOVED[case]
    found = hold(dump)
    assert (found.verdict, found.mistake) == ("within-noise", None), str(found)
    assert said in " ".join(str(found).split())
    assert len(found.sites) == (sum(len(x) if x.ndim == 3 and "resid" in n else 1 for n, x in dump.items()))


@pytest.mark.parametrize("case", ["embedding first", "inputs of blocks", "sublayers", "two layers on"])
def test_a_wrong_array_beside_them_is_the_first_wrong_one(case):
    dump = dict(MOVED[case][0])
    at = list(dump)[1]
    wrong = next(r for r in hold(dump).sites if r.name == at).site
    dump[at] = dump[at] * np.float32(1.4)
    if len(dump) > 2:
        found = hold(dump, search=0.5)
        assert (found.verdict, found.site) == ("wrong", wrong)
        assert "layer-skipped" not in str(found)


@pytest.mark.parametrize(
    ("own", "other"),
    {"ln_1": "resid_pre", "mlp.out": "ln_2", "attn.q": "attn.z", "resid_post": "ln_2"}.items(),
)
def test_another_step_is_not_what_was_to_be_compared(own, other):
    if other == "attn.z":
        own, other = other, "attn.q"  # what is computed before
    dump = named(f"h.{{}}.{own}", STREAM[:-1] if other == "resid_pre" else layers(other))
    found = hold(dump | {"ln_f": NORM})
    assert (found.verdict, found.mistake, found.exit_code) == ("incomplete", None, 2)
    assert f"--map 'h.*.{own}=h.*.{other}'" in " ".join(str(found).split())
    with pytest.raises(InputError, match="has the values of"):
        hold(dump)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_a_layer_that_is_skipped_is_still_named(layer):
    skipped = next(m for m in KNOWN if m.slug == "layer-skipped")
    dump = plant(MODEL, IDS, skipped, next(iter(skipped.variants(MODEL.config, len(IDS), []))), layer)
    for kept in (("resid_post", "logits"), ("resid_post",)):
        found = hold({name: x for name, x in dump.items() if name.endswith(kept)}, search=0)
        assert (found.verdict, found.mistake) == ("wrong", "layer-skipped"), str(found)


def test_the_embedding_under_the_name_of_a_layer_before_wrong_ones_is_no_skipped_layer():
    rng = np.random.default_rng(0)
    wrong = [STREAM[0], *(x + rng.normal(0, 1, x.shape).astype(np.float32) for x in STREAM[1:-1])]
    found = hold(named("layer_{}", wrong), search=0)
    assert found.verdict == "wrong"
    assert found.mistake is None, str(found)


def test_what_a_later_layer_has_overwritten_is_still_said():
    last = layers("mlp.out")[-1]
    found = hold(named("h.{}.mlp.out", [last] * 4))
    assert (found.verdict, found.mistake) == ("wrong", "record-overwritten")
