"""Model: a checkpoint that can be run, traced and planned."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from gpt2np.checkpoints.checkpoint import Checkpoint
from gpt2np.checkpoints.weights import Weights, with_weights
from gpt2np.errors import InputError, short, whole_number
from gpt2np.generation.hf_arguments import OF_A_CALL, OF_GENERATE, answers
from gpt2np.html_tables import plain_table
from gpt2np.ops import Array
from gpt2np.ops.readable_parameters import holds_narrow, readable
from gpt2np.text.prompts import Encoded, Prompt, Prompts, as_prompts, ids_of_each
from gpt2np.text.texts_of_model import TextsOfModel
from gpt2np.threads import checked, is_small, using
from gpt2np.tracing.edits import EditsLike, compiled
from gpt2np.tracing.keep import Keep, KeepLike
from gpt2np.tracing.not_finite import not_finite
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.resume import Past
from gpt2np.tracing.step import Step
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.traced_run import Prompted, TraceOptions, traced_run

if TYPE_CHECKING:  # what only some calls need is imported when they are made: starting fast is a feature
    from gpt2np.capture.capture_plan import CaptureOptions
    from gpt2np.capture.many import CaptureDone
    from gpt2np.capture.workers import Submits
    from gpt2np.generation.decoding import Generation
    from gpt2np.generation.generated import Generated
    from gpt2np.generation.options import EndOfText, GenerateOptions, Ledger, OnOverflow, SamplingOptions
    from gpt2np.generation.scoring import Score


class Model(TextsOfModel):
    """A model ready to run; make one with `gpt2np.load`.

    Example:
        >>> model = load("tiny")
        >>> model("Elizabeth was").shape  # [pos, vocab]
        (3, 2048)
    """

    def __init__(self, checkpoint: Checkpoint, dtype: str = "float32", threads: int | None = None) -> None:
        self.checkpoint, self.dtype, self.threads = checkpoint, np.dtype(dtype), checked(threads)
        self.config, self.name = checkpoint.config, checkpoint.name
        self._weights = Weights(checkpoint.weights, checkpoint.watched)
        self._parameters = self.config.architecture.parameters(self.weights.held, self.config)
        self._narrow, self._small = holds_narrow(self._parameters), is_small(self.config)

    @property
    def parameters(self) -> Any:
        """The weights as NamedTuples (`weights.py` of the architecture), in the form that `forward` reads.

        Those that are held as bfloat16 or float16 become float32 one by one, when they are looked at.
        """
        self.checkpoint.check_unchanged()
        return readable(self._parameters) if self._narrow else self._parameters

    @property
    def weights(self) -> Weights:
        """The weights under their names in the checkpoint, read-only (see `with_weights`)."""
        return self._weights

    @weights.setter
    def weights(self, value: object) -> None:
        self._weights.update(value)  # which refuses

    def with_weights(self, weights: Mapping[str, ArrayLike]) -> Model:
        """Return a model that has these weights in place of its own and shares all others.

        `lm_head.weight` unties the unembedding; without it, that stays what it is.

        Raises:
            InputError: a name, shape or type that does not fit, or values that are not finite.
        """
        model = Model(with_weights(self.checkpoint, weights, self.dtype), self.dtype.name, self.threads)
        vars(model).update({key: value for key, value in vars(self).items() if key == "tokenizer"})
        return model

    @functools.cached_property
    def n_parameters(self) -> int:
        """Number of parameters; a tied unembedding counts once."""
        return sum(weight.size for weight in self.weights.held.values())

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<Model {self.name}: {c.n_layer} layers, {c.n_head} heads, n_embd {c.n_embd}, "
            f"{self.n_parameters:,} parameters, {self.weights.precision(self.dtype)}>"
        )

    def _repr_html_(self) -> str:
        """The model's numbers."""
        sizes = {name: f"{size:,}" for name, size in self.config.dims.items()}
        facts = {"layers": str(self.config.n_layer), **sizes, "context": f"{self.config.n_positions:,}"}
        facts |= {"parameters": f"{self.n_parameters:,}", "precision": self.weights.precision(self.dtype)}
        return plain_table([["", ""], *map(list, facts.items())], f"Model {self.name}")

    # -- running ----------------------------------------------------------------------------------

    @answers(OF_A_CALL)
    def __call__(
        self, prompt: Prompt, *, last: bool = False, special: bool = False, edits: EditsLike | None = None
    ) -> Array:
        """Return the logits of every position [pos, vocab], or with `last` of the last one only [vocab].

        `special` is that of `token_ids`. `edits` replace what steps compute, as in `trace`.

        Raises:
            InputError: the prompt is empty, too long, or holds ids outside the vocabulary.
        """
        ids = self.token_ids(prompt, special=special)
        changes = compiled(edits, self.config)
        if changes is not None:
            changes.check_positions(len(ids))
        sequence = PackedSequence(np.array(ids), edits=changes)
        logits = self.run_pass(Pass(self.config, self.dtype, [sequence], last_only=last))
        return logits[0] if last else logits

    @overload
    def trace(  # type: ignore[overload-overlap]  # a text is an iterable of texts, too, and taken as one
        self, prompt: Prompt, **options: Unpack[TraceOptions]
    ) -> Trace: ...
    @overload
    def trace(self, prompt: Encoded, **options: Unpack[TraceOptions]) -> Any: ...
    @overload
    def trace(self, prompt: Prompts, **options: Unpack[TraceOptions]) -> list[Trace]: ...
    @answers(OF_A_CALL)
    def trace(
        self,
        prompt: Prompt | Encoded | Prompts,
        *,
        keep: KeepLike | Keep = "*",
        out: str | os.PathLike[str] | None = None,
        stop_at_layer: int | None = None,
        timings: bool = False,
        special: bool = False,
        edits: EditsLike | None = None,
    ) -> Trace | list[Trace]:
        """Run a prompt and record the sites that `keep` selects; several prompts give a list of traces.

        `keep` is a shell-style pattern on site names (`"attn.*"`, `"h.3.*"`), a list of patterns, a predicate
        on the name, or `{"patterns": ..., "positions": slice, "dtype": "float16"}`. `out` names a
        `.safetensors` file that the run writes into directly, over one that is there; for several prompts a
        folder with one file each, `000000.safetensors` and so on, and an index. `stop_at_layer=3` runs
        blocks 0, 1 and 2 only. With `timings`, `trace.timings` has the seconds of each step. `special` is
        that of `token_ids`. Several prompts run packed: as one pass in which they do not see each other, and
        into one block of memory, freed with the last of their traces. `edits` map names or patterns of sites
        to functions that replace what was computed there, before it is recorded (`tracing.edits.Edits`;
        `analysis.interventions` has ready-made ones).

        Raises:
            InputError: a prompt is empty, too long, or holds ids outside the vocabulary; `out` is read.
            UnknownSiteError: `keep` or `edits` names no site.
            TraceError: `out` cannot be written, or is a folder with the traces of another run.
        """
        prompts, several = as_prompts(prompt)
        stop_at_layer = self._stop(stop_at_layer)
        keep, changes = Keep.parse(keep), compiled(edits, self.config)
        all_ids = ids_of_each(prompts, lambda p: self.token_ids(p, special=special))
        plan_of = {
            n: Plan(self.config, n, keep, self.dtype.name, stop_at_layer) for n in {*map(len, all_ids)}
        }
        runs = [
            Prompted(p if isinstance(p, str) else None, ids, plan_of[len(ids)])
            for p, ids in zip(prompts, all_ids, strict=True)
        ]
        traces = traced_run(self, runs, changes, {} if timings else None, out, several)
        return traces if several else traces[0]

    def capture(
        self,
        texts: Prompts | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        keep: KeepLike | Keep = "resid_post",
        positions: str | slice = "all",
        store: str = "float16",
        workers: int | None = None,
        executor: Submits | None = None,
        force: bool = False,
        **options: Unpack[CaptureOptions],
    ) -> CaptureDone:
        """Run many prompts, and write the sites that `keep` selects into a folder of shards.

        `texts` is a list of texts or of lists of ids, or the `Path` of a file of them. `keep` is as in
        `trace`; `positions` are `first`, `last`, `all`, `A:B:C` or a slice, of each prompt; `store` is the
        precision in the files. `workers` processes share the work, as many as cores if that is not given; or
        `executor` runs it: anything with `submit`, such as a `distributed.Client`. A capture that was
        interrupted goes on when it is called again. Other options are `window` (texts are cut into windows of
        so many tokens), `special` (as in `token_ids`), `chat` (each text is a user's message, put into the
        model's turns), `skip_bad` (leave out prompts that are empty or too long), `shard_bytes` (256 MB at
        most, and less where the capture is short, so that all workers have work), `pack_tokens` and `share`
        (whether prompts share the beginnings they have in common).

        Raises:
            InputError: a prompt is empty or too long, an option is malformed, the folder has something else
                in it, or the disk has too little room, which `force` passes over.
            UnknownSiteError: `keep` names no site.
            TraceError: a shard cannot be written.
        """
        from gpt2np.capture.capture_plan import CaptureOptions, plan_capture
        from gpt2np.capture.many import capture_many

        if unknown := sorted(options.keys() - CaptureOptions.__annotations__.keys()):
            raise TypeError(f"Model.capture() got an unexpected keyword argument {unknown[0]!r}")
        plan = plan_capture(self, texts, keep=keep, positions=positions, store=store, **options)
        return capture_many(plan, folder, workers=workers, executor=executor, force=force)

    def plan(
        self,
        prompt: int | Prompt,
        *,
        keep: KeepLike | Keep = "*",
        stop_at_layer: int | None = None,
        generating: bool = False,
        special: bool = False,
    ) -> Plan:
        """Return the byte plan of a trace before it runs, for a number of tokens or for a prompt.

        With `generating`, the plan also says what the cache of a generation of so many positions takes;
        `special` is that of `token_ids`.

        Raises:
            InputError: more tokens than the context holds, or fewer than one.
        """
        if not isinstance(prompt, int | np.integer):
            prompt = len(self.token_ids(prompt, special=special))
        n = int(prompt)
        if not 1 <= n <= self.config.n_positions:
            raise InputError(
                f"{short(n)} tokens: the context of this model holds 1 to {self.config.n_positions}"
            )
        return Plan(self.config, n, keep, self.dtype.name, self._stop(stop_at_layer), generating)

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, **options: Unpack[GenerateOptions]
    ) -> Generation[Generated]: ...
    @overload
    def generate(self, prompt: Encoded, **options: Unpack[GenerateOptions]) -> Generation[Any]: ...
    @overload
    def generate(
        self, prompt: Prompts, **options: Unpack[GenerateOptions]
    ) -> Generation[list[Generated]]: ...
    @answers(OF_GENERATE)
    def generate(
        self,
        prompt: Prompt | Encoded | Prompts,
        *,
        max_new_tokens: int = 50,
        seed: int | Sequence[int | None] | None = None,
        eos: EndOfText = "config",
        stop: str | Sequence[str] = (),
        stop_tokens: Sequence[int] = (),
        keep: KeepLike | Keep | None = None,
        ledger: Ledger = False,
        lookup: int = 0,
        on_overflow: OnOverflow = "refuse",
        past: Past | None = None,
        special: bool = False,
        edits: EditsLike | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation[Any]:
        """Continue a prompt, or several: an iterator of tokens, with `finish()` for the whole result.

        Greedy unless `temperature` is above 0; the other options of choosing are `top_k`, `top_p`, `min_p`,
        `repetition_penalty`, `presence_penalty`, `frequency_penalty`, `no_repeat_ngram_size`, `num_beams`,
        `length_penalty` and `early_stopping`, as `generation.options.Sampling` explains. It stops after
        `max_new_tokens`, at the checkpoint's end-of-text tokens (`eos=None`: not, or another id), at one of
        `stop_tokens`, or before one of the strings `stop`. `keep` records a trace, as in `trace`. `ledger`
        explains every choice ("full": with the raw logits). `lookup=N` guesses up to N tokens ahead from
        repetitions in the text: faster, and the same wherever the winning margin is outside float32 noise.
        `on_overflow="slide"` goes on past the context by running the last `n_positions` tokens anew for every
        token, from position 0. An integer `seed` is used by every prompt as if it were alone; a list gives
        one each. `past`, a trace with keys and values or a KV file of the first tokens, spares running those;
        a trace then starts behind them. `special` is that of `token_ids`, `edits` are those of `trace`.

        Raises:
            InputError: an option is malformed, or prompt and response do not fit into the context.
        """
        from gpt2np.generation.decoding import Generation
        from gpt2np.generation.options import Options, sampling_options, seeds_of
        from gpt2np.generation.stopping import end_tokens, stop_strings

        prompts, several = as_prompts(prompt)
        seeds = seeds_of(seed, len(prompts))
        if on_overflow not in ("refuse", "slide"):
            raise InputError(f"on_overflow={short(on_overflow)}: must be 'refuse' or 'slide'")
        if past is not None and len(prompts) > 1:
            raise InputError("past goes with one prompt")
        stops = stop_strings(stop)
        ends = end_tokens(eos, stop_tokens, self.config.vocab_size, self.checkpoint.eos_ids)
        return Generation(
            self,
            prompts,
            several,
            seeds,
            Options(
                whole_number("max_new_tokens", max_new_tokens, 1),
                sampling_options(sampling),
                ends,
                stops,
                None if keep is None else Keep.parse(keep),
                ledger,
                whole_number("lookup", lookup, 0),
                on_overflow == "slide",
                past,
                compiled(edits, self.config),
                special,
            ),
        )

    def score(
        self,
        text: Prompt,
        *,
        stride: int | None = None,
        special: bool = False,
        edits: EditsLike | None = None,
    ) -> Score:
        """Return log-probabilities, loss and perplexity of a text of any length; see `scoring.score`.

        Raises:
            InputError: fewer than two tokens, or a stride outside 1 to `n_positions`.
        """
        from gpt2np.generation.scoring import score

        ids = self.token_ids(text, limit=False, special=special)
        return score(self, ids, stride, compiled(edits, self.config))

    # -- passes -----------------------------------------------------------------------------------

    def _stop(self, stop_at_layer: int | None) -> int | None:
        if stop_at_layer is None:
            return None
        return whole_number("stop_at_layer", stop_at_layer, 0, self.config.n_layer)

    def origin(self) -> dict[str, Any]:
        """Return where the weights came from and how many there are, for a trace's metadata."""
        return self.checkpoint.origin() | {"n_parameters": self.n_parameters}

    @functools.cached_property
    def _decoding_parameters(self) -> Any:
        one_row = self.config.architecture.one_row
        return self._parameters if one_row is None or self._narrow else one_row(self._parameters)

    def run_pass(self, run: Pass, step: Step | None = None) -> Array:
        """Run one pass, by these steps of it or by new ones; its logits, or the residual stream."""
        self.checkpoint.check_unchanged()
        parameters = self._decoding_parameters if run.decodes else self._parameters
        quiet = np.errstate(all="ignore")
        rows, apart = run.n_rows, not run.edited  # edits may be functions of the caller
        with quiet, using(self.threads, rows, own=self._narrow, small=self._small, apart=apart):
            result = self.config.architecture.forward(parameters, self.config, step or Step(run))
            where = None if run.edited else not_finite(run, result)
        if where is not None:
            raise self.checkpoint.not_finite(where)
        return result
