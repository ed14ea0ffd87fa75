"""Broken traces: each ends in an error of ours that says where and what."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import tiny_checkpoint as tiny
from support.breaking import ABSENT, damage, damaged, message_of, put, several
from support.tiny_checkpoint import IDS

import gpt2np
from gpt2np.errors import Gpt2npError, TraceError, VerificationError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "t.safetensors"
    model.trace(IDS, out=path)
    return path.read_bytes()


def facts(change=None, /, **changes):
    """The metadata of a trace with some of its fields changed, or as a whole by a function."""

    def edit(file: bytes) -> bytes:
        entries, data = tiny.split(file)
        metadata = json.loads(entries["__metadata__"]["gpt2np"])
        metadata = change(metadata) if change else metadata | changes
        if isinstance(metadata, dict):
            metadata = {key: value for key, value in metadata.items() if value is not ABSENT}
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        return tiny.join({**entries, "__metadata__": {"gpt2np": text}}, data)

    return edit


def of_config(**changes):
    return facts(lambda metadata: {**metadata, "config": {**metadata["config"], **changes}})


def entries(change):
    """The header of a trace, changed by a function."""

    def edit(file: bytes) -> bytes:
        header, data = tiny.split(file)
        return tiny.join(change(header) or header, data)

    return edit


def renamed(old, new):
    return entries(lambda header: {(new if name == old else name): entry for name, entry in header.items()})


LYING = {
    "empty": (lambda file: b"", "empty"),
    "cut short": (lambda file: file[:-1], "data_offsets end"),
    "Git LFS pointer": (lambda file: b"version https://git-lfs.github.com/spec/v1\n", "git lfs"),
    "a checkpoint": (lambda file: tiny.safetensors(tiny.tensors()), "is not a trace"),
    "metadata not JSON": (facts(lambda metadata: "{"), "'gpt2np': is not JSON"),
    "metadata nested without end": (facts(lambda metadata: "[" * 100_000), "'gpt2np': is not JSON"),
    "metadata a list": (facts(lambda metadata: [1]), "schema"),
    "another schema": (facts(schema="gpt2np.trace/2"), "schema", "'gpt2np.trace/2'"),
    "no token_ids": (facts(token_ids=ABSENT), "token_ids"),
    "token_ids empty": (facts(token_ids=[]), "token_ids"),
    "token_ids of text": (facts(token_ids=["41"]), "token_ids"),
    "token_ids of booleans": (facts(token_ids=[True] * 5), "token_ids"),
    "token_ids too few": (facts(token_ids=IDS[:4], tokens=None), "wte", "(5, 8)", "(4, 8)"),
    "token_ids below zero": (facts(token_ids=[41, 256, 275, 7, -1]), "token_ids", "0 to 299"),
    "token_ids beyond the vocabulary": (facts(token_ids=[41, 256, 275, 7, 300]), "token_ids", "0 to 299"),
    "token_ids of 22 digits": (facts(token_ids=[2**70] * 5), "token_ids", "whole numbers"),
    "more tokens than positions": (of_config(n_positions=4), "token_ids", "5 ids", "n_positions is 4"),
    "tokens of numbers": (facts(tokens=[1, 2, 3, 4, 5]), "tokens", "a text"),
    "prompt of a number": (facts(prompt=5), "prompt"),
    **{
        f"{name} of another type ({number})": (facts(**{name: value}), f": {name} is ", "expected")
        for name, values in {
            "edits": (5, "h.0.ln_1", {"h.0.ln_1": 1}, [1], [["h.0.ln_1"]]),
            "model": (5, ["m"], {}, True),
            "commit": (5, [], 1.5),
            "fingerprint": (5, ["f"]),
            "digest": (5, {}),
            "gpt2np": (1, []),
            "numpy": (2.4, [2]),
            "n_prompt": ("2", 1.5, True, [2], 0, -1, 6, 2**70),
            "predicted_next_token": (5, "the", [1]),
            "stop_at_layer": ("1", 1.5, True, -1),
            "prompt": (["a"], 1.5, False),
            "keys": (3, ["k"]),
            "positions": ([0, None], [0.0, None, 1], [True, None, 1], [2**70, None, 1], None),
        }.items()
        for number, value in enumerate(values)
    },
    "NaN for a commit": (facts(commit=float("nan")), "NaN is not a number of JSON"),
    "infinity somewhere": (facts(of_somebody=[{"a": float("inf")}]), "Infinity is not a number of JSON"),
    "1e400 somewhere": (facts(lambda m: json.dumps(m)[:-1] + ', "x": 1e400}'), "not JSON"),
    "a number of 5,000 digits": (
        facts(lambda m: json.dumps(m)[:-1] + ', "x": 1' + "0" * 5000 + "}"),
        "digits",
    ),
    "half a surrogate pair in the tokens": (facts(tokens=["\ud800", *"bcde"]), "half a surrogate pair"),
    "half a surrogate pair in the prompt": (facts(prompt="a\udfff"), "half a surrogate pair"),
    "half a surrogate pair in an unknown name": (facts(**{"\ud800": 1}), "half a surrogate pair"),
    "half a surrogate pair deep inside": (facts(x=[{"y": ["\udc80"]}]), "half a surrogate pair"),
    "a key twice": (facts(lambda m: '{"dtype": "float32", ' + json.dumps(m)[1:]), "'dtype' appears twice"),
    "schema of a megabyte": (facts(schema="x" * 10**6), "schema", "gpt2np.trace/1"),
    "a name of 5000 characters": (renamed("wte", "x" * 5000), "'xxx", "site"),
    "tokens too few": (facts(tokens=["a"]), "tokens", "5"),
    "positions too few": (facts(positions=[0, 3, None]), "wte", "(5, 8)", "(3, 8)"),
    "positions backwards": (facts(positions=[None, None, -1]), "positions", "-1"),
    "positions of text": (facts(positions=["a", None, None]), "positions"),
    "positions a number": (facts(positions=5), "positions"),
    "positions of four": (facts(positions=[1, 2, 3, 4]), "positions"),
    "another dtype": (facts(dtype="float64"), "wte", "float32", "float64"),
    "dtype of no kind": (facts(dtype="int8"), "dtype", "'int8'"),
    "stored_dtype of no kind": (facts(stored_dtype="int8"), "stored_dtype", "'int8'"),
    "stored_dtype another": (facts(stored_dtype="float16"), "wte", "float32", "float16"),
    "stop_at_layer past the end": (facts(stop_at_layer=3), "stop_at_layer", "3"),
    "stop_at_layer before what is there": (facts(stop_at_layer=1), "'h.1.ln_1'"),
    "no config": (facts(config=ABSENT), "config"),
    "config of another kind": (of_config(model_type="llama"), "config", "model_type", "'llama'"),
    "config of no layers": (of_config(n_layer=0), "config", "n_layer"),
    "config of endless layers": (of_config(n_layer=2**31), "config", "n_layer"),
    "config of one layer": (of_config(n_layer=1), "'h.1.ln_1'", "no", "site"),
    "config of more heads": (of_config(n_head=4), "h.0.attn.scores", "(2, 5, 5)", "(4, 5, 5)"),
    "config of another vocabulary": (of_config(vocab_size=301), "logits", "(5, 300)", "(5, 301)"),
    "a name of no site": (renamed("wte", "wtf"), "'wtf'", "site"),
    "a name of two lines": (renamed("wte", "w\nte"), r"'w\nte'", "site"),
    "a shape transposed": (entries(lambda h: h["wte"].update(shape=[8, 5])), "wte", "(8, 5)", "(5, 8)"),
    "numbers of another type": (entries(lambda h: h["wte"].update(dtype="I32")), "wte", "int32", "float32"),
    "offsets that overlap": (entries(lambda h: h["wpe"].update(h["wte"])), "'wpe'", "data_offsets"),
}


@pytest.mark.parametrize(("edit", "parts"), [(edit, parts) for edit, *parts in LYING.values()], ids=LYING)
def test_a_broken_trace_is_refused(tmp_path, saved, model, edit, parts):
    path = tmp_path / "t.safetensors"
    path.write_bytes(edit(saved))
    for with_model in (None, model):
        with pytest.raises(Gpt2npError) as caught:
            gpt2np.Trace.open(path, model=with_model)
        message_of(caught.value, TraceError, str(path), *parts)


def test_no_trace_at_all(tmp_path, model, saved):
    for path, part in ((tmp_path / "none", "no such file"), (tmp_path, "folder")):
        with pytest.raises(TraceError) as caught:
            gpt2np.Trace.open(path)
        message_of(caught.value, TraceError, str(path), part)
    path = tmp_path / "t.safetensors"
    path.write_bytes(of_config(activation_function="relu")(saved))
    with pytest.raises(TraceError) as caught:
        gpt2np.Trace.open(path, model=model)
    message_of(caught.value, TraceError, str(path), "another model")
    path.unlink()
    path.write_bytes(entries(lambda h: {**h, "wte": h["wpe"], "wpe": h["wte"]})(saved))
    with pytest.raises(VerificationError, match="wte = lookup"):
        gpt2np.Trace.open(path, model=model).verify()


def test_a_damaged_trace_is_refused_or_readable(tmp_path, saved, model):
    path = tmp_path / "t.safetensors"

    @several
    @example(0.0, False)
    @given(damage, st.booleans())
    def check(how, with_model):
        put(path.name, damaged(saved, how))(tmp_path)
        try:
            trace = gpt2np.Trace.open(path, model=model if with_model else None)
            assert trace.names() == list(trace.dims)
            assert str(len(trace.tokens)) in repr(trace)
            for name in ("loss", "top_k_tokens", "h.1.resid_pre", "h.1.attn.q", "h.0.ln_1.rstd", "ln_f.mean"):
                assert name not in trace or trace[name].ndim
            trace.verify()
        except VerificationError as error:
            message_of(error, VerificationError, "does not hold")
        except TraceError as error:
            message_of(error, TraceError, str(path))

    check()
