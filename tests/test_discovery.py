"""Names are found without reading source: dir, help, Tab in IPython, mappings, short names, nearest names."""

import contextlib
import io
import pydoc
import subprocess
import sys

import numpy as np
import pytest
from support.needs import imported

import gpt2np
from gpt2np.errors import CheckpointError, Gpt2npError, UnknownSiteError
from gpt2np.tracing.keep import Keep

PROMPT = "Elizabeth was"


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(PROMPT)


# -- the package ----------------------------------------------------------------------------------


def test_dir_has_what_is_for_users_and_no_internals():
    names = {name for name in dir(gpt2np) if not name.startswith("__")}
    assert names == {*gpt2np.__all__, "analysis", "lessons"}
    assert {"view", "compare", "load", "Trace"} <= names


def test_every_name_of_dir_is_there_and_others_are_not():
    for name in dir(gpt2np):
        assert getattr(gpt2np, name) is not None
    for module in dir(gpt2np.analysis):
        assert getattr(gpt2np.analysis, module).__name__ == f"gpt2np.analysis.{module}"
    for name in dir(gpt2np.lessons):
        assert getattr(gpt2np.lessons, name) is not None
    for name in ("lod", "Any", "TYPE_CHECKIN"):
        with pytest.raises(AttributeError, match=name):
            getattr(gpt2np, name)
    with pytest.raises(AttributeError, match="lense"):
        getattr(gpt2np.analysis, "lense")  # noqa: B009


