"""Captures many prompts into a folder; an interrupted run leaves whole files, and a later one finishes.

    experiments/NAME/manifest.jsonl
    experiments/NAME/inference/raw/internals/PROMPT_SET/ID_LLAYER.safetensors
    experiments/NAME/inference/raw/residual/PROMPT_SET/ID.safetensors

The manifest lists each file once it is whole. All files of an experiment are of one model and one set of
options, and a file that is there is never written again.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpt2np.capture import formats
from gpt2np.capture.capture_files import check_format
from gpt2np.capture.manifest import Entry, Manifest
from gpt2np.capture.prompt_files import as_run, capture_prompt, captured, write_files
from gpt2np.capture.prompt_set import Prompt, PromptSet, check_name
from gpt2np.capture.worker_model import ModelSource, executor_for, given_to, is_same_model, model_facts
from gpt2np.capture.workers import Here, Submits, in_order
from gpt2np.errors import Gpt2npError, InputError, short, whole_number
from gpt2np.files import sha256_of
from gpt2np.generation.generated import Generated
from gpt2np.generation.saved_generation import saved_generation
from gpt2np.model import Model
from gpt2np.outputs import Unfinished, sync_folder
from gpt2np.tables import counted
from gpt2np.tracing.trace import Trace


@dataclass(frozen=True)
class Options:
    """How the response is made: greedy, unless the temperature is above 0."""

    max_new_tokens: int = 50
    temperature: float = 0.0
    seed: int | None = None  # of every prompt, as if it were alone; 0 where sampling needs one
    special: bool = False  # that of `Model.token_ids`
    chat: bool = False  # the prompts are messages to the model

    def of_run(self) -> dict[str, Any]:
        """Return them as arguments of `Model.generate`, and `chat`; equal runs have equal ones."""
        seed = whole_number("seed", self.seed or 0, 0) if self.temperature > 0 else None
        new = whole_number("max_new_tokens", self.max_new_tokens, 1)
        made = {"max_new_tokens": new, "temperature": float(self.temperature), "seed": seed}
        read = {"special": self.special, "chat": self.chat}
        return made | {how: True for how, is_so in read.items() if is_so}


def capture_prompts(
    model: Model,
    prompts: PromptSet,
    folder: Path,
    *,
    layers: Sequence[int] | None = None,
    format: str = "safetensors",
    options: Options | None = None,
    advance: Callable[[], object] | None = None,
    workers: int | None = None,
    executor: Submits | None = None,
) -> tuple[list[Entry], int]:
    """Capture every prompt of a set into an experiment's folder: raw residual, or the internals of `layers`.

    `advance` is called after each prompt. Returns the entries of all files asked for, and how many of them
    are new; what an earlier run has captured stays as it is. `workers` processes share the prompts, as many
    as pay off if that is not given; or `executor` runs them: anything with `submit` whose tasks see the same
    folders. Files and manifest are the same, byte for byte, however many workers there are.

    Raises:
        InputError: a prompt is too long, a layer does not exist, the folder cannot be written to, or it holds
            captures of another model, of other options, or of another prompt under the same id.
        TraceError: a file cannot be written, or the manifest is damaged.
    """
    check_format(format)
    n_layer = model.config.n_layer
    layers = None if layers is None else [whole_number("layer", layer, 0, n_layer - 1) for layer in layers]
    for layer in layers or ():
        formats.internals_sites(layer, model.config)  # refuses a model that lacks some
    arguments = (options or Options()).of_run()
    for number, prompt in enumerate(prompts.prompts, 1):
        _check_prompt(model, prompts, prompt, number, arguments)
    made_from = {"model": model_facts(model), "options": arguments}
    files: dict[str, Entry] = {}
    new = 0
    with contextlib.ExitStack() as opened:
        if executor is None:
            seconds = _seconds(model, prompts, arguments)
            executor = chosen = executor_for(model, workers, len(prompts.prompts), seconds)
            opened.enter_context(chosen)
        given: Model | ModelSource = model
        if len(prompts.prompts) > 1:
            given = given_to(executor, model)
        else:  # whoever else is there, it runs here, on as many threads as the model has
            executor = Here()
        manifest = opened.enter_context(Manifest(folder))
        _check_same(manifest, made_from)
        jobs = []
        for prompt in _with_ids(manifest, prompts.name, prompts.prompts):
            paths = _paths(prompts.name, prompt, layers, format)
            jobs.append((prompt, list(paths), _missing(manifest, prompt, paths)))
        staging = opened.enter_context(_Staging(manifest))
        tasks = (
            (
                f"{folder}: prompt {prompt.id} of {prompts.name}",
                (given, prompts.name, prompt, arguments, missing, made_from, str(staging.path)),
            )
            for prompt, _, missing in jobs
            if missing
        )
        made = opened.enter_context(contextlib.closing(in_order(executor, capture_prompt, tasks)))
        for _, all_paths, missing in jobs:
            if missing:
                new += staging.publish(*next(made))
            files |= {path: manifest.entries[path] for path in all_paths}
            if advance is not None:
                advance()
    return list(files.values()), new


def _seconds(model: Model, prompts: PromptSet, arguments: dict[str, Any]) -> float:
    """About how long one core takes to run the prompts: nearly all of it goes into the responses."""
    of_token = model.n_parameters * _OF_PARAMETER + model.config.n_layer * _OF_LAYER
    return len(prompts.prompts) * int(arguments["max_new_tokens"]) * of_token


_OF_PARAMETER, _OF_LAYER = (
    4e-10,
    2e-4,
)  # seconds of a token: to read a weight, and to run a block's operations


def capture_generation(
    saved: Generated | Trace,
    folder: Path,
    *,
    id: int | str | None = None,
    layers: Sequence[int] | None = None,
    format: str = "safetensors",
) -> tuple[list[Entry], int]:
    """Capture a generation, or the trace of one that `gpt2np generate --out` saved, into the set "prompt".

    Returns the entries of its files, and how many of them are new. An experiment may hold several of the
    same model and the same options of sampling.

    Raises:
        InputError, TraceError: as `capture_prompts`; or it is of no generation, or lacks a site.
    """
    check_format(format)
    generated = saved_generation(saved) if isinstance(saved, Trace) else saved
    made_from, name = _made_from(generated), "prompt"
    if id is not None:
        check_name(str(id), "the id")
    digest = hashlib.sha256(np.array(generated.token_ids, "<i8").tobytes()).hexdigest()
    for layer in [None] if layers is None else layers:
        captured(generated, layer)  # refuses what cannot be captured, before there is a folder
    with Manifest(folder) as manifest:
        _check_same(manifest, made_from)
        (prompt,) = _with_ids(manifest, name, [Prompt(id, generated.prompt_text)], digest)
        paths = _paths(name, prompt, layers, format)
        missing = _missing(manifest, prompt, paths, digest)
        with _Staging(manifest) as staging:
            made = write_files(generated, name, prompt, missing, made_from, staging.path, digest)
            new = staging.publish(*made)
        return [manifest.entries[path] for path in paths], new


def _made_from(generated: Generated) -> dict[str, Any]:
    """What a manifest says of the model and the options of a saved generation."""
    facts = {} if generated.trace is None else generated.trace.metadata
    model = {"name": facts.get("model")} | {key: facts.get(key) for key in ("commit", "fingerprint", "dtype")}
    options = {"saved": True, "sampling": asdict(generated.sampling)}
    edits = {"edits": facts["edits"]} if facts.get("edits") else {}
    return {"model": model, "options": options | edits}


def _with_ids(
    manifest: Manifest, prompt_set: str, prompts: Sequence[Prompt], generation: str | None = None
) -> list[Prompt]:
    """The prompts, each with an id: one without has that of its text, or the next number."""
    own = [entry for entry in manifest.entries.values() if entry.prompt_set == prompt_set]
    known = {(entry.text, entry.generation): entry.id for entry in own}
    taken = [int(name) for id in (*known.values(), *(p.id for p in prompts)) if (name := str(id)).isdecimal()]
    following = itertools.count(max(taken, default=0) + 1)
    found = []
    for prompt in prompts:
        id = prompt.id
        if id is None and (id := known.get((prompt.text, generation))) is None:
            id = known[prompt.text, generation] = next(following)
        check_name(str(id), f"{manifest.path}: the id")  # which is a name of a file here
        found.append(replace(prompt, id=id))
    return found


def _missing(
    manifest: Manifest, prompt: Prompt, paths: dict[str, int | None], generation: str | None = None
) -> dict[str, int | None]:
    """Those of the files that are not there yet; refuses those that are of another prompt."""
    now = (str(prompt.id), prompt.text, generation)
    for path in paths:
        listed = manifest.entries.get(path)
        if listed is not None and (str(listed.id), listed.text, listed.generation) != now:
            what = "prompt" if listed.text != prompt.text else "generation of the prompt"
            cure = "take another id, or another experiment"
            raise InputError(f"{manifest.folder / path} is of another {what}, {short(listed.text)}: {cure}")
    return {path: layer for path, layer in paths.items() if not manifest.has(path)}


def _check_prompt(
    model: Model, prompts: PromptSet, prompt: Prompt, number: int, arguments: dict[str, Any]
) -> None:
    """Refuse a prompt, or options, that would only fail when their turn comes."""
    where = f"prompt {number if prompt.id is None else prompt.id} of {prompts.name}"
    where = "the prompt" if prompt.id is None and len(prompts.prompts) == 1 else where
    try:
        text, arguments = as_run(model, prompt, arguments)
        n = len(model.token_ids(text, limit=False, special=arguments.get("special", False)))
        new, limit = arguments["max_new_tokens"], model.config.n_positions
        if n + new - 1 > limit:
            raise InputError(
                f"{counted(n, 'token')} and {counted(new, 'new one')} take {n + new - 1} positions "
                f"(the last token is not run); "
                f"the context of this model holds {limit}"
            )
        model.generate(text, **arguments)  # checks its arguments, and runs nothing yet
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check_same(manifest: Manifest, made_from: dict[str, Any]) -> None:
    """Refuse to add to an experiment of another model or of other options."""
    for entry in manifest.entries.values():
        model = made_from["model"]
        same = is_same_model(entry.model, model)
        then = {"model": same, "dtype": entry.model.get("dtype")} | entry.options
        now = {"model": True, "dtype": model["dtype"]} | made_from["options"]
        unsaid = {"special": False, "chat": False}
        for key, value in (unsaid | now).items():
            if then.get(key, unsaid.get(key)) != value:
                before, after = then.get(key), value
                if key == "model":
                    before, after = (
                        f"{m.get('name')} ({m.get('fingerprint')})" for m in (entry.model, model)
                    )
                was = f"without {key}" if before is None else f"with {key} {str(before)[:200]}"
                raise InputError(
                    f"{manifest.folder}: was captured {was}, this run has {str(after)[:200]}: "
                    "finish it with the same, or use another experiment"
                )


def _paths(
    prompt_set: str, prompt: Prompt, layers: Sequence[int] | None, format: str
) -> dict[str, int | None]:
    """The files of a prompt, relative to the experiment's folder, and the layer of each."""
    raw = "inference/raw"
    if layers is None:
        return {f"{raw}/residual/{prompt_set}/{prompt.id}.{format}": None}
    return {f"{raw}/internals/{prompt_set}/{prompt.id}_L{layer}.{format}": layer for layer in layers}


