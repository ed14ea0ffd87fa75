"""Reads a `config.json` by a table of its keys: which are fields, which are refused, which are harmless."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from gpt2np.errors import ConfigError, short
from gpt2np.ops import ACTIVATIONS

_C = TypeVar("_C")
MOST_LAYERS = 10_000  # a file that lies would otherwise keep us busy for ever

# Keys of every model of Hugging Face that never change the result of a forward pass.
HARMLESS = frozenset(
    "model_type architectures _name_or_path name_or_path transformers_version torch_dtype dtype "
    "initializer_range use_cache bos_token_id pad_token_id sep_token_id decoder_start_token_id "
    "task_specific_params is_decoder gradient_checkpointing output_past output_attentions "
    "output_hidden_states output_scores return_dict return_dict_in_generate id2label label2id num_labels "
    "problem_type finetuning_task torchscript use_bfloat16 tf_legacy_loss chunk_size_feed_forward "
    "tokenizer_class prefix max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
    "forced_bos_token_id forced_eos_token_id _num_labels".split()
)

# Keys of every model that say something else than a plain forward pass, with the values that are harmless.
REFUSED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": (None, {}, []),
    "quantization_config": (None,),
    "compression_config": (None,),
}


# HF's other names for activation functions that the operations have.
SAME_ACTIVATION = {
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_python": "gelu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Keys:
    """What the keys of an architecture's `config.json` mean, beside those that every model has.

    `aliases` are other spellings of fields, `optional` the fields for which null is a value.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


def parse(values: Any, where: str, cls: type[_C], keys: Keys) -> tuple[_C, list[str]]:
    """A config from the keys of a `config.json`, and a note for each key that is not known.

    Raises:
        ConfigError: `where`, the field, what was found and what is expected.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(values).__name__}")
    refused = {**REFUSED, **keys.refused}
    for key, harmless in refused.items():
        if key in values and not any(values[key] == h and type(values[key]) is type(h) for h in harmless):
            raise ConfigError(
                f"{where}: {key} is {short(values[key])}, which changes the result and is not supported"
            )
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    known: dict[str, Any] = {}
    notes = []
    for key, value in values.items():
        name = keys.aliases.get(key, key)
        if name in names:
            if name in known and known[name] != value:
                says = f"{key} says {short(value)} and {name} says {short(known[name])}"
                raise ConfigError(f"{where}: {says}")
            known[name] = value
        elif key not in HARMLESS and key not in keys.harmless and key not in refused:
            notes.append(f"{where}: unknown key {short(key)} is ignored")
    known = {k: v for k, v in known.items() if v is not None or k in keys.optional}
    try:
        if "eos_token_id" in known:
            known["eos_token_id"] = end_of_text(known["eos_token_id"])
        return cls(**known), notes
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_size(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1, and more layers than anybody has.

    Raises:
        ConfigError: the field and what was found.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
        raise ConfigError(f"{name} must be a whole number of at least 1, not {short(value)}")
    if name in ("n_layer", "num_layers", "num_hidden_layers") and value > MOST_LAYERS:
        raise ConfigError(f"{name} must be at most {MOST_LAYERS}, not {value}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither true nor false.

    Raises:
        ConfigError: the field and what was found.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {short(value)}")


def check_epsilon(name: str, value: Any) -> None:
    """Refuse what cannot be added under a norm's root.

    Raises:
        ConfigError: the field and what was found.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e30:
        raise ConfigError(f"{name} must be a number from 0 to 1e30, not {short(value)}")


def activation_named(value: Any, field: str = "activation_function") -> str:
    """The usual name of an activation function, of which HF may have several.

    Raises:
        ConfigError: there is no operation for it.
    """
    name = SAME_ACTIVATION.get(value, value) if isinstance(value, str) else value
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(
            f"{field} {short(value)} is not supported; "
            f"known are {', '.join((*ACTIVATIONS, *SAME_ACTIVATION))}"
        )
    return name


def end_of_text(value: Any) -> int | tuple[int, ...] | None:
    """What `eos_token_id` says: an id, several, or none; a list of one is that one, an empty one none.

    Raises:
        ConfigError: what was found.
    """
    ids = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise ConfigError(f"eos_token_id must be a whole number, a list of them, or null, not {short(value)}")
    ids = list(dict.fromkeys(ids))
    return tuple(ids) if len(ids) > 1 else ids[0] if ids else None


def ids_of(eos_token_id: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """All ids that end a text, of a value that `end_of_text` has given."""
    return (
        eos_token_id if isinstance(eos_token_id, tuple) else () if eos_token_id is None else (eos_token_id,)
    )
