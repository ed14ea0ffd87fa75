"""The decoding loop: run the prompt, choose a token, run that token, choose the next.

Room for prompt and response is planned before the first pass; every pass writes its rows behind the earlier
ones, into one trace, and attention reads the keys and values of the past from the cache beside it. Without
`keep`, the same loop runs with the cache alone. Several prompts run packed; a finished one leaves the batch.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, cast

import numpy as np

from gpt2np.errors import InputError, short
from gpt2np.generation.beam import Beams, BeamSearch
from gpt2np.generation.generated import Token
from gpt2np.generation.options import Options
from gpt2np.generation.prompt_row import Row, decoded, result_of, started, with_memory
from gpt2np.generation.sampling import LedgerEntry, choose
from gpt2np.generation.stopping import before_stop, may_begin_stop
from gpt2np.html_tables import text_block
from gpt2np.ops import Array
from gpt2np.tables import counted
from gpt2np.text.prompts import Prompt, numbered, window_of
from gpt2np.tracing.cache import Cache
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.recording import Recording
from gpt2np.tracing.resume import fill
from gpt2np.tracing.step import Step

if TYPE_CHECKING:
    from gpt2np.model import Model

_Finished = TypeVar("_Finished")  # a Generated, or for several prompts a list of them
LONGEST_NGRAM = 3  # prompt lookup: how many of the last tokens must have stood in the text before


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
        rows: list[Row] = []
        for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            with numbered(i + 1, len(prompts)):
                rows.append(started(model, options, i, prompt, seed))
        self._rows = with_memory(rows, model, options)
        self._tokens = _Loop(model, options, self._rows, several).tokens()

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
        finished = [result_of(row, self.model, self.options) for row in self._rows]
        return cast(_Finished, finished if self._several else finished[0])


class _Loop:
    """What chooses the tokens, and does not know the generation that holds it.

    If it did, the two would hold each other, and so the memory of a generation that is left half-way.
    """

    def __init__(self, model: "Model", options: Options, rows: list[Row], several: bool) -> None:
        self.model, self.options, self._rows, self._several = model, options, rows, several

    def tokens(self) -> Iterator[Token]:
        """The tokens of all prompts, as they are chosen."""
        return self._beam_search() if self.options.sampling.num_beams > 1 else self._decode()

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
            row.held += decoded(row.stream, token_id)
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
