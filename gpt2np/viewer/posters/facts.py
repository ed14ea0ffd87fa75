"""What a poster shows of a run: which tokens have columns, what they are called, and their numbers."""

import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from gpt2np.analysis.layer_norms import norm_parameters
from gpt2np.analysis.lens import logit_lens
from gpt2np.analysis.matrices import Matrix, every_matrix
from gpt2np.characters import bytes_shown, joined, readable
from gpt2np.errors import Gpt2npError
from gpt2np.generation.generated import Generated
from gpt2np.generation.options import Sampling
from gpt2np.ops import Array
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.model_parts import Part, parts_of
from gpt2np.viewer.page_data import sizes_of
from gpt2np.viewer.page_facts import model_facts
from gpt2np.viewer.posters.lettering import clean

MOST = 12  # tokens with columns of their own
MADE = {"W_Q": "attn.q", "W_K": "attn.k", "W_V": "attn.v"}  # what a matrix makes, where several make one site
_PART = re.compile(r" ([1-9])/([1-9])")  # behind a character: which part of it a token is
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
READ = ("head", "query", "key")  # the axes of scores and patterns


@dataclass(frozen=True)
class Facts:
    """A run as a poster shows it. `chosen` is the token that a generation chose last: it has no position."""

    trace: Trace
    positions: tuple[int, ...]
    n_prompt: int
    chosen: int | None = None
    options: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.trace.config

    @cached_property
    def name(self) -> str:
        """The model's name."""
        return clean(Path(model_facts(self.trace, sizes_of(self.trace))["name"]).name)

    @cached_property
    def tokens(self) -> list[str]:
        """Every token as it is shown, spaces as dots."""
        return [marked(name) for name in readable(self.trace.tokens)]

    def told(self, token: int) -> str:
        """A token that may come next, as it is shown behind the text: a part may complete a character."""
        return marked(readable([*self.trace.tokens, self.trace.token(token)])[-1])

    @cached_property
    def in_parts(self) -> list[bool]:
        """Whether a token is a part of a character."""
        return [bool(bytes_shown(token) != token.encode("utf-8")) for token in self.trace.tokens]

    @cached_property
    def layers(self) -> int:
        """How many layers ran."""
        return sizes_of(self.trace).layers

    @property
    def to_the_end(self) -> bool:
        """Whether the run went on to the prediction."""
        return self.layers == self.config.n_layer

    @cached_property
    def parts(self) -> dict[str, Part]:
        """What is said beside each site that is shown."""
        return {part.site: part for part in parts_of(self.config)}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """A layer's sites in the order of the sheet: values are not needed before it is known from where."""
        found = [s for s in self.config.architecture.sites if s.layered and s.name in self.parts]
        found = [s for s in found if not s.derived or s.full_name(0) in self.trace]
        names = [site.name for site in found]
        if {"attn.v", "attn.pattern"} <= set(names) and names.index("attn.v") < names.index("attn.pattern"):
            found.insert(names.index("attn.pattern"), found.pop(names.index("attn.v")))
        return tuple(found)

    @cached_property
    def matrices(self) -> dict[tuple[str, int | None], list[Matrix]]:
        """The matrices that make a site in a layer; none of a run without its model."""
        found: dict[tuple[str, int | None], list[Matrix]] = {}
        for each in every_matrix(self.trace.model) if self.trace.model is not None else []:
            found.setdefault((MADE.get(each.name, each.site), each.layer), []).append(each)
        return found

    @cached_property
    def norms(self) -> dict[str, Array]:
        """The learned scale, and shift if it has one, of each norm, by its full name."""
        if self.trace.model is None:
            return {}
        found = norm_parameters(self.trace.model)
        return dict(zip(found.labels["norm"], found.array, strict=True))

    @cached_property
    def lens(self) -> dict[str, list[tuple[str, float]]]:
        """What the last position's stream would say at each point: the likeliest tokens, and how likely."""
        if self.trace.model is None or not self.to_the_end:
            return {}
        try:
            found = logit_lens(self.trace, k=3, pos=-1)
        except Gpt2npError:  # something was not kept, or was edited
            return {}
        ids, p = found.top_ids.array[:, 0], found.top_probabilities.array[:, 0]
        return {
            site: [(marked(found.texts[i]), share) for i, share in zip(row, shares, strict=True)]
            for site, row, shares in zip(found.top_ids.labels["site"], ids.tolist(), p.tolist(), strict=True)
        }

    def vectors(self, site: str, layer: int | None) -> Array:
        """A site's vectors at the positions with columns."""
        array = self.trace[site if layer is None else f"h.{layer}.{site}"]
        return array[list(self.positions)]

    def read(self, site: str, layer: int) -> Array:
        """Scores or patterns of a layer between the positions with columns: [head, query, key]."""
        at = list(self.positions)
        return self.trace[f"h.{layer}.{site}"][:, at][:, :, at].astype(np.float64)

    @cached_property
    def busiest(self) -> list[list[int]]:
        """The heads of each layer, first those that read least from their own position and the first."""
        at, found = np.arange(len(self.positions)), []
        for layer in range(self.layers):
            pattern = self.read("attn.pattern", layer)
            rest = np.where(at > 0, pattern[:, :, 0], 0) * (self.positions[0] == 0)
            found.append(np.argsort((pattern[:, at, at] + rest).mean(axis=1), kind="stable").tolist())
        return found

    def title(self) -> str:
        """The run's text, for the title of a window."""
        return clean(joined(self.trace.tokens)[:60])


def facts_of(run: Trace | Generated, trace: Trace) -> Facts:
    """The facts of a run whose trace has its model, if that can be had."""
    n = len(trace.token_ids)
    shown = range(n) if n <= MOST else (0, *range(n - MOST + 1, n))
    prompt = trace.metadata.get("n_prompt")
    if isinstance(run, Generated):
        chosen = run.token_ids[-1] if len(run.token_ids) > n else None
        options = {each.name: getattr(run.sampling, each.name) for each in fields(run.sampling)}
        told = {name: value for name, value in options.items() if value != getattr(Sampling(), name)}
        return Facts(trace, tuple(shown), run.n_prompt, chosen, told)
    return Facts(trace, tuple(shown), prompt if type(prompt) is int and 1 <= prompt <= n else n)


def marked(token: str) -> str:
    """A token, as `readable` has it, as the page writes it: spaces can be seen, parts are as 日¹⁄₃."""
    short = _PART.sub(lambda found: f"{_RAISED[int(found[1])]}⁄{_LOWERED[int(found[2])]}", token)
    return clean(short.replace(" ", "·")) or "∅"
