"""What a Gemma-2's `config.json` may say, what is refused, and the released sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gpt2np.errors import ConfigError, short
from gpt2np.tracing import config_keys
from gpt2np.tracing.config_keys import (
    Keys,
    activation_named,
    check_epsilon,
    check_flag,
    check_size,
    end_of_text,
    ids_of,
)
from gpt2np.tracing.contract import Architecture, find

SLIDING, FULL = "sliding_attention", "full_attention"
KINDS = (SLIDING, FULL)

KEYS = Keys(
    # Keys of other models, and switches of HF's that no released model uses, with the harmless values.
    refused={
        "rope_scaling": (None,),
        "attention_bias": (None, False),
        "use_bidirectional_attention": (None, False),
    },
    harmless=frozenset(
        "attention_dropout cache_implementation sliding_window_size hidden_act unk_token_id".split()
    ),
    optional=frozenset(
        "attn_logit_softcapping final_logit_softcapping sliding_window layer_types eos_token_id".split()
    ),
)


@dataclass(frozen=True)
class Config:
    """The numbers and switches that define a Gemma-2, under their names in HF's `config.json`.

    `layer_types` is the kind of each layer: a query of a "full_attention" one sees every key until its own,
    of a "sliding_attention" one the last `sliding_window` of these; where it is not given, layers alternate,
    the first one sliding. A soft cap of None is no cap. Scores are scaled by the root of
    `query_pre_attn_scalar`, which need not be `head_dim`.

    Example:
        >>> config = Config(num_hidden_layers=2)
        >>> config.window(0), config.window(1)
        (4096, None)
    """

    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_size: int = 2304
    intermediate_size: int = 9216
    max_position_embeddings: int = 8192
    vocab_size: int = 256000
    query_pre_attn_scalar: float = 256
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    sliding_window: int | None = 4096
    layer_types: tuple[str, ...] | None = None
    rope_theta: float = 10000.0
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    eos_token_id: int | tuple[int, ...] | None = 1

    def __post_init__(self) -> None:
        for name in (
            "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size",
            "intermediate_size", "max_position_embeddings", "vocab_size",
        ):  # fmt: skip
            check_size(name, getattr(self, name))
        check_flag("tie_word_embeddings", self.tie_word_embeddings)
        check_epsilon("rms_norm_eps", self.rms_norm_eps)
        for name in ("query_pre_attn_scalar", "rope_theta"):
            _check_above_0(name, getattr(self, name))
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if getattr(self, name) is not None:
                _check_above_0(name, getattr(self, name), " or null")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even, for rotary positions, not {self.head_dim}")
        kinds = _checked_kinds(self.layer_types, self.num_hidden_layers)
        _check_window(self.sliding_window, kinds)
        object.__setattr__(self, "layer_types", kinds)
        object.__setattr__(
            self, "hidden_activation", activation_named(self.hidden_activation, "hidden_activation")
        )
        object.__setattr__(self, "eos_token_id", end_of_text(self.eos_token_id))

    @property
    def architecture(self) -> Architecture:
        """Gemma-2."""
        return find("gemma2")

    @property
    def n_layer(self) -> int:
        """Number of blocks."""
        return self.num_hidden_layers

    @property
    def n_embd(self) -> int:
        """Width of the residual stream."""
        return self.hidden_size

    @property
    def n_head(self) -> int:
        """Number of query heads of a layer."""
        return self.num_attention_heads

    @property
    def n_kv_head(self) -> int:
        """Number of key and value heads of a layer, each shared by neighbouring query heads."""
        return self.num_key_value_heads

    @property
    def n_positions(self) -> int:
        """Longest text, in tokens: what the model was trained for."""
        return self.max_position_embeddings

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.head_dim

    @property
    def d_mlp(self) -> int:
        """Number of neurons of an MLP."""
        return self.intermediate_size

    @property
    def activation_function(self) -> str:
        """What the gate of an MLP goes through."""
        return self.hidden_activation

    @property
    def norm_epsilon(self) -> float:
        """What is added to the mean square, inside the root of every RMSNorm."""
        return self.rms_norm_eps

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end-of-text tokens."""
        return ids_of(self.eos_token_id)

    def window(self, layer: int) -> int | None:
        """Return how many keys a query of a sliding layer sees, its own included; None of a full one."""
        assert self.layer_types is not None, "made when the config was"
        return self.sliding_window if self.layer_types[layer] == SLIDING else None

    def attention_scale(self, layer: int) -> float:
        """Return what the dot products of queries and keys are multiplied by in every layer."""
        return 1.0 / math.sqrt(self.query_pre_attn_scalar)

    @property
    def embedding_scale(self) -> float:
        """What a token's row of the table is multiplied by: the root of `hidden_size`."""
        return math.sqrt(self.hidden_size)

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the axes that do not depend on the prompt."""
        return {
            "head": self.n_head,
            "kv_head": self.n_kv_head,
            "d_head": self.d_head,
            "n_embd": self.n_embd,
            "d_mlp": self.d_mlp,
            "vocab": self.vocab_size,
        }

    @property
    def n_parameters(self) -> int:
        """Number of parameters, the tied unembedding counted once.

        Example:
            >>> RELEASED["google/gemma-2-2b-it"].n_parameters
            2614341888
        """
        return sum(self.parameters_by_component().values())

    def parameters_by_component(self) -> dict[str, int]:
        """Return the number of parameters of each component; a tied unembedding counts once."""
        d, n = self.n_embd, self.n_layer
        return {
            "token embedding": self.vocab_size * d,
            "attention": n * 2 * d * (self.n_head + self.n_kv_head) * self.d_head,
            "mlp": n * 3 * d * self.d_mlp,
            "norms": n * 4 * d + d,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `config.json` would have them, `model_type` first."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        values["layer_types"] = list(self.layer_types or ())
        return {"model_type": "gemma2"} | values

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> tuple["Config", list[str]]:
        """Make a Config from the keys of a `config.json`, with a note for each unknown key.

        Raises:
            ConfigError: `where`, the field, what was found and what is expected.
        """
        if not isinstance(values, Mapping):
            return config_keys.parse(values, where, cls, KEYS)
        try:
            theta = _theta_of(values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        known = {key: value for key, value in values.items() if key != "rope_parameters"}
        config, notes = config_keys.parse(known | {"rope_theta": theta}, where, cls, KEYS)
        other = values.get("hidden_act")
        if other not in (None, values.get("hidden_activation"), config.hidden_activation):
            says = f"hidden_act {short(other)} is ignored, as HF does"
            notes.append(f"{where}: {says}: hidden_activation is {config.hidden_activation}")
        return config, notes

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> "Config":
        """Make a Config from the keys of a `config.json`."""
        return cls.parse(values, where)[0]


def _check_above_0(name: str, value: Any, others: str = "") -> None:
    """Refuse what is no number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e30:
        raise ConfigError(f"{name} must be a number above 0{others}, not {short(value)}")


