"""`model.weights` cannot be changed; `with_weights` gives a model that runs with others and says so."""

import copy
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import made_up, needs
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.errors import CheckpointError, InputError, VerificationError

NAME = "h.1.mlp.c_proj.weight"


@pytest.fixture(params=["float32", "float16", "float64"])
def model(request, tmp_path):
    """Stored in each type: whether weights can be changed must not depend on it."""
    folder = tiny.write(tmp_path / "model")
    arrays = {name: array.astype(request.param) for name, array in tiny.tensors().items()}
    (folder / "model.safetensors").write_bytes(tiny.safetensors(arrays))
    return gpt2np.load(folder)


@pytest.fixture
def other():
    return np.random.default_rng(1).normal(0, 0.5, (32, 8)).astype(np.float32)


def saved(model, folder, **more):
    """The weights of a model as a checkpoint, loaded again."""
    tiny.write(folder)
    arrays = {name: np.array(array) for name, array in model.weights.items()} | more
    save_file(arrays, folder / "model.safetensors")
    return gpt2np.load(folder)


def assign(weights):
    weights[NAME] = np.zeros((32, 8))


def delete(weights):
    del weights[NAME]


def union(weights):
    weights |= {NAME: 0}


CHANGES = [
    assign, delete, union,
    lambda w: w.update({NAME: 0}), lambda w: w.pop(NAME), lambda w: w.popitem(), lambda w: w.clear(),
    lambda w: w.setdefault("x", 0), lambda w: w.update(x=1),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_mapping_is_read_only_and_says_what_to_do(model, change):
    before = model(tiny.IDS)
    with pytest.raises(InputError, match=r"read-only: model\.with_weights\({name: array}\)"):
        change(model.weights)
    with pytest.raises(InputError, match="with_weights"):
        model.weights = {}
    with pytest.raises(InputError, match="with_weights"):
        model.weights |= {NAME: 0}
    np.testing.assert_array_equal(model(tiny.IDS), before)


def test_every_array_is_read_only(model):
    for name, array in model.weights.items():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            model.weights[name] *= 2


def test_it_reads_like_any_mapping(model):
    weights = model.weights
    assert NAME in weights
    assert "nothing" not in weights
    assert len(list(weights)) == len(weights) == len(dict(weights)) == 28
    assert weights.get("nothing") is None
    assert set(weights.keys()) == {name for name, _ in weights.items()}
    assert set(weights | {"x": 1}) == set({"x": 1} | weights) == {*weights, "x"}
    assert isinstance(weights | {}, dict)
    assert "28 arrays" in repr(weights)
    with pytest.raises(KeyError):
        weights["nothing"]


def test_a_run_is_that_of_a_checkpoint_with_those_weights(model, other, tmp_path):
    before = model(tiny.IDS)
    changed = model.with_weights({NAME: other, "ln_f.bias": np.ones(8)})
    theirs = saved(changed, tmp_path / "other")
    np.testing.assert_array_equal(changed(tiny.IDS), theirs(tiny.IDS))
    ours = changed.generate(tiny.IDS, max_new_tokens=5, eos=None).finish()
    assert ours.token_ids == theirs.generate(tiny.IDS, max_new_tokens=5, eos=None).finish().token_ids
    np.testing.assert_array_equal(changed.weights[NAME], other)
    np.testing.assert_array_equal(model(tiny.IDS), before)
    assert not np.array_equal(changed(tiny.IDS), before)
    assert changed.tokenizer is not None
    assert changed.config == model.config
    assert changed.checkpoint.notes == (
        *model.checkpoint.notes,
        f"with_weights has replaced {NAME}, ln_f.bias",
    )


def test_it_shares_what_is_not_replaced_and_copies_what_is(model, other):
    model.tokenizer.encode("the")
    changed = model.with_weights({NAME: other})
    assert changed.tokenizer is model.tokenizer
    assert all(np.shares_memory(changed.weights[n], model.weights[n]) for n in model.weights if n != NAME)
    before = changed(tiny.IDS)
    other[...] = 0
    np.testing.assert_array_equal(changed(tiny.IDS), before)


def test_traces_are_those_of_the_model_that_ran(model, other, tmp_path):
    changed = model.with_weights({NAME: other})
    trace = changed.trace(tiny.IDS)
    trace.verify()
    trace.save(tmp_path / "t.safetensors")
    assert gpt2np.Trace.open(tmp_path / "t.safetensors", model=changed).verify().checked
    for wrong in (model, changed.with_weights({NAME: other * 2})):
        with pytest.raises(VerificationError):
            gpt2np.Trace.open(tmp_path / "t.safetensors", model=wrong).verify()
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")
    assert opened.metadata["fingerprint"] == changed.checkpoint.fingerprint
    assert opened.metadata["replaced_weights"] == [NAME]
    assert "replaced_weights" not in model.trace(tiny.IDS).metadata


def test_fingerprints_tell_models_apart(model, other):
    def fingerprint(weights, of=model):
        return of.with_weights(weights).checkpoint.fingerprint

    prints = [
        model.checkpoint.fingerprint,
        fingerprint({NAME: other}),
        fingerprint({NAME: -other}),
        fingerprint({NAME.replace("1", "0"): other}),
        fingerprint({"ln_f.bias": other[0]}),
        fingerprint({"ln_f.bias": other[0], "ln_f.weight": other[1]}),
        fingerprint({"ln_f.bias": other[0]}, model.with_weights({NAME: other})),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint({NAME: other}) == prints[1]
    assert fingerprint({NAME: np.asfortranarray(other)}) == prints[1]
    assert fingerprint({"ln_f.weight": other[1], "ln_f.bias": other[0]}) == prints[5]
    assert fingerprint({}) == prints[0]
    hashes = {m.checkpoint.full_hash() for m in (model, model.with_weights({NAME: other}))}
    assert len(hashes) == 2


def test_the_unembedding_stays_tied_until_one_is_given(model, tmp_path):
    table = np.random.default_rng(2).normal(0, 0.5, (300, 8)).astype(np.float32)
    tied = model.with_weights({"wte.weight": table})
    assert "lm_head.weight" not in tied.weights
    assert tied.parameters.lm_head is tied.parameters.wte
    np.testing.assert_array_equal(tied(tiny.IDS), saved(tied, tmp_path / "tied")(tiny.IDS))
    untied = model.with_weights({"lm_head.weight": table})
    np.testing.assert_array_equal(untied(tiny.IDS), saved(untied, tmp_path / "untied")(tiny.IDS))
    np.testing.assert_array_equal(untied.weights["lm_head.weight"], table)
    np.testing.assert_array_equal(untied.weights["wte.weight"], model.weights["wte.weight"])
    again = untied.with_weights({"lm_head.weight": model.weights["wte.weight"]})
    assert "lm_head.weight" not in again.weights
    assert untied.with_weights({"wte.weight": table * 2}).weights["lm_head.weight"] is not None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", list])
def test_every_float_type_becomes_that_of_the_run(model, other, dtype):
    value = other.tolist() if dtype is list else other.astype(dtype)
    for run in (model, gpt2np.load(model.checkpoint.folder, dtype="float64")):
        changed = run.with_weights({NAME: value})
        assert changed.weights[NAME].dtype == run.dtype
        np.testing.assert_allclose(changed.weights[NAME], other, rtol=1e-3, atol=1e-3)


def test_a_tensor_of_torch_is_taken(model, other):
    torch = needs.imported("torch")
    changed = model.with_weights({NAME: torch.tensor(other)})
    np.testing.assert_array_equal(changed.weights[NAME], other)
    with pytest.raises(InputError, match=rf"with_weights: {NAME}: .*grad"):
        model.with_weights({NAME: torch.nn.Parameter(torch.tensor(other))})


ZEROS = np.zeros((32, 8))
REFUSED = {
    "an unknown name": ({"h.1.mlp.c_prj.weight": ZEROS}, "did you mean 'h.1.mlp.c_proj.weight'?"),
    "HF's full name": ({f"transformer.{NAME}": ZEROS}, f"did you mean {NAME!r}?"),
    "a layer too many": ({"h.2.mlp.c_proj.weight": ZEROS}, "no weight is called 'h.2.mlp.c_proj.weight'"),
    "a name that is none": ({3: ZEROS}, "no weight is called 3"),
    "nothing like a name": ({"x\n\x1b": ZEROS}, "no weight is called"),
    "another shape": ({NAME: ZEROS.T}, "has shape [8, 32], expected [32, 8]"),
    "one axis more": ({NAME: ZEROS[None]}, "has shape [1, 32, 8]"),
    "a number": ({NAME: 0.0}, "has shape []"),
    "integers": ({NAME: ZEROS.astype(int)}, "is int64, expected a float type"),
    "flags": ({NAME: ZEROS > 0}, "is bool"),
    "complex": ({NAME: ZEROS * 1j}, "is complex128"),
    "text": ({NAME: np.full((32, 8), "a")}, "expected a float type"),
    "objects": ({NAME: ZEROS.astype(object)}, "is object"),
    "ragged rows": ({NAME: [[1.0], [1.0, 2.0]]}, "cannot be made a NumPy array"),
    "NaN": ({NAME: ZEROS * np.nan}, f"{NAME} holds values that are not finite"),
    "infinity": ({NAME: ZEROS + np.inf}, f"{NAME} holds values that are not finite"),
    "too large for float32": ({NAME: ZEROS + 1e300}, f"{NAME} holds values that are not finite in float32"),
    "an unembedding of another vocabulary": ({"lm_head.weight": np.zeros((301, 8))}, "expected [300, 8]"),
    "an array": (ZEROS, "takes a mapping of names to arrays, not ndarray"),
    "nothing": (None, "takes a mapping"),
    "pairs": ([(NAME, ZEROS)], "takes a mapping"),
}


@pytest.mark.parametrize(("weights", "says"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(tmp_path, weights, says):
    model = gpt2np.load(tiny.write(tmp_path / "model"))
    with pytest.raises(InputError) as caught:
        model.with_weights(weights)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_copies_keep_what_was_replaced(model, other):
    changed = model.with_weights({NAME: other})
    for made in (copy.copy(changed), copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):
        np.testing.assert_array_equal(made(tiny.IDS), changed(tiny.IDS))
        assert made.checkpoint.fingerprint == changed.checkpoint.fingerprint
        with pytest.raises(InputError, match="read-only"):
            made.weights[NAME] = other


def test_the_file_still_counts_for_what_is_not_replaced(tmp_path, other):
    folder = tiny.write(tmp_path / "model")
    changed = gpt2np.load(folder).with_weights({NAME: other})
    open(folder / "model.safetensors", "wb").close()
    with pytest.raises(CheckpointError, match="has been written to"):
        changed(tiny.IDS)


def test_it_holds_for_every_architecture(tmp_path):
    model = gpt2np.load(made_up.write(tmp_path / "m"))
    changed = model.with_weights({"norm": model.weights["norm"] * 2})
    np.testing.assert_allclose(changed([1, 2, 3]), 2 * model([1, 2, 3]), rtol=1e-5)
    own = changed.with_weights({"unembedding": model.weights["table"] * 2})
    assert "unembedding" in own.weights
