"""Which sites a name or a pattern of any dialect means, in `keep=` and plans, and what near misses say."""

import json

import numpy as np
import pytest
from support.command_line import run

import gpt2np
from gpt2np.errors import Gpt2npError, UnknownSiteError, nearest
from gpt2np.tracing.site_patterns import sites_named


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
    "attention": "the nearest is 'attentions'",
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
        assert err.splitlines()[-1] == f"gpt2np: --{message}"
        assert "trace[" not in err  # spelled as on a command line


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
