"""Every key of a GPT-Neo's config.json: taken, refused by name, or harmless; held against HF's own config."""

import json

import pytest
from support import gpt_neo_checkpoint, needs

import gpt2np
from gpt2np.architectures.gpt_neo.config import RELEASED, Config
from gpt2np.errors import ConfigError
from gpt2np.tracing.contract import parse_config, released

# The released config.json of the 125M model: EleutherAI's, both spellings of the kinds among them.
OF_125M = {
    "activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"], "attention_dropout": 0,
    "attention_layers": ["global", "local"] * 6, "attention_types": [[["global", "local"], 6]],
    "bos_token_id": 50256, "embed_dropout": 0, "eos_token_id": 50256, "gradient_checkpointing": False,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": None, "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 2048, "model_type": "gpt_neo", "num_heads": 12, "num_layers": 12,
    "resid_dropout": 0, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "transformers_version": "4.9.0.dev0", "use_cache": True, "vocab_size": 50257, "window_size": 256,
}  # fmt: skip
SMALL = {
    "model_type": "gpt_neo", "num_layers": 2, "num_heads": 2, "hidden_size": 8, "vocab_size": 30,
    "attention_types": [[["global", "local"], 1]],
}  # fmt: skip


def parsed(changes=None, without=()):
    values = {key: value for key, value in (SMALL | (changes or {})).items() if key not in without}
    return parse_config(values, "config.json")


def test_the_released_config_has_no_notes():
    config, notes = parse_config(OF_125M, "config.json")
    assert notes == []
    assert config == RELEASED["EleutherAI/gpt-neo-125M"] == released("EleutherAI/gpt-neo-125m")
    assert config.n_parameters == 125_198_592
    assert [config.window(i) for i in range(4)] == [None, 256, None, 256]


def test_the_released_sizes():
    counts = {name.split("-")[-1]: config.n_parameters for name, config in RELEASED.items()}
    # EleutherAI's model cards round them; HF's module counts these.
    assert counts == {"125M": 125_198_592, "1.3B": 1_315_575_808, "2.7B": 2_651_307_520}
    for name, config in RELEASED.items():
        assert gpt2np.read_config(config.to_dict()) == config, name
        assert config.n_positions == 2048


# -- the kinds of attention -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"attention_types": [[["global", "local"], 1]]}, "GL"),
        ({"attention_types": [[["local"], 1], [["global"], 1]]}, "LG"),
        ({"attention_types": [[["local"], 2]]}, "LL"),
        ({"attention_types": [[["local", "global"], 1]], "attention_layers": ["local", "global"]}, "LG"),
        ({"attention_types": None, "attention_layers": ["local", "local"]}, "LL"),
        ({"attention_layers": None}, "GL"),
        ({"num_layers": 24, "attention_types": None}, "GL" * 12),  # HF's default
    ],
)
def test_either_spelling(changes, kinds):
    config, notes = parsed(changes)
    assert notes == []
    assert [config.window(i) for i in range(len(kinds))] == [256 if kind == "L" else None for kind in kinds]
    assert parse_config(config.to_dict(), "c")[0] == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_layers": ["local", "global"]}, "attention_types says .* attention_layers says .*"),
        ({"attention_layers": ["global", "local", "global"]}, "attention_types says"),
        ({"attention_types": None, "attention_layers": ["global"]}, "names 1 layers, and num_layers is 2"),
        ({"attention_types": [[["global"], 3]]}, "names 3 layers, and num_layers is 2"),
        ({"attention_types": None}, "names 24 layers, and num_layers is 2"),
        ({"attention_types": [[["global", "sparse"], 1]]}, "holds 'sparse'; known are global, local"),
        ({"attention_types": [[["global", 3], 1]]}, "holds 3"),
        ({"attention_types": [[["global", []], 1]]}, r"holds \[\]"),
        ({"attention_types": [["global", 2]]}, "must be like"),
        ({"attention_types": [[["global", "local"]]]}, "must be like"),
        ({"attention_types": "global"}, "must be like"),
        ({"attention_types": [3]}, "must be like"),
        ({"attention_types": [[["global", "local"], "1"]]}, "must be a whole number"),
        ({"attention_types": [[["global", "local"], True]]}, "must be a whole number"),
        ({"attention_types": [[["global", "local"], -1]]}, "must be a whole number"),
        ({"attention_types": [[["global", "local"], 2**30]]}, "more than 10000 layers"),
        ({"attention_types": [[["global"], 6000], [["local"], 6000]]}, "more than 10000 layers"),
        ({"attention_types": None, "attention_layers": "global"}, "must be a list of global and local"),
        ({"attention_types": None, "attention_layers": {"0": "global"}}, "must be a list"),
    ],
)
def test_kinds_that_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parsed(changes)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


# -- the other keys ---------------------------------------------------------------------------------

TAKEN = [
    ("vocab_size", 31, lambda c: c.vocab_size == c.dims["vocab"] == 31),
    ("max_position_embeddings", 7, lambda c: c.n_positions == 7),
    ("hidden_size", 12, lambda c: (c.n_embd, c.d_head, c.d_mlp) == (12, 6, 48)),
    ("num_heads", 4, lambda c: (c.n_head, c.n_kv_head, c.d_head) == (4, 4, 2)),
    ("num_attention_heads", 2, lambda c: c.n_head == 2),
    ("num_hidden_layers", 2, lambda c: c.n_layer == 2),
    ("intermediate_size", 5, lambda c: c.d_mlp == 5),
    ("intermediate_size", None, lambda c: c.d_mlp == 32),
    ("window_size", 1, lambda c: c.window(1) == 1),
    ("window_size", 10**6, lambda c: c.window(1) == 10**6),
    ("activation_function", "relu", lambda c: c.activation_function == "relu"),
    ("activation_function", "gelu_fast", lambda c: c.activation_function == "gelu_new"),
    ("layer_norm_epsilon", 1e-3, lambda c: c.norm_epsilon == 1e-3),
    ("tie_word_embeddings", False, lambda c: not c.tie_word_embeddings),
    ("eos_token_id", [3, 4], lambda c: c.eos_ids == (3, 4)),
    ("eos_token_id", None, lambda c: c.eos_ids == ()),
]


