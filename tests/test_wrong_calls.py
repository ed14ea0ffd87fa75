"""Wrong calls and commands: each ends in an error of ours, and leaves nothing behind."""

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import tiny_checkpoint as tiny
from support.breaking import assert_refused, config, message_of, tensors

import gpt2np
import gpt2np.analysis
from gpt2np.analysis.interventions import patch, zero
from gpt2np.analysis.patching import logit_difference, sweep
from gpt2np.cli import main
from gpt2np.errors import (
    CheckpointError,
    Gpt2npError,
    InputError,
    TokenizerError,
    TraceError,
    UnknownSiteError,
)
from gpt2np.export.dialects import write_dialect
from gpt2np.tracing.trace import Trace

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny.write(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "model")


CALLS = {
    "empty text": (lambda m: m.trace(""), InputError, "empty"),
    "empty list": (lambda m: m.trace([]), InputError, "empty"),
    "logits of an empty list": (lambda m: m([]), InputError, "empty"),
    "an empty text among others": (lambda m: m.trace(["a", ""]), InputError, "empty"),
    "an empty list among others": (lambda m: m.trace([[1], []]), InputError, "empty"),
    "texts and ids": (lambda m: m.trace(["a", 1]), InputError, "texts or lists"),
    "a number": (lambda m: m.trace(5), InputError, "not 5"),
    "logits of a number": (lambda m: m(5), InputError, "not 5"),
    "logits of None": (lambda m: m(None), InputError, "not None"),
    "bytes": (lambda m: m.trace(b"abc"), InputError, "bytes", "decode"),
    "a plan of a float": (lambda m: m.plan(1.5), InputError, "1.5"),
    "an id out of range": (lambda m: m([1, 300]), InputError, "300", "0 to 299"),
    "an id of 22 digits": (lambda m: m([2**70]), InputError, str(2**70), "0 to 299"),
    "an id below zero": (lambda m: m([-1]), InputError, "-1", "0 to 299"),
    "an id of a float": (lambda m: m([1.0]), InputError, "1.0"),
    "an array of floats": (lambda m: m(np.ones(3)), InputError, "1.0"),
    "an id of a boolean": (lambda m: m([True]), InputError, "True"),
    "ids of two dimensions": (lambda m: m(np.ones((2, 3), int)), InputError, "flat list"),
    "too many ids": (lambda m: m([1] * 17), InputError, "17", "16"),
    "too long a text": (lambda m: m.trace("the" * 40), InputError, "40", "16"),
    "half a surrogate pair": (lambda m: m("a\ud800"), TokenizerError, "character 1", "ud800"),
    "unknown site to keep": (lambda m: m.trace("a", keep="attn.patern"), UnknownSiteError, "'attn.pattern'"),
    "a layer too many to keep": (lambda m: m.trace("a", keep="h.2.ln_1"), UnknownSiteError, "layer 2"),
    "a keep that matches nothing": (lambda m: m.trace("a", keep=["wte", "zz*"]), UnknownSiteError, "zz"),
    "an empty keep": (lambda m: m.trace("a", keep=[]), InputError, "keep", "[]"),
    "keep of a number": (lambda m: m.trace("a", keep=5), InputError, "keep", "5"),
    "keep of another key": (lambda m: m.trace("a", keep={"pos": 1}), InputError, "keep", "'pos'"),
    "keep of one position": (lambda m: m.trace("a", keep={"positions": 1}), InputError, "positions", "slice"),
    "keep backwards": (
        lambda m: m.trace("a", keep={"positions": slice(None, None, -1)}), InputError, "positions", "-1",
    ),
    "keep of texts": (lambda m: m.trace("a", keep={"positions": slice("a", None)}), InputError, "'a'"),
    "keep of mixed keys": (lambda m: m.trace("a", keep={1: 2, "a": 3}), InputError, "keep", "not 1"),
    "keep a layer of 5000 digits": (lambda m: m.trace("a", keep=f"h.{10**4000}.ln_1"), UnknownSiteError, "1"),
    "keep of another dtype": (lambda m: m.trace("a", keep={"dtype": "int8"}), InputError, "dtype", "'int8'"),
    "stop past the end": (lambda m: m.trace("a", stop_at_layer=3), InputError, "stop_at_layer", "0 to 2"),
    "stop before the start": (lambda m: m.trace("a", stop_at_layer=-1), InputError, "stop_at_layer", "-1"),
    "stop in between": (lambda m: m.trace("a", stop_at_layer=1.5), InputError, "stop_at_layer", "1.5"),
    "a predicate of other names": (
        lambda m: m.trace("a", keep=lambda n: "hook_" in n), UnknownSiteError, "'h.1.", "no site",
    ),
    "a misspelt option": (lambda m: m.generate("a", max_tokens=3), InputError, "is 'max_new_tokens'"),
    "a misspelt seed": (lambda m: m.generate("a", sed=3), InputError, "nearest is 'seed'"),
    "an unknown option": (
        lambda m: m.generate("a", zzzz=3), InputError, "max_new_tokens", "temperature", "ledger", "keep",
    ),
    "a metric of all logits": (
        lambda m: sweep("a", "the", lambda x: x[0, -1, 5], model=m), InputError, "[vocab]", "last position",
    ),
    "a metric of no token": (
        lambda m: sweep("a", "the", lambda logits: logits[300], model=m), InputError, "vocabulary of 300",
    ),
    "a layer not kept, beside one that is": (
        lambda m: m.trace("a", keep="h.1.resid_post")["h.0.resid_post"], TraceError, "are h.1.resid_post",
    ),
    "a stack of some layers": (
        lambda m: m.trace("a", keep="h.1.resid_post").stack("resid_post"), TraceError, "are h.1.resid_post",
    ),
    "a sweep of what no step reads": (
        lambda m: sweep("a", "the", logit_difference(1, 2), "blocks.*.hook_resid_pre", model=m), InputError,
        "resid_pre of layer i is resid_post of layer i - 1",
    ),
    "tokens by their texts": (lambda m: logit_difference(" a", 3), InputError, "find_id(' a')"),
    "an edit of no position": (lambda m: m.trace("a", edits={"mlp.out": zero(positions=9)}), InputError, "9"),
    "logits with an edit of no position": (
        lambda m: m("a", edits={"mlp.out": zero(positions=[0, 9])}), InputError, "no position 9",
    ),
    "a trace called otherwise": (lambda m: m.trace("a").save("s.npz"), TraceError, "s.npz", ".safetensors"),
    "an export called otherwise": (
        lambda m: write_dialect(m.trace("a"), "x.json", "npz"), InputError, "x.json", "npz",
    ),
    "a token that is several": (lambda m: m.find_id("thethe"), InputError, "several"),
    "a misspelt pattern": (lambda m: m.trace("a", keep="atn.*"), UnknownSiteError, "nearest is 'attn.*'"),
    "a misspelt pattern of layers": (
        lambda m: m.trace("a", keep="h.*.attn.patern"), UnknownSiteError, "'h.*.attn.pattern'",
    ),
    "a misspelt pattern of hooks": (
        lambda m: m.trace("a", keep="blocks.*.hook_resd_post"), UnknownSiteError, "'blocks.*.hook_resid",
    ),
    "a misspelt pattern to edit": (
        lambda m: m.trace("a", edits={"mpl.*": abs}), UnknownSiteError, "nearest is 'mlp.*'",
    ),
    "nothing among prompts": (lambda m: m.trace(["a", "the", None]), InputError, "number 3 is None"),
    "a long prompt among others": (lambda m: m.trace(["a", "the" * 40]), InputError, "prompt 2 of 2 has 40"),
    "unknown site": (lambda m: m.trace("a")["h.0.attn.patern"], UnknownSiteError, "'h.0.attn.pattern'"),
    "unknown layer": (lambda m: m.trace("a")["h.2.ln_1"], UnknownSiteError, "layer 2", "0 to 1"),
    "a layer of 5000 digits": (lambda m: m.trace("a")[f"h.{'9' * 5000}.ln_1"], UnknownSiteError, "'h.99"),
    "a site that is a number": (lambda m: m.trace("a")[5], UnknownSiteError, "not 5"),
    "a layer that is a text": (lambda m: m.trace("a")["ln_1", "x"], UnknownSiteError, "'x'"),
    "three names": (lambda m: m.trace("a")["a", "b", "c"], UnknownSiteError, "('a', 'b', 'c')"),
    "a stack of a stopped run": (lambda m: m.trace("a", stop_at_layer=0).stack("ln_1"), TraceError, "stop"),
    "a folder with a zero byte": (lambda m: m.trace(["a", "b"], out="a\0"), TraceError, "null byte"),
    "a site not kept": (lambda m: m.trace("a", keep="wte")["ln_f"], TraceError, "ln_f", "not kept"),
    "a stack of no layers": (lambda m: m.trace("a").stack("wte"), UnknownSiteError, "'wte'", "layer"),
    "no predictions": (lambda m: m.trace("a").top(0), InputError, "k", "0"),
    "a position too far": (lambda m: m.trace("a").top(pos=1), InputError, "pos=1"),
    "a plan of nothing": (lambda m: m.plan(0), InputError, "0 tokens", "16"),
    "a plan too long": (lambda m: m.plan(17), InputError, "17 tokens", "16"),
    "half precision": (lambda m: gpt2np.load(m.name, dtype="float16"), InputError, "float16", "float64"),
    "no such folder": (lambda m: gpt2np.load("./none"), CheckpointError, "./none", "no such folder"),
    "no name": (lambda m: gpt2np.load(""), CheckpointError, "no such folder"),
    "a name of 5000 characters": (lambda m: gpt2np.load("/" + "x" * 5000), CheckpointError, "no such folder"),
    "nobody's home": (lambda m: gpt2np.load("~nobody9/gpt2"), CheckpointError, "~nobody9/gpt2"),
    "a file for a folder": (lambda m: gpt2np.load(__file__), CheckpointError, __file__, "its folder"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "parts"), [(c, k, p) for c, k, *p in CALLS.values()], ids=CALLS)
