"""What an architecture is, and what shared code may ask of a config.

A config names its architecture (`config.architecture`), and everything that is not the forward pass asks the
two: no module outside `architectures/` knows a model. To add one is to write a folder beside
`architectures/gpt2/` with the same rooms, and to give it a line in `_MODULES`.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from gpt2np.errors import ConfigError, short
from gpt2np.ops import Array

if TYPE_CHECKING:
    from gpt2np.tracing.derived import Derived
    from gpt2np.tracing.sites import SiteTable
    from gpt2np.tracing.trace import Trace


class ModelConfig(Protocol):
    """The numbers of a model that shared code may ask for; each architecture has a frozen dataclass for them.

    `dims` are the sizes of the axes that do not depend on the prompt, `eos_ids` the tokens that end a text.
    """

    @property
    def architecture(self) -> "Architecture":
        """What computes a model of this config."""

    @property
    def n_layer(self) -> int:
        """Number of blocks."""

    @property
    def n_embd(self) -> int:
        """Width of the residual stream."""

    @property
    def n_head(self) -> int:
        """Number of query heads of a layer."""

    @property
    def n_kv_head(self) -> int:
        """Number of key and value heads of a layer, which divides that of query heads."""

    @property
    def d_head(self) -> int:
        """Width of one head."""

    @property
    def d_mlp(self) -> int:
        """Number of neurons of an MLP."""

    @property
    def activation_function(self) -> str:
        """The name of the MLP's activation function, as HF has it."""

    @property
    def n_positions(self) -> int:
        """Longest text, in tokens."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    @property
    def norm_epsilon(self) -> float:
        """What is added inside the root of every norm."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the unembedding is the table of tokens, where the checkpoint has none of its own."""

    @property
    def dims(self) -> dict[str, int]:
        """Size of every axis that does not depend on the prompt."""

    @property
    def n_parameters(self) -> int:
        """Number of parameters, a tied unembedding counted once."""

    def attention_scale(self, layer: int) -> float:
        """What the dot products of queries and keys are multiplied by in this layer."""

    def window(self, layer: int) -> int | None:
        """How many keys a query of this layer sees, the last being its own; None: all until its own."""

    def parameters_by_component(self) -> dict[str, int]:
        """Number of parameters of each component, all layers together."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as `config.json` would have them, `model_type` among them."""

    def __hash__(self) -> int:
        """Configs are frozen."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> tuple[Self, list[str]]:
        """A config from the keys of a `config.json`, and a note for each key that is not known."""


class TrainingNaming(NamedTuple):
    """How training scripts store a model: their modules are torch's own, and so are their matrices.

    `matrices` is a pattern of the weights that they store transposed, as torch's Linear [n_out, n_in];
    `witness` of one that is never square, which says whether a file does. `zeros` is a pattern of what they
    may leave out because it is zero. `settings` are their names for fields of the config, `harmless` those
    that do not matter; `sizes` says of which tensor's axis a field is the length, and `named_sizes` what the
    names mean that scripts have for sizes. `activations` are the functions of scripts that do not name
    theirs, told by a setting that they have; `""` is for all others. `renamed` gives the tensors of an older
    script under the names and in the shapes of today's, or None where they are not its.
    """

    matrices: str
    witness: str
    zeros: str
    settings: Mapping[str, str]
    harmless: frozenset[str]
    sizes: Mapping[str, tuple[str, int]]
    named_sizes: Mapping[str, Mapping[str, int]]
    activations: Mapping[str, str]
    renamed: Callable[[Mapping[str, Array]], dict[str, Array] | None]


class CheckpointNaming(NamedTuple):
    """How a checkpoint names its tensors: what else may be in it, and which tensors may be one.

    `prefix` stands before all names or before none, `layers` is what a layer's number follows. `buffers` is a
    pattern of what is no parameter. `tied` is the unembedding, which may be left out, and the table that then
    serves for it. `layout` says how matrices lie, for who has them the other way round. `training` is how
    training scripts that are not HF's store such a model, if they are read.
    """

    prefix: str
    layers: str
    buffers: str
    tied: tuple[str, str]
    layout: str
    training: "TrainingNaming | None" = None


class Identity(NamedTuple):
    """Something that must hold inside a trace: two arrays that are equal, computed when asked for.

    `names` are the sites that must have been kept.
    """

    statement: str
    names: tuple[str, ...]
    needs_weights: bool
    compute: Callable[[], tuple[Array, Array]]


class Turns(NamedTuple):
    """How a model was trained to be spoken with: what stands around each message of a conversation.

    A turn is the token `start`, the role and a new line, the message, the token `end` and a new line. `roles`
    has the role as the model knows it by what messages call it; they take turns, `"user"` being first, and
    what answers is `"assistant"`. `template` is the same in Jinja, as the released checkpoints have it.
    """

    start: str
    end: str
    roles: Mapping[str, str]
    template: str


@dataclass(frozen=True, eq=False)
class Architecture:
    """One kind of model: its config, its table of sites, its parameters and its forward pass.

    `shapes` gives the names and shapes that a checkpoint must have, `parameters` NamedTuples of such arrays.
    `forward` takes these, the config, and the `Step` that runs the lines; `embed(p, config, step)` are its
    lines before the first block, `unembed(x, p, config, step)` those behind the last. `cache` are the sites
    of a layer that later positions read.
    """

    model_type: str
    config: type[ModelConfig]
    sites: "SiteTable"
    derived: "Mapping[str, Derived]"
    cache: tuple[str, ...]
    naming: CheckpointNaming
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    parameters: Callable[[Mapping[str, Array], Any], Any]
    forward: "Callable[[Any, Any, Any], Array]"
    embed: Callable[[Any, Any, Any], Array]
    unembed: Callable[[Array, Any, Any, Any], Array]
    one_row: Callable[[Any], Any] | None = None  # the parameters as decoding reads them fastest
    attention_bias: Callable[[Any, int], Array] | None = None  # what attention writes beside its heads
    # W_Q, W_K, W_V, W_O of a head and the biases of the first three, by (parameters, config, layer, head)
    head_matrices: Callable[[Any, Any, int, int], tuple[Array, ...]] | None = None
    released: Mapping[str, ModelConfig] = field(default_factory=dict)  # sizes that are known by a Hub id
    positional: tuple[str, ...] = ()  # sites that depend on positions alone, whatever the tokens
    # by site, what papers call the matrices side by side that make it, where `analysis.matrices` cannot know
    matrices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # more that must hold of a site: statement, the stored sites it is about, and what must be equal
    holds: "Callable[[Trace, str, str, int | None], Iterator[Identity]] | None" = None
    begin: str | None = None  # the token that every text begins with, unless the tokenizer's files deny it
    turns: Turns | None = None  # None: it has none, so nobody can chat with it
    cache_drops: bool = False  # whether HF's cache keeps of a layer with a window what the next query sees
    stored: str = "float32"  # the precision in which released sizes lie on the Hub, if not all of them
    keys: str | None = "as computed"  # what KV files say of keys; None: nothing, nor of key heads, as GPT-2's

    @property
    def control(self) -> tuple[str, ...]:
        """The tokens that only a program may write: typed in a text they are text, unless asked for."""
        turns = () if self.turns is None else (self.turns.start, self.turns.end)
        return turns if self.begin is None else (self.begin, *turns)

    def __repr__(self) -> str:
        return f"<Architecture {self.model_type}>"


DEFAULT = "gpt2"  # what a config without `model_type` describes

# Where each architecture is: the only place that names them.
_MODULES: dict[str, str | ModuleType] = {
    "gpt2": "gpt2np.architectures.gpt2",
    "gpt_neo": "gpt2np.architectures.gpt_neo",
    "gemma2": "gpt2np.architectures.gemma2",
}


def register(model_type: str, module: str | ModuleType) -> None:
    """Make an architecture known: a module, or its dotted name, that has an `ARCHITECTURE`."""
    _MODULES[model_type] = module


def find(model_type: str) -> Architecture:
    """The architecture that a `config.json` names by its `model_type`.

    Raises:
        ConfigError: there is none of this name.
    """
    module = _MODULES.get(model_type) if isinstance(model_type, str) else None
    if module is None:
        known = ", ".join(repr(name) for name in _MODULES)
        raise ConfigError(f"model_type is {short(model_type)}; gpt2np runs {known} only")
    if isinstance(module, str):
        module = _MODULES[model_type] = importlib.import_module(module)
    architecture: Architecture = module.ARCHITECTURE
    return architecture


def released(name: str) -> ModelConfig | None:
    """The config of a model that is known by its Hub id, with its owner in any case; None for any other."""
    known = {k: config for model_type in _MODULES for k, config in find(model_type).released.items()}
    owned = {k.casefold(): config for k, config in known.items() if "/" in k}
    return known.get(name, owned.get(name.casefold()))


def released_names() -> list[str]:
    """The Hub ids of the models whose sizes are known."""
    return [name for model_type in _MODULES for name in find(model_type).released]


def parse_config(values: Any, where: str) -> tuple[ModelConfig, list[str]]:
    """The config of whatever a mapping's `model_type` says (`DEFAULT` where it says nothing), and notes.

    Raises:
        ConfigError: `where`, the field, what was found and what is expected.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(values).__name__}")
    try:
        architecture = find(values.get("model_type", DEFAULT))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return architecture.config.parse(values, where)