@pytest.mark.parametrize(("key", "value", "holds"), TAKEN, ids=lambda x: str(x) if not callable(x) else "")
def test_keys_that_are_taken(key, value, holds):
    config, notes = parsed({key: value})
    assert notes == []
    assert holds(config)
    assert parse_config(json.loads(json.dumps(config.to_dict())), "c") == (config, [])
    assert hash(config) == hash(parse_config(config.to_dict(), "c")[0])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("window_size", 0, "window_size must be a whole number of at least 1, not 0"),
        ("window_size", -4, "window_size must be"),
        ("window_size", None, "window_size must be"),  # as HF refuses it
        ("window_size", 2.5, "window_size must be"),
        ("num_heads", 3, "hidden_size 8 is not a multiple of num_heads 3"),
        ("num_heads", 0, "num_heads must be"),
        ("num_layers", 10**9, "num_layers must be at most 10000"),
        ("num_layers", True, "num_layers must be"),
        ("hidden_size", "8", "hidden_size must be"),
        ("intermediate_size", 0, "intermediate_size must be"),
        ("vocab_size", 0, "vocab_size must be"),
        ("max_position_embeddings", 0, "max_position_embeddings must be"),
        ("layer_norm_epsilon", -1, "layer_norm_epsilon must be"),
        ("tie_word_embeddings", 1, "tie_word_embeddings must be true or false"),
        ("activation_function", "quick_gelu", "activation_function 'quick_gelu' is not supported"),
        ("eos_token_id", "x", "eos_token_id must be"),
        ("num_attention_heads", 4, "num_attention_heads says 4 and num_heads says 2"),
        ("num_hidden_layers", 3, "num_hidden_layers says 3 and num_layers says 2"),
        ("quantization_config", {"bits": 4}, "quantization_config is .* not supported"),
        ("pruned_heads", {"0": [1]}, "pruned_heads is"),
        ("add_cross_attention", True, "add_cross_attention is"),
        ("is_encoder_decoder", True, "is_encoder_decoder is"),
        ("sliding_window", 128, "sliding_window is 128"),
        ("rope_theta", 10000, "rope_theta is 10000"),
        ("attention_bias", True, "attention_bias is True"),
    ],
)
def test_keys_that_are_refused(key, value, message):
    if message is None:
        assert parsed({key: value})[0].window(1) == 256
        return
    with pytest.raises(ConfigError, match=message):
        parsed({key: value})


HARMLESS = """attention_dropout embed_dropout resid_dropout classifier_dropout summary_type summary_use_proj
    summary_activation summary_proj_to_labels summary_first_dropout gradient_checkpointing initializer_range
    use_cache bos_token_id pad_token_id torch_dtype dtype transformers_version architectures""".split()


@pytest.mark.parametrize("key", HARMLESS)
def test_keys_that_are_harmless(key):
    config, notes = parsed({key: 0.5})
    assert (config, notes) == (parsed()[0], [])


def test_a_key_that_nobody_knows_is_noted():
    config, notes = parsed({"n_ctx": 12})
    assert config == parsed()[0]
    assert notes == ["config.json: unknown key 'n_ctx' is ignored"]


@pytest.mark.parametrize(
    ("kinds", "types"),
    [
        ("GLGLGL", [[["global", "local"], 3]]),
        ("LLL", [[["local"], 3]]),
        ("GLG", [[["global", "local", "global"], 1]]),
        ("GLLGLL", [[["global", "local", "local"], 2]]),
    ],
)
def test_kinds_are_written_as_briefly_as_they_can_be(kinds, types):
    values = gpt_neo_checkpoint.config_of(kinds).to_dict()
    assert values["attention_types"] == types
    assert "attention_layers" not in values


def test_constructing_one():
    config = Config(num_layers=1, attention_layers=["local"], window_size=3, num_heads=2, hidden_size=4)
    assert config.attention_layers == ("local",)
    assert config.attention_scale(0) == 1.0
    assert config.architecture.model_type == "gpt_neo"
    with pytest.raises(ConfigError, match="names 24 layers, and num_layers is 2"):
        Config(num_layers=2)


@pytest.mark.needs("transformers")
def test_hf_reads_what_we_write_and_takes_the_same():
    needs.imported("torch")
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = gpt_neo_checkpoint.config_of("LLG", intermediate_size=9, tie_word_embeddings=False)
    theirs = GPTNeoConfig(**config.to_dict())
    assert theirs.attention_layers == ["local", "local", "global"]
    assert theirs.window_size == 5
    model = GPTNeoForCausalLM(theirs)
    shapes = {name.removeprefix("transformer."): tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes.pop("lm_head.weight") == (300, 8)
    assert shapes == config.architecture.shapes(config)
    assert sum(p.numel() for p in model.parameters()) - 300 * 8 == config.n_parameters
    written = json.loads(theirs.to_json_string())
    assert parse_config(written, "theirs") == (config, [])