def _checked_kinds(kinds: Any, n_layer: int) -> tuple[str, ...]:
    """`layer_types`, a kind for each layer."""
    if kinds is None:
        return tuple(KINDS[layer % 2] for layer in range(n_layer))
    if not isinstance(kinds, list | tuple):
        raise ConfigError(f"layer_types must be a list of {' and '.join(KINDS)}, not {short(kinds)}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"layer_types holds {short(unknown[0])}; known are {', '.join(KINDS)}")
    if len(kinds) != n_layer:
        raise ConfigError(f"layer_types names {len(kinds)} layers, and num_hidden_layers is {n_layer}")
    return tuple(kinds)


def _check_window(window: Any, kinds: tuple[str, ...]) -> None:
    """Refuse a window that is none, where a layer needs one."""
    if window is not None:
        check_size("sliding_window", window)
    elif SLIDING in kinds:
        raise ConfigError(f"sliding_window is null, and layer {kinds.index(SLIDING)} is a {SLIDING} layer")


def _theta_of(values: Mapping[str, Any]) -> Any:
    """The base of the rotary frequencies by either spelling; both may be there if they agree."""
    old, new = values.get("rope_theta"), values.get("rope_parameters")
    if new is None:
        return old
    if not isinstance(new, Mapping):
        raise ConfigError(f'rope_parameters must be like {{"rope_theta": 10000.0}}, not {short(new)}')
    for key, value in new.items():
        if key not in ("rope_theta", "rope_type") or (key == "rope_type" and value != "default"):
            raise ConfigError(
                f"rope_parameters has {short(key)} {short(value)}, which changes the result and is not "
                "supported"
            )
    theta = new.get("rope_theta")
    if None not in (old, theta) and old != theta:
        raise ConfigError(f"rope_theta says {short(old)} and rope_parameters says {short(theta)}")
    return old if theta is None else theta


_SIZES = {
    "2b": Config(),
    "9b": Config(
        num_hidden_layers=42, num_attention_heads=16, num_key_value_heads=8, hidden_size=3584,
        intermediate_size=14336,
    ),
    "27b": Config(
        num_hidden_layers=46, num_attention_heads=32, num_key_value_heads=16, head_dim=128, hidden_size=4608,
        intermediate_size=36864, query_pre_attn_scalar=144,
    ),
}  # fmt: skip
# The sizes that Google released (Gemma Team 2024, table 1; config.json), each also tuned to instructions.
RELEASED = {
    f"google/gemma-2-{size}{tuned}": config for size, config in _SIZES.items() for tuned in ("", "-it")
}
