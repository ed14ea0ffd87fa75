"""What is not finite in any row is an error that says where, and so is what float16 cannot hold."""

import dataclasses

import numpy as np
import pytest
from support import made_up
from support import tiny_checkpoint as tiny
from support.random_model import random_model

import gpt2np
from gpt2np.errors import CheckpointError, TraceError
from gpt2np.model import Model

IDS = [5, 9, 2, 5, 30]


def broken(model, **weights):
    """The same model with weights that `with_weights` would refuse; `__` stands for a dot."""
    arrays = {name: np.array(array) for name, array in model.weights.items()}
    for name, change in weights.items():
        change(arrays[name.replace("__", ".")])
    return Model(dataclasses.replace(model.checkpoint, weights=arrays), model.dtype.name)


def put(place, value):
    def change(array):
        array[place] = value

    return change


@pytest.fixture(scope="module")
def model():
    return random_model(3, "float32")


CALLS = {
    "all logits": lambda m, ids: m(ids),
    "the last logits": lambda m, ids: m(ids, last=True),
    "everything recorded": lambda m, ids: m.trace(ids),
    "one site recorded": lambda m, ids: m.trace(ids, keep="h.0.attn.pattern"),
    "stopped early": lambda m, ids: m.trace(ids, stop_at_layer=2),
    "generated": lambda m, ids: m.generate(ids, max_new_tokens=2).finish(),
    "scored": lambda m, ids: m.score(ids),
}


def overflowing_at(model, position):
    """A model whose last MLP overflows there and nowhere else: no other row gets to know of it."""
    model = broken(model, h__1__mlp__c_fc__weight=lambda array: array.__imul__(8))
    post = model.trace(IDS)["h.1.mlp.post"]
    others = np.abs(np.delete(post, position, 0)).max(0) + 1e-3
    neuron = int(np.argmax(np.where(post[position] > 2, post[position] / others, 0)))
    assert post[position, neuron] > 1.1 * others[neuron]
    size = 3.5e38 / float(post[position, neuron])
    return broken(model, h__1__mlp__c_proj__weight=put((neuron, 3), size))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("position", range(5))
def test_a_row_that_overflows_is_an_error_wherever_it_stands(model, call, position):
    with pytest.raises(
        CheckpointError, match=f"is not finite at position {position}: the weights are too large"
    ):
        CALLS[call](overflowing_at(model, position), IDS)


@pytest.mark.parametrize("call", CALLS)
def test_what_spreads_has_no_position(model, call):
    bad = broken(model, wpe__weight=put(2, np.nan))
    with pytest.raises(
        CheckpointError, match=r"is not finite at any position: wpe\.weight holds values that are"
    ):
        CALLS[call](bad, IDS)


def test_one_large_row_of_the_unembedding(model):
    ln_f = model.trace(IDS)["ln_f"]
    c = int(np.argmax(np.abs(ln_f[0]) - np.abs(ln_f[-1])))
    assert abs(ln_f[0, c]) > 1.2 > abs(ln_f[-1, c])
    bad = broken(model, lm_head__weight=put((50, c), 2.9e38))
    for call in ("all logits", "everything recorded", "scored"):
        with pytest.raises(CheckpointError, match="not finite at position 0"):
            CALLS[call](bad, IDS)
    assert np.isfinite(bad(IDS, last=True)).all()  # a row whose logits nobody asks for is not computed


def test_the_prompt_is_named_where_there_are_several(model):
    bad = broken(model, wpe__weight=put(4, np.nan))
    for keep in ("*", "h.0.attn.pattern"):
        with pytest.raises(CheckpointError, match=r"at any position of prompt 1: wpe\.weight holds values"):
            bad.trace([IDS[:3], IDS, IDS[:2]], keep=keep)
    with pytest.raises(CheckpointError, match="at position 4"):
        bad.generate(IDS[:3], max_new_tokens=4, eos=None).finish()


def test_a_sum_that_overflows_is_no_error(model):
    c = int(np.abs(model.parameters.wte).argmax() % 16)
    large = broken(model, lm_head__weight=put((slice(None), c), 3e37))
    logits = large(IDS)
    assert np.isfinite(logits).all()
    with np.errstate(over="ignore"):
        assert not np.isfinite(logits.sum())


def test_an_edit_may_make_anything(model):
    def nan(x):
        return x * np.nan

    assert np.isnan(model(IDS, edits={"h.0.mlp.out": nan})).all()
    assert np.isnan(model.trace(IDS, edits={"ln_f": nan})["logits"]).all()


