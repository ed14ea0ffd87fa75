"""What a GPT-Neo's `config.json` may say, what is refused, and the three released sizes."""

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

KINDS = ("global", "local")
_DEFAULT_TYPES = [[["global", "local"], 12]]  # HF's: of 24 layers

KEYS = Keys(
    # Other spellings that HF's GPTNeoConfig accepts (its attribute_map).
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    # Keys of other models, with the values that are harmless here.
    refused={
        "rope_scaling": (None,),
        "rope_theta": (None,),
        "sliding_window": (None,),
        "attention_bias": (None, False),
    },
    harmless=frozenset(
        "attention_dropout embed_dropout resid_dropout classifier_dropout summary_type summary_use_proj "
        "summary_activation summary_proj_to_labels summary_first_dropout".split()
    ),
    optional=frozenset(
        {"intermediate_size", "eos_token_id", "window_size"}
    ),  # which then is refused, as by HF
)


@dataclass(frozen=True)
class Config:
    """The numbers and switches that define a GPT-Neo, under their names in HF's `config.json`.

    `attention_layers` is the kind of each layer: a query of a "global" one sees every key until its own, of a
    "local" one the last `window_size` of these. `config.json` may instead have `attention_types`, a list of
    kinds and how often they are repeated: `[[["global", "local"], 12]]`.

    Example:
        >>> config = Config(num_layers=2, attention_layers=("global", "local"))
        >>> config.window(0), config.window(1)
        (None, 256)
    """

    num_layers: int = 24
    num_heads: int = 16
    hidden_size: int = 2048
    intermediate_size: int | None = None
    max_position_embeddings: int = 2048
    vocab_size: int = 50257
    attention_layers: tuple[str, ...] = KINDS * 12
    window_size: int = 256
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    eos_token_id: int | tuple[int, ...] | None = 50256

    def __post_init__(self) -> None:
        for name in (
            "num_layers", "num_heads", "hidden_size", "max_position_embeddings", "vocab_size", "window_size",
        ):  # fmt: skip
            check_size(name, getattr(self, name))
        if self.intermediate_size is not None:
            check_size("intermediate_size", self.intermediate_size)
        check_flag("tie_word_embeddings", self.tie_word_embeddings)
        check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        kinds = _checked_kinds(self.attention_layers, self.num_layers)
        object.__setattr__(self, "attention_layers", kinds)
        object.__setattr__(self, "activation_function", activation_named(self.activation_function))
        object.__setattr__(self, "eos_token_id", end_of_text(self.eos_token_id))

    @property
    def architecture(self) -> Architecture:
        """GPT-Neo."""
        return find("gpt_neo")

    @property
    def n_layer(self) -> int:
        """Number of blocks."""
        return self.num_layers

    @property
    def n_embd(self) -> int:
        """Width of the residual stream."""
        return self.hidden_size

    @property
    def n_head(self) -> int:
        """Number of attention heads of a layer."""
        return self.num_heads

    @property
    def n_kv_head(self) -> int:
        """Number of key and value heads: that of query heads."""
        return self.num_heads

    @property
    def n_positions(self) -> int:
        """Longest text, in tokens: the table of positions ends there."""
        return self.max_position_embeddings

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden layer: `intermediate_size`, or four times `hidden_size`."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def norm_epsilon(self) -> float:
        """What is added to the variance, inside the root of every LayerNorm."""
        return self.layer_norm_epsilon

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end-of-text tokens."""
        return ids_of(self.eos_token_id)

    def window(self, layer: int) -> int | None:
        """Return how many keys a query of a local layer sees, its own included; None of a global one."""
        return self.window_size if self.attention_layers[layer] == "local" else None

    def attention_scale(self, layer: int) -> float:
        """Return 1: the dot products of queries and keys are not scaled in any layer."""
        return 1.0

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the axes that do not depend on the prompt."""
        return {
            "head": self.n_head,
            "d_head": self.d_head,
            "n_embd": self.n_embd,
            "d_mlp": self.d_mlp,
            "vocab": self.vocab_size,
        }

    @property
    def n_parameters(self) -> int:
        """Number of parameters, the tied unembedding counted once.

        Example:
            >>> RELEASED["EleutherAI/gpt-neo-125M"].n_parameters
            125198592
        """
        return sum(self.parameters_by_component().values())

    def parameters_by_component(self) -> dict[str, int]:
        """Return the number of parameters of each component; a tied unembedding counts once."""
        d, m, n = self.n_embd, self.d_mlp, self.n_layer
        return {
            "token embedding": self.vocab_size * d,
            "position embedding": self.n_positions * d,
            "attention": n * (4 * d * d + d),
            "mlp": n * (d * m + m + m * d + d),
            "layer norms": n * 4 * d + 2 * d,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `config.json` would have them, `model_type` first."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        values["attention_types"] = _as_types(values.pop("attention_layers"))
        return {"model_type": "gpt_neo"} | values

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> tuple["Config", list[str]]:
        """Make a Config from the keys of a `config.json`, with a note for each unknown key.

        Raises:
            ConfigError: `where`, the field, what was found and what is expected.
        """
        if isinstance(values, Mapping):
            try:
                kinds = _kinds_of(values)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            values = {key: value for key, value in values.items() if key != "attention_types"}
            values["attention_layers"] = kinds
        return config_keys.parse(values, where, cls, KEYS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> "Config":
        """Make a Config from the keys of a `config.json`."""
        return cls.parse(values, where)[0]


def _checked_kinds(kinds: Any, n_layer: int) -> tuple[str, ...]:
    """`attention_layers`, a kind for each layer."""
    if not isinstance(kinds, list | tuple):
        raise ConfigError(f"attention_layers must be a list of {' and '.join(KINDS)}, not {short(kinds)}")
    unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in KINDS]
    if unknown:
        raise ConfigError(
            f"attention_layers (or attention_types) holds {short(unknown[0])}; known are {', '.join(KINDS)}"
        )
    if len(kinds) != n_layer:
        raise ConfigError(
            f"attention_layers (or attention_types) names {len(kinds)} layers, and num_layers is {n_layer}"
        )
    return tuple(kinds)


def _kinds_of(values: Mapping[str, Any]) -> Any:
    """The kind of each layer by either spelling; both may be there if they agree."""
    layers, types = values.get("attention_layers"), values.get("attention_types")
    if types is None:
        return _expanded(_DEFAULT_TYPES) if layers is None else layers
    expanded = _expanded(types)
    if layers is not None and (not isinstance(layers, list | tuple) or list(layers) != expanded):
        raise ConfigError(
            f"attention_types says {short(expanded)} and attention_layers says {short(layers)}: "
            "leave out the one that is wrong"
        )
    return expanded


def _expanded(types: Any) -> list[Any]:
    """`[[["global", "local"], 2]]` -> `["global", "local", "global", "local"]`."""
    wrong = ConfigError(
        f'attention_types must be like [[["global", "local"], 12]]: kinds and how often, not {short(types)}'
    )
    if not isinstance(types, list | tuple):
        raise wrong
    found: list[Any] = []
    for pair in types:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], list | tuple):
            raise wrong
        check_size("the number in attention_types", pair[1])
        if len(found) + len(pair[0]) * pair[1] > config_keys.MOST_LAYERS:
            raise ConfigError(f"attention_types names more than {config_keys.MOST_LAYERS} layers")
        found += list(pair[0]) * pair[1]
    return found


def _as_types(kinds: tuple[str, ...]) -> list[list[Any]]:
    """The kind of each layer as `attention_types`: the shortest list that repeats, and how often."""
    n = len(kinds)
    period = next(p for p in range(1, n + 1) if n % p == 0 and kinds == kinds[:p] * (n // p))
    return [[list(kinds[:period]), n // period]]


# The sizes that EleutherAI released (their model cards and config.json).
RELEASED = {
    "EleutherAI/gpt-neo-125M": Config(
        num_layers=12, num_heads=12, hidden_size=768, attention_layers=KINDS * 6
    ),
    "EleutherAI/gpt-neo-1.3B": Config(),
    "EleutherAI/gpt-neo-2.7B": Config(
        num_layers=32, num_heads=20, hidden_size=2560, attention_layers=KINDS * 16
    ),
}
