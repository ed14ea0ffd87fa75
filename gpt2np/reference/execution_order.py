"""The steps of a model in order, and which of them must have been right, since a site of a dump is."""

from collections.abc import Sequence

from gpt2np.reference.mistake_replay import until_step
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import block_input

# Sites that say nothing of the steps just before them, and the last one of which they do: qkv may be cut up
# wrongly, and another part of it, or the other half of the MLP, be wrong.
_BESIDE = dict.fromkeys("attn.qkv attn.q attn.k attn.v attn.q_rot attn.k_rot".split(), "ln_1")
_BESIDE |= {"attn.scores": "ln_1", "attn.pattern": "ln_1", "mlp.up": "ln_2"}
_STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")


class ExecutionOrder:
    """`steps` are the full names of what a run computes, `index` says which of them comes when."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        expanded = config.architecture.sites.expand(config.n_layer)
        self.sites = {name: (site, layer) for name, site, layer in expanded}
        self.steps = [name for name, (site, _) in self.sites.items() if not site.derived]
        self.index = {name: i for i, name in enumerate(self.steps)}
        self._embedding = self.index[block_input(0, config.n_layer)]

    def step(self, name: str) -> int:
        """The step after which a site is known."""
        return self.index[until_step(name, self.config)]

    def first_step_of(self, layer: int | None) -> int:
        """The first step of a layer; None: of what follows the last one."""
        own = (i for i, name in enumerate(self.steps) if self.sites[name][1] == layer)
        return next(i for i in own if layer is not None or i > self._embedding)

    def follows_the_embedding(self, step: int) -> bool:
        """Whether a step is that which gives the first block's input, or one behind it."""
        return step >= self._embedding

    def last_right(self, right: Sequence[str], only_scaled: bool = False) -> int:
        """The last step that must have been right, since these sites are; -1 for none.

        A mistake by which vectors are `only_scaled` does not show behind a norm, but in the stream itself.
        """
        kinds = {name: self.sites[name][0].name for name in right}
        told = [name for name in right if not only_scaled or kinds[name] in _STREAM]
        return max((self._ruled_out(name) for name in told), default=-1)

    def _ruled_out(self, name: str) -> int:
        site, layer = self.sites[name]
        if layer is None and name in self.steps[: self._embedding]:
            return -1  # the parts of a sum, each of which may be wrong
        if site.name in _BESIDE:
            return self.index[f"h.{layer}.{_BESIDE[site.name]}"]
        if site.derived and site.name.startswith("ln_"):
            return self.step(name) - 1
        return self.step(name)

    def to_another_kind(self, layer: int | None) -> Sequence[int]:
        """The layers from one to the next that looks back over another number of keys; none without it."""
        windows = [self.config.window(i) for i in range(self.config.n_layer)]
        first = self.config.n_layer if layer is None else layer
        others = [i for i in range(first, len(windows)) if windows[i] != windows[first]]
        return range(first, others[0] + 1) if others else ()