def test_analysis_is_imported_when_it_is_used():
    code = """
import sys, gpt2np
gpt2np.analysis.lens.logit_lens
print("gpt2np.analysis.patching" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_help_begins_with_an_example_that_runs(tiny, trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.trace(PROMPT).save("dump.safetensors")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        pydoc.Helper(output=shown)(gpt2np)
    text = shown.getvalue()
    lines = [line.strip() for line in text.splitlines()]
    assert lines.index(">>> import gpt2np") < 8
    for name in ("view(", "compare(", "load("):
        assert f"    {name}" in text
    assert "__getattr__" not in text
    code = [line.strip()[4:] for line in gpt2np.__doc__.splitlines() if line.startswith(">>>")]
    assert 8 <= len(code) <= 15
    exec("\n".join(code).replace("dump.npz", "dump.safetensors"), {})


# -- Tab ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def completed(tiny, trace):
    """What IPython offers for a line, with these names known."""
    interactiveshell = imported("IPython").core.interactiveshell
    shell = interactiveshell.InteractiveShell.instance()
    done = tiny.generate(PROMPT, max_new_tokens=2, keep="*").finish()
    names = {"trace": trace, "model": tiny, "weights": tiny.weights, "gpt2np": gpt2np, "step": done.steps[1]}
    names |= {"hf": trace.to("hf"), "part": tiny.trace(PROMPT, keep=["attn.qkv", "wte"])}
    shell.push(names)
    shell.Completer.use_jedi = False
    completer = imported("IPython").core.completer

    def offered(line):
        with completer.provisionalcompleter():
            return [found.text for found in shell.Completer.completions(line, len(line))]

    return offered


@pytest.mark.needs("IPython")
@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ('trace["h.2.', "h.2.attn.pattern", "h.1.attn.pattern"),
        ('trace["h.2.attn.', "h.2.attn.q", "h.2.mlp.pre"),
        ('trace["blocks.0.attn.hook_p', "blocks.0.attn.hook_pattern", "hook_q"),
        ('trace["layer_1_', "layer_1_Q", "Q, 1"),
        ('trace["lo', "logits", "wte"),
        ('part["h.3.attn.', "h.3.attn.k", "h.3.attn.z"),
        ('weights["h.0.attn.', "h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"),
        ('step["h.1.ml', "h.1.mlp.post", "h.1.attn.z"),
        ('hf["att', "attentions", "logits"),
        ("gpt2np.vi", ".view", ".viewer"),
        ("gpt2np.an", ".analysis", ".architectures"),
        ("gpt2np.analysis.le", ".lens", ".heads"),
        ("trace.ke", ".keys", ".names"),
        ("model.ge", ".generate", ".trace"),
    ],
)
def test_ipython_completes(completed, line, offered, not_offered):
    found = completed(line)
    assert any(name.endswith(offered) for name in found), found
    assert not any(name.endswith(not_offered) for name in found), found


def test_every_key_that_is_offered_is_there(tiny, trace):
    for some in (trace, tiny.trace(PROMPT, keep=["attn.qkv", "ln_1", "embed"]), tiny.trace([1], keep="wte")):
        keys = some._ipython_key_completions_()
        assert set(some.names()) <= set(keys)
        for key in keys:
            assert isinstance(key, str)
            assert key in some, key


# -- a trace as a mapping -------------------------------------------------------------------------


def test_a_trace_lists_what_it_stores(trace):
    assert list(trace) == list(trace.keys()) == trace.names()
    assert len(trace) == len(trace.names()) == 53
    assert {name: array.shape for name, array in trace.items()} == {name: trace[name].shape for name in trace}
    assert sum(array.nbytes for array in trace.values()) == trace.nbytes
    assert dict(trace).keys() == trace.keys()
    assert "h.0.attn.q" in trace  # derived
    assert "h.0.attn.q" not in list(trace)
    assert not any(array.flags.writeable for array in trace.values())


def test_a_trace_of_nothing_is_still_true(tiny):
    trace = tiny.trace(PROMPT, keep=Keep(names=frozenset()))
    assert len(trace) == 0
    assert trace


# -- names ----------------------------------------------------------------------------------------

SHORT = {
    "pattern": "h.{}.attn.pattern",
    "attn_scores": "h.{}.attn.scores",
    "scores": "h.{}.attn.scores",
    "q": "h.{}.attn.q",
    "k": "h.{}.attn.k",
    "v": "h.{}.attn.v",
    "z": "h.{}.attn.z",
    "attn_out": "h.{}.attn.out",
    "mlp_out": "h.{}.mlp.out",
    "pre": "h.{}.mlp.pre",
    "mlp_pre": "h.{}.mlp.pre",
    "attn_logits": "h.{}.attn.scores",
    "query": "h.{}.attn.q",
    "post": "h.{}.mlp.post",
    "resid_pre": "h.{}.resid_pre",
    "resid_mid": "h.{}.resid_mid",
    "resid_post": "h.{}.resid_post",
    "blocks.{}.hook_resid_post": "h.{}.resid_post",
    "blocks.{}.attn.hook_pattern": "h.{}.attn.pattern",
    "layer_{}_Q": "h.{}.attn.q",
    "attentions[{}]": "h.{}.attn.pattern",
    "transformer.h.{}.ln_1": "h.{}.ln_1",
    "h.{}.mlp": "h.{}.mlp.out",
}


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("layer", [0, 3, -1, -4])
def test_short_names_and_layers_from_the_end(trace, name, layer):
    expected = trace[SHORT[name].format(layer % 4)]
    found = trace[name.format(layer)] if "{}" in name else trace[name, layer]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in SHORT if SHORT[name].count(".attn.q") == 0])
def test_they_work_wherever_a_site_is_named(tiny, name):
    keep = name.format(-1)
    kept = tiny.trace(PROMPT, keep=keep).names()
    full = [SHORT[name].format(layer) for layer in ([3] if "{}" in name else range(4))]
    assert kept == full
    edited = tiny.trace(PROMPT, edits={keep: lambda x: x}) if "resid_pre" not in name else None
    assert edited is None or edited.metadata["edits"] == full


def test_patterns_count_layers_from_the_end(tiny):
    assert tiny.trace(PROMPT, keep="h.-1.attn.*").names() == tiny.trace(PROMPT, keep="h.3.attn.*").names()
    assert tiny.trace(PROMPT, keep=["h.-2.mlp.pre", "wte"]).names() == ["wte", "h.2.mlp.pre"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("pattern", -5), "layer -5 is not one of 0 to 3"),
        (("pattern", 4), "layer 4 is not one of 0 to 3"),
        ("blocks.-5.hook_resid_post", "not one of 0 to 3"),
        ("h.-9.attn.pattern", "not one of 0 to 3"),
        (("patern", 0), "the nearest is 'pattern'"),
        ("pattern", "say which"),
        (("normalized", 0), "no site is called"),  # of which norm?
        (("out", 0), "no site is called"),  # of attention or of the MLP?
        (0, "a site is a name"),
        (None, "a site is a name"),
    ],
)
def test_what_is_no_name_is_explained(trace, key, said):
    with pytest.raises(UnknownSiteError) as caught:
        trace[key]
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h.2.attn.c_prj.bias", "the nearest is 'h.2.attn.c_proj.bias'"),
        ("wte", "the nearest is 'wte.weight'"),
        ("xyz", "model.weights.keys() has the names"),
        (3, "no weight is called 3"),
    ],
)
def test_a_wrong_name_of_a_weight_says_the_nearest(tiny, name, said):
    with pytest.raises(KeyError) as caught:
        tiny.weights[name]
    assert isinstance(caught.value, Gpt2npError)
    assert isinstance(caught.value, CheckpointError)
    assert said in str(caught.value)
    assert name not in tiny.weights
    assert tiny.weights.get(name) is None
