"""A finished generation, and views of it: whole, by phase, by step, in HF's shapes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpt2np.errors import TraceError
from gpt2np.generation.beam import Beams
from gpt2np.generation.filters import Penalized, penalized, penalties, probabilities, warpers
from gpt2np.generation.options import Sampling
from gpt2np.generation.sampling import LedgerEntry
from gpt2np.html_tables import heat_table, shaded_text, text_block
from gpt2np.ops import Array
from gpt2np.tables import counted
from gpt2np.tracing.cache import first_kept
from gpt2np.tracing.derived import log_probabilities
from gpt2np.tracing.trace import Trace


@dataclass(frozen=True)
class Token:
    """One chosen token, as a generation yields it.

    `text` is what it adds to the text: whole characters only, so a token that ends inside a character, or
    that may begin a stop string, adds nothing yet and a later one adds more.
    """

    text: str
    id: int
    probability: float  # in the distribution that it was chosen from
    step: int  # 0 for the first chosen token
    prompt: int = 0  # index of the prompt that it continues
    ledger: LedgerEntry | None = None

    def __repr__(self) -> str:
        return f"<Token {self.text!r}: id {self.id}, probability {self.probability:.4g}, step {self.step}>"


@dataclass(frozen=True)
class Rows:
    """Some positions of a generation: its prompt, its response, or one step.

    `rows["h.3.attn.pattern"]` is what the trace recorded there: [head, query, key] with these positions as
    queries and every key up to the last of them.
    """

    trace: Trace | None
    positions: range
    text: str
    token_ids: list[int]
    tokens: list[str]

    def __repr__(self) -> str:
        return f"<Rows of {counted(len(self.token_ids), 'token')}: {_cut(self.text)}>"

    def _ipython_key_completions_(self) -> list[str]:
        """What Tab offers after `rows[`."""
        return [] if self.trace is None else self.trace._ipython_key_completions_()

    def __getitem__(self, key: str | tuple[str, int]) -> Array:
        """The rows of a site, a view of the trace: those of these positions that were kept."""
        trace = _kept(self.trace)
        array, kept = trace[key], trace.positions
        ends = (self.positions.start, self.positions.stop)
        rows = slice(*(len(range(kept.start, end, kept.step)) for end in ends))
        return array[:, rows, : self.positions.stop] if _is_pattern(trace, key) else array[rows]


@dataclass(frozen=True)
class Step(Rows):
    """The pass that chose one token: step 0 runs the prompt, every later one the token chosen before."""

    token_id: int = 0  # the chosen one
    token: str = ""
    probability: float = 0.0
    ledger: LedgerEntry | None = None
    sampling: Sampling = field(default_factory=Sampling)
    context: Sequence[int] = ()
    prompt_length: int = 0

    def __repr__(self) -> str:
        step = len(self.context) - self.prompt_length
        return f"<Step {step}: {_cut(self.text)} -> {self.token!r}, probability {self.probability:.4g}>"

    def _repr_html_(self) -> str:
        """The tokens that it was chosen from, the likeliest first, where the logits were kept."""
        try:
            chances = self.distribution
        except TraceError:
            return text_block(repr(self))
        ids = np.argsort(-chances, kind="stable")[:10].tolist()
        names = [_kept(self.trace).token(i) + (" (chosen)" if i == self.token_id else "") for i in ids]
        return heat_table(chances[ids][:, None], names, ["probability"], repr(self).strip("<>"), most=1.0)

    @property
    def distribution(self) -> NDArray[np.float64]:
        """What the token was chosen from, after penalties and filters: probabilities [vocab].

        Raises:
            TraceError: the logits, or this position of them, were not kept.
        """
        logits, context = self._logits(), np.asarray(self.context)
        for _, apply in penalties(self.sampling, context, self.prompt_length) + warpers(self.sampling):
            logits = apply(logits)
        return probabilities(logits)

    @property
    def penalized(self) -> list[Penalized]:
        """Which logits the penalties changed, and by how much; in a beam search, which log-probabilities.

        One for each penalty that is on, in order. What the other options remove is in the ledger.

        Raises:
            TraceError: the logits, or this position of them, were not kept.
        """
        logits = self._logits()
        if self.sampling.num_beams > 1:
            logits = log_probabilities(logits.astype(np.float64)).astype(np.float32)
        return penalized(logits, self.sampling, np.asarray(self.context), self.prompt_length)

    def _logits(self) -> NDArray[np.float32]:
        """The logits that this step chose from, in the precision in which it chose."""
        if self.positions[-1] not in _kept(self.trace).positions:
            raise TraceError(f"position {self.positions[-1]}, which this step chose from, was not kept")
        logits: NDArray[np.float32] = self["logits"][-1].astype(np.float32)
        return logits


@dataclass(frozen=True)
class Generated:
    """A finished generation: prompt, response, trace and steps.

    `token_ids`, `tokens` and `text` are those of prompt and response together; `text` leaves out a final
    end-of-text token and a stop string. `trace` has one position less than `token_ids`, since the last token
    was chosen and never fed; it is None unless `keep` was given.
    """

    token_ids: list[int]
    tokens: list[str]
    text: str
    stopped_by: str  # "eos", "stop", "length" or "interrupt"
    trace: Trace | None
    n_prompt: int
    prompt_text: str
    probabilities: list[float]  # of each chosen token; NaN after beam search, which chooses whole texts
    ledger: list[LedgerEntry]  # empty unless asked for
    sampling: Sampling
    beams: Beams | None = None  # of a beam search: every step, and the texts that lost; no file keeps them

    @property
    def prompt(self) -> Rows:
        """The prompt's positions."""
        return self._rows(range(0, self.n_prompt), self.prompt_text, slice(0, self.n_prompt))

    @property
    def response(self) -> Rows:
        """The chosen tokens; the last one has no position, because it was not fed."""
        text = self.text.removeprefix(self.prompt_text)
        return self._rows(
            range(self.n_prompt, len(self.token_ids) - 1), text, slice(self.n_prompt, len(self.token_ids))
        )

    @property
    def sequences(self) -> NDArray[np.int64]:
        """HF's `sequences`: the ids of prompt and response, [1, pos]."""
        return np.array([self.token_ids], np.int64)

    def _rows(self, positions: range, text: str, ids: slice) -> Rows:
        return Rows(self.trace, positions, text, self.token_ids[ids], self.tokens[ids])

    @cached_property
    def steps(self) -> list[Step]:
        """One for each chosen token: the rows that were computed to choose it, and the choice."""
        steps = []
        for i, probability in enumerate(self.probabilities):
            n = self.n_prompt + i  # tokens before the chosen one
            start = n - 1 if i else 0
            steps.append(
                Step(
                    self.trace,
                    range(start, n),
                    "".join(self.tokens[start:n]),
                    self.token_ids[start:n],
                    self.tokens[start:n],
                    self.token_ids[n],
                    self.tokens[n],
                    probability,
                    self.ledger[i] if self.ledger else None,
                    self.sampling,
                    self.token_ids[:n],
                    self.n_prompt,
                )
            )
        return steps

    @cached_property
    def attentions(self) -> tuple[tuple[Array, ...], ...]:
        """HF's `attentions[step][layer]`: [1, head, query, key]; the keys are those that its cache keeps."""
        layers = [self._site(f"h.{i}.attn.pattern") for i in range(self._n_layer)]
        config = _kept(self.trace).config

        def of_step(start: int, stop: int) -> tuple[Array, ...]:
            firsts = (first_kept(config, i, start) for i in range(config.n_layer))
            pairs = zip(layers, firsts, strict=True)
            return tuple(pattern[None, :, start:stop, first:stop] for pattern, first in pairs)

        return tuple(of_step(s.positions.start, s.positions.stop) for s in self.steps)

    @cached_property
    def hidden_states(self) -> tuple[tuple[Array, ...], ...]:
        """HF's `hidden_states[step][layer]`: [1, pos, n_embd]; the embedding first, the last after ln_f."""
        names = ["embed", *(f"h.{i}.resid_post" for i in range(self._n_layer - 1)), "ln_f"]
        layers = [self._site(name) for name in names]
        return tuple(
            tuple(array[None, s.positions.start : s.positions.stop] for array in layers) for s in self.steps
        )

    @cached_property
    def past_key_values(self) -> tuple[tuple[Array, Array], ...]:
        """HF's `past_key_values[layer] = (k, v)`: [1, head, pos, d_head] each.

        Where HF's cache of a layer with a window keeps the last rows only (Gemma-2), so do these; `trace` has
        all of them.
        """
        config = _kept(self.trace).config

        def of_layer(i: int) -> tuple[Array, Array]:
            keys, values = (self._site(f"h.{i}.{name}") for name in config.architecture.cache)
            rows = slice(first_kept(config, i, len(keys)), None)
            return keys[rows].swapaxes(0, 1)[None], values[rows].swapaxes(0, 1)[None]

        return tuple(of_layer(i) for i in range(config.n_layer))

    def _site(self, name: str) -> Array:
        trace = _kept(self.trace)
        if len(trace.positions) < len(trace.token_ids):
            raise TraceError("HF's shapes need every position: keep them all")
        return trace[name]

    @property
    def _n_layer(self) -> int:
        return _kept(self.trace).config.n_layer

    def __repr__(self) -> str:
        chosen = counted(len(self.probabilities), "token")
        return f"<Generated {_cut(self.text, 200)}: {chosen}, stopped by {self.stopped_by}>"

    def _repr_html_(self) -> str:
        """The text, with each chosen token coloured by its probability."""
        values = [float("nan")] * self.n_prompt + self.probabilities
        title = f"{counted(len(self.probabilities), 'token')} generated, stopped by {self.stopped_by}"
        return shaded_text(self.tokens, values, title, "probability of each chosen token", most=1.0)


def _cut(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else "..." + text[-most:])


def _kept(trace: Trace | None) -> Trace:
    if trace is None:
        raise TraceError("nothing was recorded: generate(..., keep='*')")
    return trace


def _is_pattern(trace: Trace, key: str | tuple[str, int]) -> bool:
    name, layer = key if isinstance(key, tuple) else (key, None)
    config = trace.config
    return config.architecture.sites.resolve(name, layer, config.n_layer)[0].quadratic
