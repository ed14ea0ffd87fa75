"""What a GPT-2's `config.json` may say, what is refused, and the four released sizes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpt2np.errors import ConfigError, short

ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh")
_MOST_LAYERS = 10_000  # a file that lies would otherwise keep us busy for ever

# Other spellings that HF's GPT2Config accepts (its attribute_map, and the older n_ctx).
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# Keys that say something else than GPT-2's plain forward pass, with the values that are harmless.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": (None, {}, []),
    "quantization_config": (None,),
    "compression_config": (None,),
    "rope_scaling": (None,),
    "rope_theta": (None,),
    "sliding_window": (None,),
    "multi_query": (None, False),
    "tensor_parallel_qkv": (None, False),
}

# Keys that never change the result of a forward pass; others that are unknown are noted.
_HARMLESS = frozenset(
    "model_type architectures _name_or_path name_or_path transformers_version torch_dtype dtype "
    "resid_pdrop embd_pdrop attn_pdrop initializer_range summary_type summary_use_proj "
    "summary_activation summary_proj_to_labels summary_first_dropout use_cache bos_token_id "
    "pad_token_id sep_token_id decoder_start_token_id n_ctx task_specific_params is_decoder "
    "gradient_checkpointing output_past output_attentions output_hidden_states output_scores "
    "return_dict return_dict_in_generate id2label label2id num_labels problem_type finetuning_task "
    "torchscript use_bfloat16 tf_legacy_loss chunk_size_feed_forward tokenizer_class prefix "
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty "
    "temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens forced_bos_token_id "
    "forced_eos_token_id vocab_size_comment n_special predict_special_tokens _num_labels".split()
)


@dataclass(frozen=True)
class Config:
    """The numbers and switches that define a GPT-2, under their names in HF's `config.json`.

    Example:
        >>> Config(n_layer=4, n_head=4, n_embd=192).d_head
        48
    """

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    n_positions: int = 1024
    vocab_size: int = 50257
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False  # changes HF's order of operations, not the result
    tie_word_embeddings: bool = True
    eos_token_id: int | None = 50256

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size"):
            _check_size(name, getattr(self, name))
        if self.n_inner is not None:
            _check_size("n_inner", self.n_inner)
        if self.n_layer > _MOST_LAYERS:
            raise ConfigError(f"n_layer must be at most {_MOST_LAYERS}, not {self.n_layer}")
        for name in (
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
            "tie_word_embeddings",
        ):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, not {short(getattr(self, name))}")
        eps = self.layer_norm_epsilon
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps <= 1e30:
            raise ConfigError(f"layer_norm_epsilon must be a number from 0 to 1e30, not {short(eps)}")
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.activation_function not in ACTIVATIONS:
            raise ConfigError(
                f"activation_function {short(self.activation_function)} is not supported; "
                f"known are {', '.join(ACTIVATIONS)}"
            )
        eos = self.eos_token_id
        if eos is not None and (isinstance(eos, bool) or not isinstance(eos, int)):
            raise ConfigError(f"eos_token_id must be a whole number or null, not {short(eos)}")

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden layer: `n_inner`, or four times `n_embd`."""
        return self.n_inner or 4 * self.n_embd

    def attention_scale(self, layer: int) -> float:
        """What the dot products of queries and keys are multiplied by in this layer."""
        scale = float(self.d_head) ** -0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the axes that do not depend on the prompt."""
        return {
            "head": self.n_head,
            "d_head": self.d_head,
            "n_embd": self.n_embd,
            "3*n_embd": 3 * self.n_embd,
            "d_mlp": self.d_mlp,
            "vocab": self.vocab_size,
        }

    @property
    def n_parameters(self) -> int:
        """Number of parameters, the tied unembedding counted once.

        Example:
            >>> RELEASED["gpt2"].n_parameters  # llm.c's README
            124439808
        """
        return sum(self.parameters_by_component().values())

    def parameters_by_component(self) -> dict[str, int]:
        """Number of parameters of each component, all layers together, tied unembedding counted once."""
        d, m, n = self.n_embd, self.d_mlp, self.n_layer
        return {
            "token embedding": self.vocab_size * d,
            "position embedding": self.n_positions * d,
            "attention": n * (d * 3 * d + 3 * d + d * d + d),
            "mlp": n * (d * m + m + m * d + d),
            "layer norms": n * 4 * d + 2 * d,
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields as `config.json` would have them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> "Config":
        """A Config from the keys of a `config.json`; see `read_config` for the notes on others.

        Raises:
            ConfigError: `where`, the field, what was found and what is expected.
        """
        return _parse(values, where)[0]


def read_config(path: Path) -> tuple[Config, list[str]]:
    """The Config in a `config.json`, and a note for each key that is not known.

    Raises:
        ConfigError: the file is missing or malformed, or describes another kind of model.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON ({error})") from None
    return _parse(values, str(path))


def _parse(values: Any, where: str) -> tuple[Config, list[str]]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(values).__name__}")
    model_type = values.get("model_type", "gpt2")
    if model_type != "gpt2":
        raise ConfigError(f"{where}: model_type is {short(model_type)}; gpt2np runs 'gpt2' only")
    for key, harmless in _REFUSED.items():
        if key in values and not any(values[key] == h and type(values[key]) is type(h) for h in harmless):
            raise ConfigError(
                f"{where}: {key} is {short(values[key])}, which changes the result and is not supported"
            )
    names = {field.name for field in fields(Config)}
    known: dict[str, Any] = {}
    notes = []
    for key, value in values.items():
        name = _ALIASES.get(key, key)
        if name in names:
            if name in known and known[name] != value:
                says = f"{key} says {short(value)} and {name} says {short(known[name])}"
                raise ConfigError(f"{where}: {says}")
            known[name] = value
        elif key not in _HARMLESS and key not in _REFUSED:
            notes.append(f"{where}: unknown key {short(key)} is ignored")
    if isinstance(known.get("eos_token_id"), list):
        known["eos_token_id"] = next(iter(known["eos_token_id"]), None)
        notes.append(f"{where}: eos_token_id lists several; the first ends a text, stop_tokens takes more")
    known = {k: v for k, v in known.items() if v is not None or k in ("n_inner", "eos_token_id")}
    try:
        return Config(**known), notes
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
        raise ConfigError(f"{name} must be a whole number of at least 1, not {short(value)}")


# The sizes that OpenAI released (GPT-2 paper, table 2; n_head from the checkpoints' config.json).
RELEASED = {
    "gpt2": Config(),
    "gpt2-medium": Config(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": Config(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": Config(n_layer=48, n_head=25, n_embd=1600),
}
