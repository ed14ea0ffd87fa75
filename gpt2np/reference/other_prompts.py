"""Finds out whether a dump is of other tokens than those asked for."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.model import Model
from gpt2np.ops import Array
from gpt2np.reference.error_measure import difference
from gpt2np.reference.mistake_replay import until_step
from gpt2np.reference.mistakes import PROMPT_MISTAKES, OtherPrompt, PromptMistake
from gpt2np.reference.noise_bands import Expected
from gpt2np.reference.position_alignment import last_rows
from gpt2np.reference.token_recovery import ids_in_dump
from gpt2np.tracing.sites import Site

# What follows from the tokens alone, before positions meet: other tokens have to explain all of it.
_ALONE = ("wte", "wpe", "embed", "resid_pre", "ln_1", "attn.qkv", "attn.q", "attn.k", "attn.v")


class OtherPrompts:
    """The prompts that may have run instead, held against a dump.

    `given` and `arrays` are the dump as in `Diagnosis`, `whole` the tokens that were asked for.
    """

    def __init__(
        self,
        model: Model,
        expected: Expected,
        given: Mapping[str, Array],
        arrays: Mapping[str, Array],
        whole: tuple[int, ...],
    ) -> None:
        self.model, self.expected = model, expected
        self.config = gpt2_only(model.config, "catalogue of mistakes")
        self.given, self.arrays, self.whole = given, arrays, whole
        self.ids = tuple(expected.truth.token_ids)

    def explaining(self, checks: Sequence[str]) -> Iterator[tuple[PromptMistake, str]]:
        """Each mistake in the tokens that explains these sites, and those that tokens alone decide."""
        alone = [name for name in self.given if self._alone(name)]
        checks = list(dict.fromkeys((*checks, *alone)))
        for mistake in PROMPT_MISTAKES:
            for other in self._others(mistake):
                if self._ran(other, checks):
                    yield mistake, other.detail
                    break

    def _resolve(self, name: str) -> tuple[Site, int | None]:
        return self.config.architecture.sites.resolve(name, None, self.config.n_layer)

    def _alone(self, name: str) -> bool:
        site, layer = self._resolve(name)
        return layer in (None, 0) and site.name in _ALONE

    def _ran(self, other: OtherPrompt, checks: Sequence[str]) -> bool:
        """Whether these sites of the dump are from a run of these tokens."""
        n_rows = len(range(len(other.token_ids))[other.rows])
        if other.token_ids == self.ids and n_rows == len(self.ids):
            return False
        for name in checks:
            site, layer = self._resolve(name)
            array = self.given[name]
            axis = next(i for i, a in enumerate(site.axis_names) if a in ("pos", "query"))
            if array.shape[axis] > n_rows:
                return False
            replay = self._site_of(name, other.token_ids, site, layer)
            replay = replay[:, other.rows, other.rows] if site.quadratic else replay[other.rows]
            replay = last_rows(replay, array.shape[axis], axis)
            band = 2 * float(np.max(self.expected.bands[name]))
            if replay.shape != array.shape or not (difference(array, replay, site) <= band).all():
                return False
        return True

    def _others(self, mistake: PromptMistake) -> Iterator[OtherPrompt]:
        """What may have run instead; ids that can be read from the dump come first."""
        if mistake.reads_ids:
            yield from self._read()
        yield from mistake.prompts(self.ids, self.whole, self.config)

    def _read(self) -> Iterator[OtherPrompt]:
        """Tokens as the dump's embeddings tell: as many as ours, or as it has rows."""
        ids = ids_in_dump(self.model, self.arrays)
        if ids is not None and len(ids) == len(self.ids) and ids != self.ids:
            at = next(i for i, (a, b) in enumerate(zip(ids, self.ids, strict=True)) if a != b)
            yield OtherPrompt(ids, slice(None), f"at position {at} {ids[at]} ran instead of {self.ids[at]}")
        ids = ids_in_dump(self.model, self.given)
        common = min(len(ids), len(self.ids)) if ids is not None else 0
        if ids is not None and len(ids) != len(self.ids) and ids[:common] != self.ids[:common]:
            yield OtherPrompt(ids, slice(None), f"{len(ids)} tokens ran instead of {len(self.ids)}")

    def _site_of(self, name: str, ids: tuple[int, ...], site: Site, layer: int | None) -> Array:
        """The site in a run of other tokens, which goes no further than it must."""
        stop = layer + 1 if layer is not None else 0 if site.name in ("wte", "wpe", "embed") else None
        last = f"h.{self.config.n_layer - 1}.resid_post"
        keep = "*" if stop is not None else [until_step(name, self.config), last]
        return np.asarray(self.model.trace(list(ids), keep=keep, stop_at_layer=stop)[name])