def test_a_wrong_call_is_refused(model, call, kind, parts):
    with pytest.raises(Gpt2npError) as caught:
        call(model)
    message_of(caught.value, kind, *parts)


def analyses():
    """Every function of an analysis that begins with a trace or a model."""
    for module in gpt2np.analysis.__all__:
        for name, function in inspect.getmembers(getattr(gpt2np.analysis, module), inspect.isfunction):
            first = [str(p.annotation) for p in inspect.signature(function).parameters.values()][:1]
            if function.__module__ == f"gpt2np.analysis.{module}" and name[0] != "_" and first:
                kind = "trace" if first[0].endswith("Trace'>") or first[0] == "Trace" else "model"
                if kind == "trace" or first[0] in ("Model", "'Model'"):
                    yield pytest.param(function, kind, id=f"{module}.{name}")


OF_PARTS = ("positions_and_tokens", "interventions.freeze", "interventions.patch")  # no analyses themselves


@pytest.mark.parametrize(("function", "kind"), [a for a in analyses() if not a.id.startswith(OF_PARTS)])
def test_an_analysis_of_something_else_is_refused(model, function, kind):
    for subject in ("Elizabeth was", 3, None, model if kind == "trace" else model.trace("a")):
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        with pytest.raises(InputError, match=f"{function.__name__} takes a {kind}, as "):
            function(subject, *[1] * (len(needed) - 1))