def test_values_that_no_run_meets_do_no_harm(model):
    bad = broken(model, wpe__weight=put(slice(5, None), np.nan), wte__weight=put(40, np.inf))
    assert np.isfinite(bad(IDS)).all()
    bad.trace(IDS).verify()


def test_epsilon_0_and_equal_numbers_are_the_reason(tmp_path):
    flat = random_model(3, "float32", layer_norm_epsilon=0)
    bad = broken(flat, wte__weight=put(9, 1), wpe__weight=put(1, 1))
    with pytest.raises(CheckpointError, match="the norms' epsilon is 0 and they met equal numbers"):
        bad(IDS)


def test_it_holds_for_every_architecture(tmp_path):
    model = gpt2np.load(made_up.write(tmp_path / "m"))
    loud = broken(model, blocks__3__up=lambda array: array.__imul__(8))
    post = loud.trace([7, 3, 5])["h.3.mlp.post"]
    neuron = int(np.argmax(np.where(post[1] > 2, post[1] / (post[[0, 2]].max(0) + 1e-3), 0)))
    bad = broken(loud, blocks__3__down=put((3, neuron), 3.5e38 / float(post[1, neuron])))
    for call in ("all logits", "the last logits", "one site recorded"):
        with pytest.raises(CheckpointError, match="not finite at position 1: "):
            CALLS[call](bad, [7, 3, 5])


# -- a store of float16 ---------------------------------------------------------------------------------


def loud(model, **sizes):
    return broken(model, **{name: lambda a, s=size: a.__imul__(s) for name, size in sizes.items()})


@pytest.mark.parametrize("how", ["one", "several", "file", "positions", "generated"])
def test_values_that_float16_cannot_hold_are_an_error(model, tmp_path, how):
    large = loud(model, h__1__mlp__c_fc__weight=1e5)
    keep = {"patterns": "*", "dtype": "float16"}
    run = {
        "one": lambda: large.trace(IDS, keep=keep),
        "several": lambda: large.trace([IDS, IDS[:2]], keep=keep),
        "file": lambda: large.trace(IDS, keep=keep, out=tmp_path / "t.safetensors"),
        "positions": lambda: large.trace(IDS, keep=keep | {"positions": slice(-1, None)}),
        "generated": lambda: large.generate(IDS, max_new_tokens=2, keep=keep).finish(),
    }[how]
    with pytest.raises(TraceError) as caught:
        run()
    largest = np.abs(large.trace(IDS)["h.1.mlp.pre"]).max()
    words = str(caught.value)
    assert words.startswith("h.1.mlp.pre has values up to ")
    assert words.endswith(", which float16 cannot hold (at most 65504): keep it in float32")
    assert float(words.split()[5].strip(",")) <= float(f"{largest:.4g}")
    assert not list(tmp_path.iterdir())


def test_what_fits_and_the_future_are_stored(model):
    trace = model.trace(IDS, keep={"patterns": "*", "dtype": "float16"})
    assert np.isneginf(trace["h.0.attn.scores"][0, 0, 1:]).all()
    trace.verify()
    large = loud(model, h__1__mlp__c_fc__weight=1e5)
    kept = large.trace(IDS, keep={"patterns": "attn.*", "dtype": "float16"})
    assert np.isfinite(kept["h.1.attn.pattern"]).all()


def test_what_float16_rounds_to_zero_is_stored_whatever_numpy_is_told(model):
    quiet = loud(model, h__1__mlp__c_fc__weight=1e-7, h__1__mlp__c_fc__bias=1e-7)
    with np.errstate(all="raise"):
        trace = quiet.trace(IDS, keep={"patterns": "h.1.mlp.pre", "dtype": "float16"})
    assert np.abs(trace["h.1.mlp.pre"]).max() < 1e-4


def test_infinities_of_an_edit_are_stored_as_they_are(model):
    edits = {"h.1.mlp.out": lambda x: x + np.inf}
    trace = model.trace(IDS, keep={"patterns": "h.1.mlp.out", "dtype": "float16"}, edits=edits)
    assert np.isposinf(trace["h.1.mlp.out"]).all()


def test_derived_sites_too(tmp_path):
    model = gpt2np.load(tiny.write(tmp_path / "m"))
    quiet = broken(model, wte__weight=lambda a: a.__imul__(1e-9), wpe__weight=lambda a: a.__imul__(1e-9))
    config = dataclasses.replace(quiet.config, layer_norm_epsilon=0.0)
    quiet = Model(dataclasses.replace(quiet.checkpoint, config=config))
    with pytest.raises(TraceError, match=r"^h\.0\.ln_1\.rstd has values up to .* float16 cannot hold"):
        quiet.trace(tiny.IDS, keep={"patterns": ["h.0.ln_1.rstd"], "dtype": "float16"})
