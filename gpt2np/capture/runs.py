"""Many prompts to a folder of capture files, which an interrupted run leaves whole and a later one finishes.

    experiments/NAME/manifest.jsonl
    experiments/NAME/inference/raw/internals/PROMPT_SET/ID_LLAYER.safetensors
    experiments/NAME/inference/raw/residual/PROMPT_SET/ID.safetensors

The manifest lists each file once it is whole. All files of an experiment are of one model and one set of
options, and a file that is there is never written again.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2np.capture import formats
from gpt2np.capture.capture_files import Capture, check_format, save_capture
from gpt2np.capture.manifest import Entry, Manifest
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.errors import InputError, short, whole_number
from gpt2np.files import sha256_of
from gpt2np.model import Model
from gpt2np.outputs import Unfinished


@dataclass(frozen=True)
class Options:
    """How the response is made: greedy, unless the temperature is above 0."""

    max_new_tokens: int = 50
    temperature: float = 0.0
    seed: int | None = None  # of every prompt, as if it were alone; 0 where sampling needs one
    special: bool = False  # that of `Model.token_ids`

    def of_run(self) -> dict[str, Any]:
        """The same as arguments of `Model.generate`: an equal run has equal ones."""
        seed = whole_number("seed", self.seed or 0, 0) if self.temperature > 0 else None
        new = whole_number("max_new_tokens", self.max_new_tokens, 1)
        made = {"max_new_tokens": new, "temperature": float(self.temperature), "seed": seed}
        return made | ({"special": True} if self.special else {})


def capture_prompts(
    model: Model,
    prompts: PromptSet,
    folder: Path,
    *,
    layers: Sequence[int] | None = None,
    format: str = "safetensors",
    options: Options | None = None,
    advance: Callable[[], object] | None = None,
) -> tuple[list[Entry], int]:
    """Capture every prompt of a set into an experiment's folder: raw residual, or the internals of `layers`.

    `advance` is called after each prompt. Returns the entries of all files asked for, and how many of them
    are new; what an earlier run has captured stays as it is.

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
    for prompt in prompts.prompts:
        _check_prompt(model, prompts, prompt, arguments)
    origin = {key: value for key, value in model.checkpoint.origin().items() if key != "model"}
    made_from = {"model": {"name": model.name, **origin, "dtype": model.dtype.name}, "options": arguments}
    files: dict[str, Entry] = {}
    new = 0
    with Manifest(folder) as manifest:
        _check_same(manifest, made_from)
        jobs = []
        for prompt in prompts.prompts:
            paths = _paths(prompts.name, prompt, layers, format)
            for path in paths:
                listed = manifest.entries.get(path)
                if listed is not None and (str(listed.id), listed.text) != (str(prompt.id), prompt.text):
                    raise InputError(
                        f"{folder / path} is of another prompt, {short(listed.text)}: take another experiment"
                    )
            missing = {path: layer for path, layer in paths.items() if not manifest.has(path)}
            jobs.append((prompt, list(paths), missing))
        for prompt, all_paths, missing in jobs:
            if missing:
                for entry in _capture(model, prompts.name, prompt, folder, missing, made_from):
                    manifest.add(entry)
                    new += 1
            files |= {path: manifest.entries[path] for path in all_paths}
            if advance is not None:
                advance()
    return list(files.values()), new


def _check_prompt(model: Model, prompts: PromptSet, prompt: Prompt, arguments: dict[str, Any]) -> None:
    """Refuse a prompt, or options, that would only fail when their turn comes."""
    where = f"prompt {prompt.id} of {prompts.name}"
    try:
        n = len(model.token_ids(prompt.text, limit=False, special=arguments.get("special", False)))
        new, limit = arguments["max_new_tokens"], model.config.n_positions
        if n + new - 1 > limit:
            raise InputError(
                f"{n} tokens and {new} new ones take {n + new - 1} positions; "
                f"the context of this model holds {limit}"
            )
        model.generate(prompt.text, **arguments)  # checks its arguments, and runs nothing yet
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check_same(manifest: Manifest, made_from: dict[str, Any]) -> None:
    """Refuse to add to an experiment of another model or of other options."""
    for entry in manifest.entries.values():
        then = {"model": entry.model.get("fingerprint"), "dtype": entry.model.get("dtype")} | entry.options
        model = made_from["model"]
        now = {"model": model["fingerprint"], "dtype": model["dtype"]} | made_from["options"]
        for key, value in ({"special": False} | now).items():
            if then.get(key, False if key == "special" else None) != value:
                before, after = then.get(key), value
                if key == "model":
                    before, after = (
                        f"{m.get('name')} ({m.get('fingerprint')})" for m in (entry.model, model)
                    )
                raise InputError(
                    f"{manifest.folder}: was captured with {key} {str(before)[:200]}, this run has {after}: "
                    "finish it with the same, or take another experiment"
                )


def _paths(
    prompt_set: str, prompt: Prompt, layers: Sequence[int] | None, format: str
) -> dict[str, int | None]:
    """The files of a prompt, relative to the experiment's folder, and the layer of each."""
    raw = "inference/raw"
    if layers is None:
        return {f"{raw}/residual/{prompt_set}/{prompt.id}.{format}": None}
    return {f"{raw}/internals/{prompt_set}/{prompt.id}_L{layer}.{format}": layer for layer in layers}


def _capture(
    model: Model,
    prompt_set: str,
    prompt: Prompt,
    folder: Path,
    paths: dict[str, int | None],
    made_from: dict[str, Any],
) -> Iterator[Entry]:
    """Run one prompt and write its files; each is yielded when it is whole."""
    sites: set[str] = set()
    for layer in paths.values():
        if layer is None:
            sites.update(formats.residual_sites(model.config.n_layer))
        else:
            sites.update(formats.internals_sites(layer, model.config))
    generated = model.generate(prompt.text, keep=sites.__contains__, **made_from["options"]).finish()
    for path, layer in paths.items():
        capture = (
            formats.raw_residual(generated) if layer is None else formats.layer_internals(generated, layer)
        )
        facts = made_from | {"prompt_set": prompt_set, "id": prompt.id, "layer": layer}
        size, sha256 = _write(capture, folder / path, facts)
        yield Entry(
            path=path,
            bytes=size,
            sha256=sha256,
            prompt_set=prompt_set,
            id=prompt.id,
            text=prompt.text,
            layer=layer,
            prompt_tokens=generated.n_prompt,
            response_tokens=len(generated.token_ids) - generated.n_prompt,
            **made_from,
        )


def _write(capture: Capture, path: Path, facts: dict[str, Any]) -> tuple[int, str]:
    """Size and SHA-256 of the file; written unless it is there, from a run killed before listing it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            save_capture(capture, path, facts)
            return path.stat().st_size, sha256_of(path)
        copy = Unfinished(path.parent, of_files=True)
        try:
            save_capture(capture, copy.path / path.name, facts)
            same = sha256_of(copy.path / path.name) == sha256_of(path)
        finally:
            copy.discard()
        if not same:
            raise InputError(
                f"{path}: is there, but not in the manifest, and is not this capture: move it away"
            )
        return path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
