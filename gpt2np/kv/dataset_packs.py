"""Which prompts of a dataset run together, in one packed pass, and what a worker does with them.

In what company a prompt runs decides the last bits of its keys and values. So the packs are a function of the
prompts that are asked for, whichever of them have their files already; a pack of which some file is missing
runs as a whole, and only what is missing is written.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gpt2np.capture.worker_model import ModelSource, as_given
from gpt2np.errors import Gpt2npError
from gpt2np.files import sha256_of
from gpt2np.kv.dataset_prompts import MOST_BY_CHANCE, Source
from gpt2np.kv.extraction import keys_and_values, trace_to_file
from gpt2np.model import Model

# Of a pass, unless one prompt has more. Twice as many would save a tenth of the time of the passes, and leave
# a hundred short prompts in too few packs for two workers.
PACK_TOKENS = 256


def lengths_of(model: Model, sources: Sequence[Source]) -> list[int]:
    """Return how many tokens each prompt has; the most that it may have, where chance has yet to make it."""
    return [
        MOST_BY_CHANCE
        if source.text is None
        else len(model.token_ids(source.prompt(model), special=source.special))
        for source in sources
    ]


def packs_of(
    sources: Sequence[Source], lengths: Sequence[int], pack_tokens: int = PACK_TOKENS
) -> list[range]:
    """Return which prompts run together: neighbours, by their numbers in the list."""
    packs, first, total = [], 0, 0
    for number, n in enumerate(lengths):
        fits = total + n <= pack_tokens and sources[number].special == sources[first].special
        if number > first and not fits:
            packs.append(range(first, number))
            first, total = number, 0
        total += n
    return [*packs, range(first, len(lengths))] if lengths else []


def seconds_of(model: Model, n_tokens: int, suffix: str) -> float:
    """Return about how long one core takes to run so many tokens and to write their files."""
    config = model.config
    numbers = 2 * config.n_layer * config.n_kv_head * config.d_head
    of_numbers = numbers * (_SPELLED if suffix == ".json" else _COPIED)
    return n_tokens * (2 * model.n_parameters * _OPERATION + of_numbers)


_OPERATION, _SPELLED, _COPIED = 2e-11, 1e-7, 2e-9  # seconds, of a core of 2020


def write_pack(
    model: Model | ModelSource,
    sources: Sequence[Source],
    names: Sequence[str | None],
    folder: str | PathLike[str],
    top_k: int,
) -> tuple[list[dict[str, Any]], Gpt2npError | None]:
    """Run prompts in one pass and write a file of each that has a name.

    Returns their lines of the index, and why the next file could not be written, if one could not.

    Raises:
        InputError: a prompt cannot be run.
    """
    model, folder = as_given(model), Path(folder)
    prompts = [source.prompt(model) for source in sources]
    traces = model.trace(prompts, keep=keys_and_values(model.config), special=sources[0].special)
    entries: list[dict[str, Any]] = []
    for name, source, trace in zip(names, sources, traces, strict=True):
        if name is None:
            continue
        try:
            facts = trace_to_file(trace, folder / name, top_k)
            entry = {
                "file": name,
                "source": source.facts(),
                "input_text": facts["input_text"],
                "tokens": len(facts["input_tokens"]),
                "predicted_next_token": facts["predicted_next_token"]["token"],
                "bytes": (folder / name).stat().st_size,
                "sha256": sha256_of(folder / name),
            }
        except Gpt2npError as error:
            return entries, error
        entries.append(entry)
    return entries, None
