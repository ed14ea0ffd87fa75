"""Where a run writes its traces: one file, or a folder with a file for each prompt and an index of them.

caps/index.jsonl            a line for the run, then one for each file
caps/000000.safetensors     the first prompt's trace; six digits however many prompts there are
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2np.errors import TraceError
from gpt2np.files import MOST_TEXT, read_bytes
from gpt2np.outputs import check_kind, check_not_read, whole_folder
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.trace_metadata import NO_OTHER

SCHEMA = "gpt2np.traces/1"
INDEX = "index.jsonl"
OF_RUN = ("model", "commit", "fingerprint", "dtype", "stored_dtype", "positions", "stop_at_layer", "edits")


@contextlib.contextmanager
def trace_paths(
    out: Path,
    several: bool,
    plans: Sequence[Plan],
    metadata: Sequence[dict[str, Any]],
    inputs: Iterable[Path],
) -> Iterator[list[Path]]:
    """The file to write each trace to: `out`, or for several prompts numbered ones in the folder `out`.

    A folder of the same run is written again; files in it that are not of a run are left alone.

    Raises:
        InputError: the file is one of the `inputs`.
        TraceError: the folder holds another run, or cannot be written, or the name says another kind of file.
    """
    if not several:
        check_not_read(out, inputs)
        check_kind(out, ".safetensors", NO_OTHER, TraceError)
        yield [out]
        return
    names = [f"{number:06}.safetensors" for number in range(len(plans))]
    index = _index(names, plans[0], metadata)
    _check_same(out, index, bool(metadata[0].get("edits")))
    with whole_folder(out, INDEX, TraceError) as folder:
        (folder / INDEX).write_bytes(index)
        yield [folder / name for name in names]


def _index(names: Sequence[str], plan: Plan, metadata: Sequence[dict[str, Any]]) -> bytes:
    """What the run was, which two equal runs say in the same bytes; then file, prompt and tokens of each."""
    run = {key: metadata[0][key] for key in OF_RUN if key in metadata[0]}
    rows: list[dict[str, Any]] = [{"schema": SCHEMA, **run, "sites": [entry.name for entry in plan.entries]}]
    for name, facts in zip(names, metadata, strict=True):
        ids = facts["token_ids"]
        rows.append({"file": name, "prompt": facts["prompt"], "tokens": len(ids), "token_ids": ids})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def _check_same(out: Path, index: bytes, edited: bool) -> None:
    """Refuse, before anything runs, a folder with traces of another run; nobody can tell edits apart."""
    try:
        names = os.listdir(out)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # the second for a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"{out}: cannot be made a folder for several traces ({reason})") from None
    same = (
        INDEX in names
        and not edited
        and read_bytes(out / INDEX, TraceError, max(MOST_TEXT, len(index))) == index
    )
    if not same and any(name == INDEX or re.fullmatch(r"\d+\.safetensors", name) for name in names):
        raise TraceError(f"{out}: holds the traces of another run; choose another folder, or remove it")
