"""The decoding loop: run the prompt, choose a token, run that token, choose the next.

Room for prompt and response is planned before the first pass; every pass writes its rows behind the earlier
ones, into one trace, and attention reads the keys and values of the past from the cache beside it. Without
`keep`, the same loop runs with the cache alone. Several prompts run packed; a finished one leaves the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gpt2np.errors import InputError, short
from gpt2np.generation.beam import Beams, BeamSearch
from gpt2np.generation.generated import Generated, Token
from gpt2np.generation.options import Options
from gpt2np.generation.sampling import LedgerEntry, choose, draws
from gpt2np.generation.saved_generation import generation_metadata
from gpt2np.generation.stopping import before_stop, may_begin_stop
from gpt2np.html_tables import text_block
from gpt2np.ops import Array
from gpt2np.tables import counted
from gpt2np.text.prompts import Prompt, numbered, window_of
from gpt2np.text.tokenizer import TextStream
from gpt2np.tracing.cache import Cache
from gpt2np.tracing.edits import facts
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.recording import Recording, arena, with_bases
from gpt2np.tracing.resume import fill, keep_from, known_positions
from gpt2np.tracing.step import Step
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_metadata import run_metadata

if TYPE_CHECKING:
    from gpt2np.model import Model

_Finished = TypeVar("_Finished")  # a Generated, or for several prompts a list of them
LONGEST_NGRAM = 3  # prompt lookup: how many of the last tokens must have stood in the text before


@dataclass
class Row:
    """One prompt on its way: the text so far, what is recorded of it, and why it stopped."""

    index: int
    ids: NDArray[np.int64]  # prompt and response, with room for all of it
    n_prompt: int
    n: int  # how many of ids are there
    recording: Recording
    plan: Plan | None  # what will be in the trace
    draws: Iterator[float]
    prompt_text: str
    stream: TextStream | None
    past: int = 0  # positions already run
    held: str = ""  # text that may turn out to begin a stop string
    text: str = ""  # the response so far
    stopped_by: str | None = None
    probabilities: list[float] = field(default_factory=list)
    ledger: list[LedgerEntry] = field(default_factory=list)
    beams: Beams | None = None

    @property
    def context(self) -> NDArray[np.int64]:
        """The text so far, as ids."""
        return self.ids[: self.n]

    @property
    def whole_text(self) -> str:
        """Prompt and response so far."""
        return self.prompt_text + self.text + self.held


class Generation(Generic[_Finished]):
    """Tokens as they are chosen: iterate for them one by one, `finish()` for the whole result.

    Make one with `Model.generate`.
    """

    def __init__(
        self,
        model: "Model",
        prompts: Sequence[Prompt],
        several: bool,
        seeds: Sequence[int | None],
        options: Options,
    ) -> None:
        options.check()
        self.model, self.options, self._several = model, options, several
        self._rows: list[Row] = []
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            with numbered(i + 1, len(prompts)):
                self._rows.append(self._row(i, prompt, seed))
        self._tokens = self._beam_search() if options.sampling.num_beams > 1 else self._decode()

    def __iter__(self) -> Iterator[Token]:
        """The generation itself: each token is yielded once."""
        return self

    def __next__(self) -> Token:
        """The next token; with several prompts, the next of any of them."""
        return next(self._tokens)

    def __repr__(self) -> str:
        done = sum(row.stopped_by is not None for row in self._rows)
        chosen = sum(row.n - row.n_prompt for row in self._rows)
        of = f"{counted(len(self._rows), 'prompt')}, {done} done"
        most = self.options.max_new_tokens * len(self._rows)
        return f"<Generation of {of}: {chosen} of at most {most} tokens; finish() chooses the rest>"

    def _repr_html_(self) -> str:
        """The text of each prompt as far as it is."""
        texts = (f"{row.index}: {row.whole_text}" for row in self._rows)
        return text_block("\n".join([repr(self), *map(short, texts)]))

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a generation that runs can be neither pickled nor copied: finish() it, and pickle the result"
        )

    def stop(self) -> None:
        """Choose no more tokens: `finish()` then returns what there is."""
        for row in self._rows:
            if row.stopped_by is None:
                row.stopped_by = "interrupt"
                row.held += "" if row.stream is None else row.stream.finish()
        self._tokens = iter(())

    @property
    def prompt_texts(self) -> list[str]:
        """The text of each prompt."""
        return [row.prompt_text for row in self._rows]

    def finish(self) -> _Finished:
        """Choose all remaining tokens; a `Generated`, or for several prompts a list of them."""
        for _ in self:
            pass
        finished = [self._generated(row) for row in self._rows]
        return cast(_Finished, finished if self._several else finished[0])

    # -- setting up -------------------------------------------------------------------------------

    def _row(self, index: int, prompt: Prompt, seed: int | None) -> Row:
        model, o = self.model, self.options
        config = model.config
        ids = model.token_ids(prompt, limit=not o.slide, special=o.special)
        n_positions = len(ids) + o.max_new_tokens - 1
        if n_positions > config.n_positions and not o.slide:
            raise InputError(
                f"{counted(len(ids), 'prompt token')} and {counted(o.max_new_tokens, 'new one')} take "
                f"{n_positions} positions (the last token is not run); the "
                f"context of this model holds {config.n_positions} (on_overflow='slide' continues anyway)"
            )
        if n_positions > config.n_positions and o.keep is not None:
            raise InputError(
                f"a trace of {n_positions} positions does not fit into the context of {config.n_positions}"
            )
        capacity = min(n_positions, config.n_positions)
        if isinstance(o.past, Trace):
            o.past.check_model(model, "past")
        past = 0 if o.past is None else known_positions(o.past, ids)
        plan = None if o.keep is None else Plan(config, capacity, keep_from(o.keep, past), model.dtype.name)
        wide = Plan(config, capacity, Keep(names=frozenset()), model.dtype.name)
        if plan is not None:
            wide = with_bases(plan) or plan
        tokenizer = model.tokenizer if isinstance(prompt, str) else model.usable_tokenizer
        stream = None if tokenizer is None else TextStream(tokenizer)
        text = "".join(_decoded(stream, i) for i in ids)
        if isinstance(prompt, str):
            text = prompt
            if stream is not None:
                stream.finish()  # ids may end inside a character, which the response completes; a text not
        room = np.zeros(len(ids) + o.max_new_tokens, np.int64)
        room[: len(ids)] = ids
        recording = Recording(wide, arena(wide), Cache(config, capacity, model.dtype))
        if o.past is not None:
            fill(recording, o.past, past)
        return Row(index, room, len(ids), len(ids), recording, plan, draws(seed), text, stream, past)

    # -- decoding ---------------------------------------------------------------------------------

    def _decode(self) -> Iterator[Token]:
        """Greedy decoding or sampling, all prompts at once."""
        step: Step | None = None
        active = list(self._rows)
        while active:
            guesses = [self._guess(row) for row in active]
            sequences = [self._next(row, guess) for row, guess in zip(active, guesses, strict=True)]
            every_row = any(guesses) or "logits" in active[0].recording.arrays
            step = self._steps(step, sequences, last_only=not every_row)
            result = self.model.run_pass(step.run, step)
            for i, (row, sequence, guess) in enumerate(zip(active, sequences, guesses, strict=True)):
                rows = result[sequence.rows] if every_row else result[i : i + 1]
                yield from self._choose(row, rows, guess)
            active = [row for row in active if row.stopped_by is None]

    def _steps(self, before: Step | None, sequences: list[PackedSequence], last_only: bool) -> Step:
        """The steps of a pass; they go on from those of the pass before it."""
        if before is not None:
            return before.go_on(sequences, last_only)
        return Step(Pass(self.model.config, self.model.dtype, sequences, last_only=last_only))

    def _next(self, row: Row, guess: list[int]) -> PackedSequence:
        """The tokens that have not been run yet, with guesses behind them."""
        limit = self.model.config.n_positions
        if row.n > limit:  # slide: the window has moved, so nothing recorded fits any more
            tokenizer = self.model.usable_tokenizer
            begin = None if tokenizer is None else tokenizer.begin_id
            return self._sequence(row, window_of(row.ids, row.n - limit, row.n, begin), row.n - limit)
        new = row.ids[row.past : row.n]
        if guess:
            new = np.concatenate([new, np.array(guess, np.int64)])
        return self._sequence(row, new, row.past, row.past, row.recording)

    def _sequence(
        self, row: Row, ids: Array, at: int, past: int = 0, recording: Recording | None = None
    ) -> PackedSequence:
        """Tokens to be run, of which the first stands at `at` in the text."""
        return PackedSequence(ids, past, recording, self.options.edits, at - row.n_prompt + 1)

    def _choose(self, row: Row, logits: Array, guess: list[int]) -> Iterator[Token]:
        """Choose the next token, and as many more as were guessed right."""
        o = self.options
        row.past = min(row.n, self.model.config.n_positions)
        logits = logits[len(logits) - len(guess) - 1 :]
        for i, scores in enumerate(logits):
            uniform = next(row.draws) if o.sampling.temperature > 0 else None
            try:
                choice = choose(
                    scores,
                    o.sampling,
                    context=row.context,
                    prompt_length=row.n_prompt,
                    uniform=uniform,
                    ledger=o.ledger,
                )
            except InputError as error:
                raise InputError(f"prompt {row.index}: {error}" if self._several else str(error)) from None
            yield self._append(row, choice.token_id, choice.probability, choice.ledger)
            if row.stopped_by is not None or i == len(guess) or guess[i] != choice.token_id:
                return
            row.past += 1  # the guess was right, and so is what was computed for it

    def _guess(self, row: Row) -> list[int]:
        """Prompt lookup: what followed the last occurrence of the text's last tokens (Saxena 2023)."""
        room = len(row.ids) - row.n - 1
        ids = row.context
        for size in range(min(LONGEST_NGRAM, len(ids) - 1), 0, -1) if self.options.lookup else ():
            earlier = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
            found = np.flatnonzero((earlier == ids[-size:]).all(axis=1))
            if len(found) and row.n + self.options.lookup <= self.model.config.n_positions:
                start = int(found[-1]) + size
                return [int(i) for i in ids[start : start + min(self.options.lookup, room)]]
        return []

    def _append(self, row: Row, token_id: int, probability: float, ledger: LedgerEntry | None) -> Token:
        """Add a chosen token to the text, and see whether it ends it."""
        o = self.options
        row.ids[row.n] = token_id
        row.n += 1
        step = row.n - row.n_prompt - 1
        row.probabilities.append(probability)
        if ledger is not None:
            row.ledger.append(ledger)
        if token_id in o.stop_ids:
            row.stopped_by = "eos"
        else:
            row.held += _decoded(row.stream, token_id)
            if row.n == len(row.ids):
                row.stopped_by = "length"
        if row.stopped_by and row.stream is not None:
            row.held += row.stream.finish()
        if (before := before_stop(row.held, o.stop)) is not None:
            row.held, row.stopped_by = before, "stop"
        kept = 0 if row.stopped_by else may_begin_stop(row.held, o.stop)
        text, row.held = row.held[: len(row.held) - kept], row.held[len(row.held) - kept :]
        row.text += text
        return Token(text, token_id, probability, step, row.index, ledger)

    def _beam_search(self) -> Iterator[Token]:
        """Beam search, prompt by prompt; its tokens are known only when it is done."""
        o, model = self.options, self.model
        for row in self._rows:
            search = BeamSearch(
                row.context, o.sampling, max_new_tokens=o.max_new_tokens, eos=sorted(o.stop_ids)
            )
            plan = Plan(model.config, row.recording.plan.length, Keep(names=frozenset()), model.dtype.name)
            step: Step | None = None
            past = row.past
            caches = [Recording(plan, {}, Cache(model.config, plan.length, model.dtype))]
            if o.past is not None:
                fill(caches[0], o.past, past)
            while not search.done:
                new = [np.array(beam[past:]) for beam in search.beams]
                sequences = [self._sequence(row, n, past, past, c) for n, c in zip(new, caches, strict=True)]
                step = self._steps(step, sequences, last_only=True)
                logits = model.run_pass(step.run, step)
                past += len(new[0])
                parents, _ = search.step(logits)
                caches = _continued(caches, parents.tolist(), past)
            best = search.hypotheses[0].token_ids
            row.beams = Beams(tuple(search.steps), tuple(search.hypotheses))
            if row.plan is not None:  # the winner again, in one pass, recorded
                sequence = self._sequence(
                    row, np.array(best[row.past : -1]), row.past, row.past, row.recording
                )
                model.run_pass(Pass(model.config, model.dtype, [sequence]))
                row.past = len(best) - 1
            for token_id in best[row.n_prompt :]:
                yield self._append(row, token_id, float("nan"), None)
            row.stopped_by = row.stopped_by or "length"

    # -- the result -------------------------------------------------------------------------------

    def _generated(self, row: Row) -> Generated:
        ids = row.context.tolist()
        tokens = self.model.tokens(ids)
        return Generated(
            token_ids=ids,
            tokens=tokens,
            text=row.whole_text,
            stopped_by=row.stopped_by or "interrupt",
            trace=self._trace(row, tokens) if row.plan is not None and row.n > row.n_prompt else None,
            n_prompt=row.n_prompt,
            prompt_text=row.prompt_text,
            probabilities=row.probabilities,
            ledger=row.ledger,
            sampling=self.options.sampling,
            beams=row.beams,
        )

    def _trace(self, row: Row, tokens: list[str]) -> Trace:
        """The recorded rows as a trace of the true length: views, unless most of the room was left over."""
        assert row.plan is not None
        *ids, last = row.context.tolist()
        model, wide = self.model, row.recording.plan

        def cut(plan: Plan) -> Plan:
            return Plan(plan.config, len(ids), plan.keep, plan.dtype.name)

        arrays = {}
        for entry in cut(wide).entries:
            array = row.recording.arrays[entry.name]
            arrays[entry.name] = array[tuple(slice(n) for n in entry.shape)]
        if cut(wide).nbytes < wide.nbytes / 2:
            small = arena(cut(wide))
            for name, array in small.items():
                array[...] = arrays[name]
            arrays = small
        metadata = run_metadata(
            cut(row.plan),
            ids,
            tokens[:-1],
            prompt=row.prompt_text,
            n_prompt=row.n_prompt,
            generation=generation_metadata(
                (last, tokens[-1]),
                row.whole_text,
                row.stopped_by or "interrupt",
                row.probabilities,
                self.options.sampling,
            ),
            **model.origin(),
            **facts(self.options.edits),
        )
        trace = Trace(cut(wide), arrays, ids, metadata, model)
        if wide is row.plan:
            return trace
        plan = cut(row.plan)
        kept = Recording(plan, arena(plan))  # derived sites are stored in a second step
        kept.copy(trace)
        return Trace(plan, kept.arrays, ids, metadata, model)


def _decoded(stream: TextStream | None, token_id: int) -> str:
    """What a token adds to the text: `<464>` where the model has no vocabulary."""
    return f"<{token_id}>" if stream is None else stream.push(token_id)


def _continued(caches: list[Recording], parents: list[int], length: int) -> list[Recording]:
    """The cache of each new beam: its parent's, or a copy where the parent has several children."""
    free = dict(enumerate(caches))
    result = []
    for parent in parents:
        cache = free.pop(parent, None)
        if cache is None:
            parent_cache = caches[parent].cache
            assert parent_cache is not None
            cache = Recording(caches[parent].plan, {}, parent_cache.copy(length))
        result.append(cache)
    return result
