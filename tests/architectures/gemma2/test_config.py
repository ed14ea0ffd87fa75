"""Every key of a Gemma-2's config.json: taken, refused by name, or harmless; held against HF's own config."""

import json

import pytest
from support import gemma2_checkpoint, needs

import gpt2np
from gpt2np.architectures.gemma2.config import FULL, RELEASED, SLIDING
from gpt2np.errors import ConfigError
from gpt2np.tracing.contract import parse_config, released

# The keys of the released config.json of 2b-it: Google's, both spellings of the activation among them.
OF_2B_IT = {
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
    "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2",
    "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
    "sliding_window_size": 4096, "torch_dtype": "bfloat16", "transformers_version": "4.42.4",
    "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
OF_9B = {
    "hidden_size": 3584, "intermediate_size": 14336, "num_attention_heads": 16, "num_hidden_layers": 42,
    "num_key_value_heads": 8,
}  # fmt: skip
OF_27B = {
    "hidden_size": 4608, "intermediate_size": 36864, "num_attention_heads": 32, "num_hidden_layers": 46,
    "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 144,
}  # fmt: skip
SMALL = gemma2_checkpoint.config_of().to_dict()


def parsed(changes=None, without=()):
    values = {key: value for key, value in (SMALL | (changes or {})).items() if key not in without}
    return parse_config(values, "config.json")


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [("2b-it", {}, 2_614_341_888), ("9b-it", OF_9B, 9_241_705_984), ("27b-it", OF_27B, 27_227_128_320)],
)
def test_the_released_configs_have_no_notes(name, changes, count):
    config, notes = parse_config(OF_2B_IT | changes, "config.json")
    assert notes == []
    assert config == RELEASED[f"google/gemma-2-{name}"] == released(f"Google/Gemma-2-{name}")
    assert config.n_parameters == count
    assert [config.window(i) for i in range(4)] == [4096, None, 4096, None]
    assert gpt2np.read_config(config.to_dict()) == config


TAKEN = [
    ("layer_types", [FULL, SLIDING], lambda c: (c.window(0), c.window(1)) == (None, 5)),
    ("layer_types", None, lambda c: (c.window(0), c.window(1)) == (5, None)),
    ("attn_logit_softcapping", None, lambda c: c.attn_logit_softcapping is None),
    ("final_logit_softcapping", None, lambda c: c.final_logit_softcapping is None),
    ("query_pre_attn_scalar", 144, lambda c: c.attention_scale(0) == 1 / 12),
    ("head_dim", 10, lambda c: (c.d_head, c.n_embd) == (10, 16)),
    ("num_key_value_heads", 1, lambda c: c.n_kv_head == c.dims["kv_head"] == 1),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 100.0}, lambda c: c.rope_theta == 100.0),
    ("rope_scaling", None, lambda c: True),
    ("rms_norm_eps", 1e-3, lambda c: c.norm_epsilon == 1e-3),
    ("hidden_activation", "silu", lambda c: c.activation_function == "silu"),
    ("eos_token_id", [1, 107], lambda c: c.eos_ids == (1, 107)),
    ("use_bidirectional_attention", False, lambda c: True),
]


@pytest.mark.parametrize(("key", "value", "holds"), TAKEN, ids=lambda x: str(x) if not callable(x) else "")
def test_keys_that_are_taken(key, value, holds):
    config, notes = parsed({key: value})
    assert notes == []
    assert holds(config)
    assert parse_config(json.loads(json.dumps(config.to_dict())), "c") == (config, [])


def test_either_spelling_of_theta():
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    assert parsed(new, without=["rope_theta"])[0].rope_theta == 7.0
    assert parsed(without=["rope_theta"])[0].rope_theta == 10000.0
    assert parsed({"rope_theta": 7.0})[0].rope_theta == 7.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_key_value_heads", 3, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("head_dim", 7, "head_dim must be even"),
        ("attn_logit_softcapping", 0, "attn_logit_softcapping must be a number above 0 or null, not 0"),
        ("final_logit_softcapping", -1.0, "final_logit_softcapping must be"),
        ("final_logit_softcapping", float("nan"), "final_logit_softcapping must be"),
        ("query_pre_attn_scalar", 0, "query_pre_attn_scalar must be"),
        ("sliding_window", None, "sliding_window is null, and layer 0 is a sliding_attention layer"),
        ("sliding_window", 0, "sliding_window must be a whole number of at least 1"),
        ("layer_types", [SLIDING], "layer_types names 1 layers, and num_hidden_layers is 2"),
        ("layer_types", ["chunked_attention", FULL], "layer_types holds 'chunked_attention'"),
        ("layer_types", "full_attention", "layer_types must be a list"),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0}, "rope_parameters has 'rope_type'"),
        ("rope_parameters", {"rope_theta": 5.0}, "rope_theta says 100.0 and rope_parameters says 5.0"),
        ("rope_parameters", 3, "rope_parameters must be like"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_scaling is .* not supported"),
        ("attention_bias", True, "attention_bias is True"),
        ("use_bidirectional_attention", True, "use_bidirectional_attention is True"),
        ("hidden_activation", "quick_gelu", "hidden_activation 'quick_gelu' is not supported"),
        ("num_hidden_layers", 10**6, "num_hidden_layers must be at most 10000"),
        ("rope_theta", -1, "rope_theta must be"),
    ],
)
def test_keys_that_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parsed({key: value})
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


def test_the_activation_that_hf_does_not_read_is_noted():
    config, notes = parsed({"hidden_act": "gelu"})
    assert config == parsed()[0]
    named = config.hidden_activation
    assert notes == [f"config.json: hidden_act 'gelu' is ignored, as HF does: hidden_activation is {named}"]


@pytest.mark.needs("transformers")
def test_hf_reads_what_we_write_and_takes_the_same():
    needs.imported("torch")
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = gemma2_checkpoint.config_of("FSS", tie_word_embeddings=False)
    theirs = Gemma2Config(**config.to_dict())
    assert theirs.rope_parameters["rope_theta"] == 100.0
    model = Gemma2ForCausalLM(theirs)
    shapes = {name.removeprefix("model."): tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes.pop("lm_head.weight") == (300, 16)
    assert shapes == config.architecture.shapes(config)
    assert parse_config(json.loads(theirs.to_json_string()), "theirs") == (config, [])