class _Staging:
    """Where files are written; once all of a prompt are there they get their places, and are listed."""

    def __init__(self, manifest: Manifest) -> None:
        try:
            self._unfinished = Unfinished(manifest.folder, of_files=True)
        except OSError as error:
            raise InputError(f"{manifest.folder}: cannot be written ({error.strerror})") from None
        self._manifest, self.path = manifest, self._unfinished.path

    def publish(self, entries: Sequence[Entry], failure: Gpt2npError | None) -> int:
        """Move files to their places, and list each when it is there; returns how many.

        Raises:
            InputError: a file is there that is another one, or one cannot be moved.
            Gpt2npError: the failure, which was met after these files.
        """
        for entry in entries:
            path = self._manifest.folder / entry.path
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if not os.path.lexists(path):
                    os.replace(self.path / entry.path, path)
                    sync_folder(path.parent)
                elif sha256_of(path) != entry.sha256:  # else of a run that was killed before listing it
                    cure = "is there, but not in the manifest, and is not this capture: move it away"
                    raise InputError(f"{path}: {cure}")
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror})") from None
            self._manifest.add(entry)
        if failure is not None:
            raise failure
        return len(entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._unfinished.discard()
        if isinstance(error, Gpt2npError) and str(self.path) in str(error):  # of a file without its name yet
            raise type(error)(str(error).replace(str(self.path), str(self._manifest.folder))) from None
