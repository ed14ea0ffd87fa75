"""Finds out whether a dump is of other tokens than those asked for."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from gpt2np.model import Model
from gpt2np.ops import Array, unembedding
from gpt2np.ops.norms import normed
from gpt2np.reference.error_measure import difference
from gpt2np.reference.mistake_replay import until_step
from gpt2np.reference.mistakes import PROMPT_MISTAKES, OtherPrompt, PromptMistake
from gpt2np.reference.noise_bands import Expected
from gpt2np.reference.position_alignment import last_rows
from gpt2np.reference.token_recovery import ids_in_dump
from gpt2np.tracing.lines import final_norm, last_lines, unembedding_table
from gpt2np.tracing.sites import Site
from gpt2np.tracing.trace import Trace

_COLUMNS = 200  # of logits, that show which tokens did not run


class OtherPrompts:
    """The prompts that may have run instead, held against a dump.

    `given` and `arrays` are the dump as in `Diagnosis`, `whole` the tokens that were asked for. `model`
    computes in float64; what `quick`, in its own precision, shows not to have run is not run in float64.
    """

    def __init__(
        self,
        model: Model,
        quick: Model,
        expected: Expected,
        given: Mapping[str, Array],
        arrays: Mapping[str, Array],
        whole: tuple[int, ...],
    ) -> None:
        self.model, self.quick, self.expected = model, quick, expected
        self.config = model.config
        self.given, self.arrays, self.whole = given, arrays, whole
        self.ids = tuple(expected.truth.token_ids)
        self._last_run: tuple[object, Trace] | None = None

    def explaining(self, checks: Sequence[str], only: Collection[str]) -> Iterator[tuple[PromptMistake, str]]:
        """Each of some mistakes that explains these sites, and those that tokens alone decide."""
        alone = [name for name in self.given if self._alone(name)]
        checks = list(dict.fromkeys((*checks, *alone)))
        for mistake in PROMPT_MISTAKES:
            for other in self._others(mistake) if mistake.slug in only else ():
                if not self._is_out(other, checks[0]) and self._ran(other, checks):
                    yield mistake, other.detail
                    break

    def _resolve(self, name: str) -> tuple[Site, int | None]:
        return self.config.architecture.sites.resolve(name, None, self.config.n_layer)

    def _alone(self, name: str) -> bool:
        site, layer = self._resolve(name)
        names = [s.name for s in self.config.architecture.sites]
        return layer in (None, 0) and names.index(site.name) < names.index("attn.scores")

    def _is_out(self, other: OtherPrompt, name: str) -> bool:
        """Whether a run in less precision shows already that a site is not of these tokens.

        Of logits a few columns are looked at, since all are as many as there are words.
        """
        site, layer = self._resolve(name)
        if site.quadratic:
            return False
        array, columns = self.given[name], slice(None, None, max(1, self.config.vocab_size // _COLUMNS))
        if name == "logits" and last_lines(self.config)["logits"].op is unembedding:
            replay, array = self._some_logits(other.token_ids, columns), array[:, columns]
        else:
            replay = self._site_of(self.quick, name, other.token_ids, site, layer)
        replay = last_rows(replay[other.rows], len(array), 0)
        band = 4 * float(np.max(self.expected.bands[name]))
        return replay.shape != array.shape or not bool((difference(array, replay, site) <= band).all())

    def _some_logits(self, ids: tuple[int, ...], columns: slice) -> Array:
        """Columns of the logits in a run of other tokens: the others are not computed."""
        last = self._last_output()
        x = self._run(self.quick, ids, [last], self.config.n_layer)[last]
        p = self.quick.parameters
        x = normed(x, final_norm(self.config, p))
        return np.asarray(x @ unembedding_table(self.config, p, columns).T)

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
            replay = self._site_of(self.model, name, other.token_ids, site, layer)
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

    def _site_of(self, model: Model, name: str, ids: tuple[int, ...], site: Site, layer: int | None) -> Array:
        """The site in a run of other tokens, which goes no further than it must."""
        before = site in self.config.architecture.sites.before_layers
        stop = layer + 1 if layer is not None else 0 if before else None
        keep = "*" if stop is not None else [until_step(name, self.config), self._last_output()]
        return np.asarray(self._run(model, ids, keep, stop)[name])

    def _run(self, model: Model, ids: tuple[int, ...], keep: str | list[str], stop: int | None) -> Trace:
        """A run of other tokens; the same one with other rows often comes next, and is remembered."""
        key = model.dtype, ids, stop, tuple(keep)
        if self._last_run is None or self._last_run[0] != key:
            self._last_run = key, model.trace(list(ids), keep=keep, stop_at_layer=stop)
        return self._last_run[1]

    def _last_output(self) -> str:
        """What leaves the last block."""
        return f"h.{self.config.n_layer - 1}.resid_post"