def test_a_run_does_not_write_over_a_trace_that_its_edits_take(model, tmp_path):
    model.trace("a", out=tmp_path / "t.safetensors")
    clean = Trace.open(tmp_path / "t.safetensors")
    for edit in (patch(clean), patch(clean, positions=0)):
        with pytest.raises(InputError, match="is read by this very run"):
            model.trace("a", out=tmp_path / "t.safetensors", edits={"h.0.attn.z": edit})


COMMANDS = {
    "neither text nor ids": (["trace"], "TEXT"),
    "both": (["trace", "a", "--tokens", "1"], "TEXT"),
    "ids of text": (["trace", "--tokens", "1,x"], "'1,x'"),
    "an id out of range": (["trace", "--tokens", "300"], "300"),
    "empty text": (["trace", ""], "empty"),
    "too long": (["trace", "the" * 40], "40"),
    "unknown site": (["trace", "a", "--keep", "attn.patern"], "'attn.pattern'"),
    "out in a file": (["trace", "a", "--out", "/dev/null/t.safetensors"], "/dev/null/t.safetensors"),
    "a plan too long": (["plan", "17"], "17"),
    "ids of no token": (["tokenize", "--tokens", "300"], "300"),
}


@pytest.mark.parametrize(("command", "part"), COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_command_is_refused(folder, capsys, command, part):
    assert main([*command, "--model", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert part in err
    assert_refused(out, err, err.splitlines()[-1].removeprefix("gpt2np: "))


def test_a_vocabulary_larger_than_the_model(folder):
    config(vocab_size=256)(folder)
    tensors(wte__weight=lambda array: array[:256])(folder)
    model = gpt2np.load(folder)
    assert np.isfinite(model("a")).all()
    with pytest.raises(InputError, match="295 is not one of 0 to 255"):
        model("the a")


# Nothing is left behind


@pytest.mark.parametrize("prompt", ["the", ["the", "a"]])
def test_a_full_disk_leaves_nothing_behind(tmp_path, model, monkeypatch, prompt):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trace = model.trace("the")
    monkeypatch.setattr(os, "posix_fallocate", full)
    for write in (trace.save, lambda path: model.trace(prompt, out=path)):
        with pytest.raises(TraceError) as caught:
            write(tmp_path / "t.safetensors")
        message_of(caught.value, TraceError, "t.safetensors", "No space left on device")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_output_that_cannot_be_written(tmp_path, model):
    (tmp_path / "file").write_text("as it was")
    for out in (tmp_path / "none" / "t.safetensors", tmp_path, tmp_path / "file" / "t.safetensors"):
        with pytest.raises(TraceError) as caught:
            model.trace("the", out=out)
        message_of(caught.value, TraceError, str(out))
    with pytest.raises(TraceError, match="folder for several"):
        model.trace(["the", "a"], out=tmp_path / "file")
    with pytest.raises(InputError):
        model.trace("", out=tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "as it was"


def test_every_packed_prompt_must_be_finite(folder):
    def one_row_nan(array):
        array[7] = np.nan
        return array

    tensors(lm_head__weight=tiny.tensors(1)["transformer.wte.weight"], wte__weight=one_row_nan)(folder)
    model = gpt2np.load(folder)
    assert np.isfinite(model([1])).all()
    with pytest.raises(CheckpointError, match="not finite"):
        model.trace([[7], [1]])


def test_numbers_too_large_to_square_warn_nobody(folder, capsys):
    tensors(wte__weight=lambda array: array * np.float32(1e30))(folder)
    assert main(["trace", "a", "--model", str(folder)]) == 0
    assert capsys.readouterr().err == ""
    trace = gpt2np.load(folder).trace("a b")
    assert (trace["h.0.ln_1.rstd"] == 0).all()


def test_epsilon_0_and_equal_numbers_are_not_finite(folder):
    config(layer_norm_epsilon=0)(folder)
    tensors(wte__weight=lambda array: array * 0, wpe__weight=lambda array: array * 0)(folder)
    with pytest.raises(CheckpointError, match="not finite"):
        gpt2np.load(folder).trace("a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_results_that_a_full_disk_does_not_take():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gpt2np", "sites"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "gpt2np: cannot write the results: No space left on device\n"
