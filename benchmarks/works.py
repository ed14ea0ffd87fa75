"""The pieces of work that are measured: what each engine does, at which shape, and when."""

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path

from gpt2np.architectures.gpt2.config import RELEASED, Config

WEIGHTS = Path(__file__).parents[1] / "weights"  # of models that are not made with random numbers
TINY = Config(n_layer=4, n_head=4, n_embd=192, n_positions=256, vocab_size=2048, eos_token_id=2047)
# Shapes by the model's part in the suite. `tiny` is for trying the suite out: its figures mean nothing.
SHAPES = {
    "gpt2": {"small": RELEASED["gpt2"], "medium": RELEASED["gpt2-medium"], "tiny": TINY},
    "tiny": {
        "small": Config(n_layer=2, n_head=2, n_embd=64, vocab_size=1000, eos_token_id=999),
        "medium": Config(n_layer=3, n_head=3, n_embd=96, vocab_size=1000, eos_token_id=999),
        "tiny": TINY,
    },
}

TRACERS = ("gpt2np", "hf_eager", "transformer_lens")
SPARSE = ("gpt2np", "hf_sdpa", "transformer_lens")
ALL = ("gpt2np", "hf_sdpa", "transformer_lens", "ctranslate2")
LAST = ("gpt2np", "hf_sdpa", "ctranslate2")
ALONE = ("gpt2np",)
TRACES = (2, 5, 8, 16, 32, 64, 100, 128, 512, 1024)  # tokens
BATCHES = (4, 8, 12, 16)  # prompts
RAGGED = (20, 32, 26, 23, 29, 21, 31, 24, 27, 30, 22, 28, 25, 32, 20, 26)  # tokens of each of them


@dataclass(frozen=True)
class Work:
    """One row of the table: `method` of every engine in `engines`, for prompts of these lengths."""

    name: str
    label: str
    method: str
    engines: tuple[str, ...]
    lengths: tuple[int, ...] = ()
    arguments: dict = field(default_factory=dict)
    model: str = "small"
    calls: int = 1  # of which a round takes the median
    most_rounds: int = 99
    whole: bool = False  # a process of its own for every call; nothing else ever happened in it
    quick: bool = False
    before: str | None = None  # a method that prepares every call, outside the clock
    files: bool = False  # the method takes the path of a file
    report: bool = False  # the method returns numbers that belong to the results
    busy: bool = False  # measured a second time while every core is busy with something else

    def job(self, config: Config, path: str) -> dict:
        """What the worker is told."""
        arguments = dict(self.arguments)
        if self.lengths:
            arguments["prompts"] = prompts(self.lengths, config.vocab_size)
        if self.files:
            arguments["path"] = path
        job = {"work": self.method, "arguments": arguments, "calls": self.calls, "report": self.report}
        return job | ({"before": self.before} if self.before else {})


def prompts(lengths: tuple[int, ...], vocab: int) -> list[list[int]]:
    """Token ids, different in every prompt."""
    return [[(37 * i + 101 * n + 11) % vocab for i in range(length)] for n, length in enumerate(lengths)]


def all_works() -> list[Work]:
    """Every piece of work, in the order of the table."""
    return [
        *_traces(),
        *_logits(),
        *_generation(),
        *_several_prompts(),
        *_files(),
        *_of_tiny(),
        *_of_medium(),
    ]


def _traces() -> list[Work]:
    whole = {"whole": True, "quick": True}
    works = [
        Work("cold", "cold process to full trace, 5 tokens", "trace", TRACERS, (5,), **whole),
        Work("alone-1024", "the same, 1,024 tokens", "trace", TRACERS, (1024,), most_rounds=3, **whole),
    ]
    for n in TRACES:
        calls, quick = (3 if n <= 128 else 1), n in (5, 100, 1024)
        label = f"full trace, {n:,} tokens"
        works.append(Work(f"trace-{n}", label, "trace", TRACERS, (n,), calls=calls, quick=quick))
    label = "full trace, 5 tokens, every step timed"
    works.append(Work("steps-5", label, "steps", ALONE, (5,), calls=3, quick=True, report=True))
    for name, keep, engines in (("residual", "resid_*", SPARSE), ("attention", "attn.pattern", TRACERS)):
        for n in (100, 1024):
            calls, label = (3 if n <= 100 else 1), f"{name}-only trace, {n:,} tokens"
            works.append(Work(f"{name}-{n}", label, "trace", engines, (n,), {"keep": keep}, calls=calls))
    return works


