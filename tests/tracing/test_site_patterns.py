"""Which sites a name or a pattern of any dialect means, in `keep=` and plans, and what near misses say."""

import json
import re

import numpy as np
import pytest
from support.command_line import run

import gpt2np
from gpt2np.analysis.site_values import site_values
from gpt2np.errors import Gpt2npError, UnknownSiteError, nearest
from gpt2np.tracing.site_patterns import sites_named

NOT_SITES = {
    "ln_f.weight": "is a weight, no site",
    "h.0.attn.c_attn.bias": "is a weight, no site",
    "blocks.0.attn.W_Q": "is a weight, no site",
    "scale": "take h.0.ln_1.rstd; the learned scale of a norm",
    "ln_final.hook_scale": "take ln_f.rstd",
    "blocks.1.ln2.hook_scale": "take h.1.ln_2.rstd",
    "attention": "'attn.pattern'",
    "h.2.attention": "'h.2.attn.pattern'",
    "residual": "'resid_post'",
    "embedding": "'embed'",
    "patern": "'pattern'",
    "h.1.atn.z": "'h.1.attn.z'",
}


@pytest.mark.parametrize("name", NOT_SITES)
def test_what_is_no_site_is_told_with_ours(capsys, tiny, name):
    with pytest.raises(UnknownSiteError) as caught:
        tiny.trace([1])[name]
    assert NOT_SITES[name] in str(caught.value)
    code, _, err = run(capsys, "trace", "a", "--show", name)
    assert code == 2
    assert NOT_SITES[name] in err
    assert "trace." not in err
    assert "model." not in err


@pytest.mark.parametrize("key", [0, ("a", 0, 0), ("scale", 1, "ln1"), ("pattern", "x"), None])
def test_what_cannot_be_a_site_is_shown_as_it_was_given(tiny, key):
    for call in (lambda: tiny.trace([1])[key], lambda: tiny([1], edits={key: lambda x: x})):
        with pytest.raises(UnknownSiteError, match=re.escape(f"not {key!r}") + "$"):
            call()


def test_a_pair_is_a_name_wherever_one_is_taken(tiny):
    trace = tiny.trace([1, 2])
    named = site_values(trace, ("pattern", -1), head=0)
    np.testing.assert_array_equal(named.array, trace["h.3.attn.pattern"][0])
    off = lambda x: 0 * x  # noqa: E731
    np.testing.assert_array_equal(
        tiny([1, 2], edits={("attn.z", 1): off}), tiny([1, 2], edits={"h.1.attn.z": off})
    )


def layers(name):
    return [f"h.{i}.{name}" for i in range(4)]


STATES = ["embed", *layers("resid_post"), "ln_f"]
CACHE = [f"h.{i}.attn.{x}" for i in range(4) for x in "kv"]

