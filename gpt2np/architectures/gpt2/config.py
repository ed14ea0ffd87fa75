"""What a GPT-2's `config.json` may say, what is refused, and the four released sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gpt2np.errors import ConfigError, InputError
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
from gpt2np.tracing.contract import Architecture, ModelConfig, find

KEYS = Keys(
    # Other spellings that HF's GPT2Config accepts (its attribute_map).
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    # Keys of other models, with the values that are harmless here.
    refused={
        "rope_scaling": (None,),
        "rope_theta": (None,),
        "sliding_window": (None,),
        "multi_query": (None, False),
        "tensor_parallel_qkv": (None, False),
    },
    harmless=frozenset(
        "resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation "
        "summary_proj_to_labels summary_first_dropout n_ctx vocab_size_comment n_special "
        "predict_special_tokens".split()
    ),
    optional=frozenset({"n_inner", "eos_token_id"}),
)


@dataclass(frozen=True)
class Config:
    """The numbers and switches that define a GPT-2, under their names in HF's `config.json`.

    `eos_token_id` may be several ids. `activation_function` may have any of HF's names for the function.

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
    eos_token_id: int | tuple[int, ...] | None = 50256

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size"):
            check_size(name, getattr(self, name))
        if self.n_inner is not None:
            check_size("n_inner", self.n_inner)
        for name in (
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
            "tie_word_embeddings",
        ):
            check_flag(name, getattr(self, name))
        check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        object.__setattr__(self, "activation_function", activation_named(self.activation_function))
        object.__setattr__(self, "eos_token_id", end_of_text(self.eos_token_id))

    @property
    def architecture(self) -> Architecture:
        """GPT-2."""
        return find("gpt2")

    @property
    def n_kv_head(self) -> int:
        """Number of key and value heads: that of query heads."""
        return self.n_head

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden layer: `n_inner`, or four times `n_embd`."""
        return self.n_inner or 4 * self.n_embd

    @property
    def norm_epsilon(self) -> float:
        """What is added to the variance, inside the root of every LayerNorm."""
        return self.layer_norm_epsilon

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end-of-text tokens."""
        return ids_of(self.eos_token_id)

    def window(self, layer: int) -> int | None:
        """No limit: a query sees every key until its own."""
        return None

    def attention_scale(self, layer: int) -> float:
        """Return what the dot products of queries and keys are multiplied by in this layer."""
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
        """Return the number of parameters of each component; a tied unembedding counts once."""
        d, m, n = self.n_embd, self.d_mlp, self.n_layer
        return {
            "token embedding": self.vocab_size * d,
            "position embedding": self.n_positions * d,
            "attention": n * (d * 3 * d + 3 * d + d * d + d),
            "mlp": n * (d * m + m + m * d + d),
            "layer norms": n * 4 * d + 2 * d,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `config.json` would have them, `model_type` first."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        return {"model_type": "gpt2"} | values

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "config") -> tuple["Config", list[str]]:
        """Make a Config from the keys of a `config.json`, with a note for each unknown key.

        Raises:
            ConfigError: `where`, the field, what was found and what is expected.
        """
        return config_keys.parse(values, where, cls, KEYS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> "Config":
        """Make a Config from the keys of a `config.json`."""
        return cls.parse(values, where)[0]


def gpt2_only(config: ModelConfig, what: str) -> Config:
    """Return the config itself, if it is a GPT-2's; `what` is something that other models have not.

    Raises:
        InputError: it is another model's.
    """
    if not isinstance(config, Config):
        raise InputError(f"{config.architecture.model_type} has no {what}: only gpt2 has")
    return config


# The sizes that OpenAI released (GPT-2 paper, table 2; n_head from the checkpoints' config.json).
RELEASED = {
    "gpt2": Config(),
    "gpt2-medium": Config(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": Config(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": Config(n_layer=48, n_head=25, n_embd=1600),
}
