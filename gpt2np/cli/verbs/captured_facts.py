"""What `gpt2np info FOLDER` says of a folder of captured prompts, and its check with `--verify`."""

import argparse
import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gpt2np.cli.arguments import load_model
from gpt2np.errors import (
    CheckpointError,
    ConfigError,
    HubError,
    InputError,
    TraceError,
    VerificationError,
    short,
    whole_number,
)

if TYPE_CHECKING:
    from gpt2np.capture.captured import Captured
    from gpt2np.model import Model

SAMPLE = 8  # prompts that `--verify` runs again


def captured_facts(path: str) -> dict[str, Any]:
    """The folder in plain data: model, prompts, rows, how many shards are done, and its sites as `arrays`.

    Raises:
        TraceError: the manifest is damaged.
    """
    from gpt2np.capture.captured import Captured

    captured = Captured(path)
    manifest, texts = captured.manifest, captured.manifest.texts
    facts: dict[str, Any] = {"file": path, "kind": "a capture of many prompts", "bytes": captured.nbytes}
    facts |= {"model": captured.model.get("name")}
    facts |= {key: captured.model.get(key) for key in ("commit", "fingerprint", "dtype")}
    facts["gpt2np"] = manifest.version
    facts |= {"prompts": captured.n_prompts, "skipped": len(manifest.skipped) or None}
    facts |= {"all_tokens": texts["tokens"], "rows": captured.n_rows}
    facts |= {key: captured.options.get(key) for key in ("positions", "store")}
    facts |= {"shards": len(manifest.shards), "finished": len(captured.shards)}
    if damaged := list(_damaged(captured)):
        facts["damaged"] = damaged
    facts["arrays"] = [_array(captured, name) for name in captured.names]
    again = "; run the capture again to finish it" if captured.unfinished or damaged else ""
    return facts | {"next": f"gpt2np.capture.open_capture reads it, --verify checks it{again}"}


def _damaged(captured: "Captured") -> Iterator[str]:
    """The files of finished shards that are missing, or of another size than they had."""
    from gpt2np.capture.shard_reading import check_size

    for facts in captured.shards.there:
        try:
            check_size(captured.manifest, facts)
        except TraceError:
            yield facts.file


def _array(captured: "Captured", name: str) -> dict[str, Any]:
    """A site over all finished shards; one that is ragged as it lies in them, flat."""
    site, shape = captured.manifest.sites[name], [captured.n_rows]
    if site.ragged:
        shape = [0]
        for i in range(len(captured.shards)):
            with contextlib.suppress(TraceError):  # a damaged one
                shape[0] += captured.shards.open(i).file.shape(name)[0]
    else:
        shape += site.row
    n_bytes = math.prod(shape) * site.dtype.itemsize
    return {"name": name, "dtype": site.dtype.name, "shape": shape, "bytes": n_bytes}


def check_captured(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """`gpt2np info FOLDER --verify`: what the check found, and the exit code.

    Where the model that the manifest names cannot be loaded, the hashes are checked, and `unchecked` says
    why no prompt ran again.

    Raises:
        InputError: no such folder of captured prompts, or the model that was given is another one.
    """
    from gpt2np.capture.captured import Captured
    from gpt2np.capture.verification import run_again, verify_capture

    captured = Captured(args.file)
    sample = whole_number("sample", SAMPLE if args.sample is None else args.sample, 0)
    model = _model_of(args, captured) if sample and args.model is not None else None
    try:
        with _progress(len(captured.shards)) as advance:
            found = verify_capture(captured, None, 0, advance)
        if sample and captured.prompts:
            try:
                model = model or _model_of(args, captured)
            except (CheckpointError, HubError, ConfigError, InputError) as error:
                return {"verified": None, "found": str(found), "unchecked": str(error)}, 2
            with _progress(min(sample, len(captured.prompts))) as advance:
                found = run_again(captured, model, sample, advance)
    except VerificationError as error:
        return {"verified": False, "found": str(error)}, 1
    facts = {"verified": True, "found": str(found), "prompts_run_again": list(found.prompts)}
    if found.prompts:
        facts |= {"same_bytes": found.identical, "largest_difference": found.difference}
    return facts, 0


def _model_of(args: argparse.Namespace, captured: "Captured") -> "Model":
    """The model of a capture, as the command gives it or else as the manifest names it.

    Raises:
        InputError: it is another one, or was a folder that is not there, or has no name.
        CheckpointError, HubError: it cannot be loaded.
    """
    from gpt2np.capture.verification import check_model

    name, given = captured.model.get("name"), args.model is not None
    if not given:
        if not isinstance(name, str):
            raise InputError(f"{args.file}: its manifest does not name the model: give --model")
        args.model, args.revision = name, args.revision or captured.model.get("commit")
    args.dtype = captured.model.get("dtype", "float32")
    try:
        model: Model = load_model(args)
    except (CheckpointError, HubError, ConfigError) as error:
        if given:
            raise
        if captured.model.get("commit") is None:
            what = f"the model was a folder, {short(name)}, and cannot be loaded from there"
        else:
            what = f"the model was {short(name)}, which cannot be loaded ({error})"
        raise InputError(f"{args.file}: {what}; say where it is with --model") from None
    check_model(captured, model)
    return model


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], object] | None]:
    """A function to be called after each shard and prompt: on a terminal it moves a bar."""
    if not sys.stderr.isatty():
        yield None
        return
    from gpt2np.tables import stream_of_bars

    tqdm = importlib.import_module("tqdm").tqdm  # comes with huggingface_hub
    with tqdm(total=total, desc="checking", file=stream_of_bars()) as bar:
        yield bar.update