# The extraction guide's summary table and hooks first, then the other dialects, then our own.
NAMES = {
    "token_embeddings": ["wte"],
    "position_embeddings": ["wpe"],
    "combined_embeddings": ["embed"],
    "ln_1_output": layers("ln_1"),
    "Q": layers("attn.q"),
    "K": layers("attn.k"),
    "V": layers("attn.v"),
    "raw_attention_scores": layers("attn.scores"),
    "attention_weights": layers("attn.pattern"),
    "attention_output": layers("attn.out"),
    "weighted_values": layers("attn.z"),
    "ln_2_output": layers("ln_2"),
    "mlp_hidden": layers("mlp.pre"),
    "mlp_activated": layers("mlp.post"),
    "mlp_output": layers("mlp.out"),
    "hidden_state": layers("resid_post"),
    "final_ln": ["ln_f"],
    "final_layer_norm": ["ln_f"],
    "logits": ["logits"],
    "probabilities": ["probabilities"],
    "top_k_tokens": ["top_k_tokens"],
    "hidden_states": STATES,
    "hidden_states[0]": ["embed"],
    "hidden_states[3]": ["h.2.resid_post"],
    "hidden_states[4]": ["h.3.resid_post", "ln_f"],  # of the guide, and of HF
    "layer_3_Q": ["h.3.attn.q"],
    "layer_0_mlp_hidden": ["h.0.mlp.pre"],
    "layer_*_Q": layers("attn.q"),
    "layer_?_mlp_hidden": layers("mlp.pre"),
    "attentions": layers("attn.pattern"),
    "attentions[2]": ["h.2.attn.pattern"],
    "past_key_values": CACHE,
    "past_key_values[1]": ["h.1.attn.k", "h.1.attn.v"],
    "past_key_values[1][0]": ["h.1.attn.k"],
    "transformer.h.2.mlp": ["h.2.mlp.out"],
    "blocks.2.attn.hook_pattern": ["h.2.attn.pattern"],
    "blocks.*.attn.hook_q": layers("attn.q"),
    "hook_embed": ["wte"],
    "preatt": layers("attn.scores"),
    "att": layers("attn.pattern"),
    "mlpHidden": layers("mlp.pre"),
    "attn.pattern": layers("attn.pattern"),
    "h.1.attn.q": ["h.1.attn.q"],
    "h.*.attn.heads": layers("attn.heads"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=NAMES)
def test_names_of_every_dialect_in_keep_and_in_a_plan(tiny, name, expected):
    assert [full for full, _, _ in sites_named(tiny.config, name)] == expected
    trace = tiny.trace("Elizabeth was", keep=name)
    assert trace.names() == expected
    whole = tiny.trace("Elizabeth was")
    for full in expected:
        assert np.array_equal(trace[full], whole[full])
    assert tiny.plan(3, keep=name).nbytes == trace.nbytes
    both = tiny.trace("Elizabeth was", keep=[name, "ln_1"])
    assert set(both.names()) == {*expected, *layers("ln_1")}


def test_patterns_leave_out_what_is_derived_unless_they_end_in_its_name(tiny):
    names = [full for full, _, _ in sites_named(tiny.config, "layer_2_*")]
    assert "h.2.attn.q" not in names
    assert {"h.2.attn.qkv", "h.2.mlp.pre", "h.2.resid_post"} <= set(names)
    assert all(name.startswith("h.2.") for name in names)


def test_what_is_kept_by_a_name_is_found_by_it(tiny):
    names = ["Q", "attention_weights", "hidden_states", "logits"]
    trace = tiny.trace("Elizabeth was", keep=names)
    assert {*names} <= {*trace.to("guide")}
    assert {"hidden_states", "attentions", "logits"} <= {*trace.to("hf")}
    done = tiny.generate("Elizabeth was", max_new_tokens=3, keep=names).finish()
    assert done.trace["Q", 1].shape == (5, 4, 48)
    assert len(done.hidden_states[0]) == 5


MISSES = {
    "patern": "the nearest is 'pattern'",
    "layer_3_q": "the nearest is 'layer_3_Q'",
    "Attention_Weights": "the nearest is 'attention_weights'",
    "atention_weights": "the nearest is 'attention_weights'",
    "hiden_state": "the nearest is 'hidden_state'",
    "raw_attention_score": "the nearest is 'raw_attention_scores'",
    "attention": "the nearest is 'attn.pattern'",
    "mlp_hiden": "the nearest is 'mlp_hidden'",
    "layer_4_Q": "layer 4 is not one of 0 to 3",
    "blocks.9.hook_resid_mid": "layer 9 is not one of 0 to 3",
    "attentions[12]": "layer 12 is not one of 0 to 3",
    "h.99999999999999.ln_1": "layer 99999999999999 is not one of 0 to 3",
    "Q,K": "several are a list",
    "*.q": "have to be named: attn.q",
    "token_ids": "trace.token_ids",
    "attention_mask": "trace.attention_mask",
    "position_id": "the nearest is trace.position_ids",
    "layer_*_nothing": "see gpt2np sites",
    "\x1b[31m": "no site",
    "": "`gpt2np sites`",
    "x" * 100_000: "`gpt2np sites`",
}


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "said"), MISSES.items(), ids=lambda text: repr(text)[:30])
def test_near_misses(tiny, capsys, name, said):
    with pytest.raises(UnknownSiteError) as caught:
        tiny.trace("Elizabeth was", keep=name)
    message = str(caught.value)
    assert said in message
    assert message.startswith("keep: ")
    assert len(message) < 300
    assert "\n" not in message
    for argv in (["plan", "9", "--keep", name], ["trace", "Elizabeth was", "--keep", name]):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (2, "")
        assert "trace[" not in err  # spelled as on a command line
        assert "trace." not in err
        if "trace." not in message:
            assert err.splitlines()[-1] == f"gpt2np: --{message}"


IN_A_DIALECT = [
    ("guide", "q", "the nearest is 'Q'"),
    ("guide", "atention_weights", "the nearest is 'attention_weights'"),
    ("guide", "layer_9_Q", "layer 9 is not one of 0 to 3"),
    ("guide", "Hidden_States", "the nearest is 'hidden_states'"),
    ("guide", "token_id", "the nearest is 'token_ids'"),
    ("hf", "attention", "the nearest is 'attentions'"),
    ("hf", "past_key_value", "the nearest is 'past_key_values'"),
    ("transformer_lens", "blocks.1.attn.hook_pattrn", "the nearest is 'blocks.1.attn.hook_pattern'"),
    ("llm.c", "zzz", "it has encoded"),
]


@pytest.mark.parametrize(("dialect", "name", "said"), IN_A_DIALECT)
def test_near_misses_in_a_dialect(tiny, dialect, name, said):
    names = tiny.trace("Elizabeth was").to(dialect)
    with pytest.raises(UnknownSiteError, match="has no") as caught:
        names[name]
    assert said in str(caught.value)
    with pytest.raises(AttributeError) as caught:
        getattr(names, name)
    assert said in str(caught.value)
    assert not hasattr(names, name)


def test_what_comes_of_the_tokens_alone(tiny):
    trace = tiny.trace("Elizabeth was", keep="logits")
    assert np.array_equal(trace.attention_mask, [1, 1, 1])
    assert np.array_equal(trace.position_ids, [0, 1, 2])
    assert trace.attention_mask.dtype == trace.position_ids.dtype == np.int64
    for name in ("token_ids", "tokens", "attention_mask", "position_ids"):
        with pytest.raises(UnknownSiteError, match=f"trace.{name}"):
            trace[name]
        with pytest.raises(UnknownSiteError, match=f"trace.{name}"):
            trace[name, 0]
    with pytest.raises(gpt2np.Gpt2npError, match="k=0"):
        trace.top_k_tokens(0)
    with pytest.raises(Gpt2npError, match="logits"):
        tiny.trace("Elizabeth was", keep="ln_1").top_k_tokens()


def test_the_nearest_name():
    assert nearest("a", ["A", "b"]) == "A"
    assert nearest("zzz", ["A", "b"]) is None
    assert nearest("layer_1_K", ["layer_1_Q", "layer_1_K"]) == "layer_1_K"


def test_plans_on_the_command_line(capsys, tiny):
    code, out, _ = run(capsys, "plan", "9", "--keep", "Q", "--keep", "hidden_states", "--json")
    assert code == 0
    (plan,) = json.loads(out)["plans"]
    assert plan["bytes"] == tiny.plan(9, keep=["attn.q", "embed", "resid_post", "ln_f"]).nbytes