def _logits() -> list[Work]:
    works = []
    for n in (100, 512, 1024):
        label = f"all logits, {n:,} tokens"
        works.append(Work(f"logits-{n}", label, "logits", ALL, (n,), calls=3 if n <= 100 else 1))
    for n in (512, 1024):
        label = f"logits of the last position, {n:,} tokens"
        works.append(Work(f"last-{n}", label, "last", LAST, (n,), quick=n == 512))
    return works


def _generation() -> list[Work]:
    works = []
    for n in (32, 900):
        label = f"32 new tokens after {n}"
        works.append(Work(f"decode-{n}", label, "decode", ALL, (n,), {"new": 32}, quick=n == 32))
        label += ", full trace"
        arguments = {"new": 32, "traced": True}
        works.append(Work(f"decode-traced-{n}", label, "decode", TRACERS, (n,), arguments))
    arguments = {"new": 16, "beams": 4}
    return [*works, Work("beams-4", "16 new tokens after 32, 4 beams", "beams", LAST, (32,), arguments)]


def _several_prompts() -> list[Work]:
    works = []
    for n in BATCHES:
        label = f"{n} prompts of 20 to 32 tokens together, 16 new each"
        quick = n == 8
        works.append(Work(f"batch-{n}", label, "decode", LAST, RAGGED[:n], {"new": 16}, quick=quick))
    for n in (1, 4, 16, 64):
        calls, quick = (3 if n <= 4 else 1), n in (1, 64)
        label = f"full trace of {n} prompt{'s' * (n > 1)} of 8 tokens, packed"
        works.append(Work(f"packed-{n}", label, "trace", TRACERS, (8,) * n, calls=calls, quick=quick))
    return works


def _files() -> list[Work]:
    file = {"lengths": (512,), "before": "hold", "files": True}
    opened = file | {"before": "hold_file", "calls": 3}
    unsynced = {"arguments": {"sync": False}, **file}
    return [
        Work("load", "loading", "load", ("gpt2np", "hf_eager", "transformer_lens", "ctranslate2")),
        Work("save-512", "saving a full trace, 512 tokens, waiting for the disk", "save", TRACERS, **file),
        Work("save-nosync-512", "the same, not waiting for the disk", "save", TRACERS, **unsynced),
        Work("open-512", "opening it, one pattern read", "open", TRACERS, **opened),
    ]


def _of_tiny() -> list[Work]:
    common = {"model": "tiny", "quick": True}
    many, new = {"times": 100}, {"new": 50}
    loop, alone = ("gpt2np", "bare_loop"), "tiny: 200 new tokens after 20, one thread"
    return [
        Work(
            "busy-traces", "tiny: 100 traces of 20 tokens", "traces", ALONE, (20,), many, busy=True, **common
        ),
        Work("busy-decode", "tiny: 50 new tokens after 20", "decode", loop, (20,), new, busy=True, **common),
        Work("tiny-decode", alone, "decode_alone", loop, (20,), {"new": 200}, **common),
    ]


def _of_medium() -> list[Work]:
    medium = {"model": "medium", "most_rounds": 3}
    return [
        Work("medium-trace-100", "medium: full trace, 100 tokens", "trace", TRACERS, (100,), **medium),
        Work("medium-last-512", "medium: last position, 512 tokens", "last", LAST, (512,), **medium),
        Work("medium-decode-32", "medium: 32 new after 32", "decode", ALL, (32,), {"new": 32}, **medium),
    ]


def chosen(patterns: list[str] | None, quick: bool) -> list[Work]:
    """The works of these names or patterns, else those of the quick or of the full suite.

    Raises:
        ValueError: a pattern matches none.
    """
    works = all_works()
    if not patterns:
        return [work for work in works if work.quick or not quick]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(work.name, pattern) for work in works):
            names = ", ".join(work.name for work in works)
            raise ValueError(f"no work is called {pattern!r}; there are {names}")
    return [work for work in works if any(fnmatch.fnmatchcase(work.name, p) for p in patterns)]
