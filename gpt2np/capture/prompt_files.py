"""The files of one prompt and the response to it: what a worker runs and writes, and an entry of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2np.capture import formats
from gpt2np.capture.capture_files import Capture, save_capture
from gpt2np.capture.manifest import Entry
from gpt2np.capture.prompt_set import Prompt
from gpt2np.capture.worker_model import ModelSource, as_given
from gpt2np.errors import Gpt2npError, InputError
from gpt2np.files import sha256_of
from gpt2np.generation.generated import Generated
from gpt2np.model import Model

Layers = Mapping[str, int | None]  # of the files, by their paths in the experiment's folder; None: all layers


def capture_prompt(
    model: Model | ModelSource,
    prompt_set: str,
    prompt: Prompt,
    arguments: dict[str, Any],
    layers: Layers,
    made_from: dict[str, Any],
    folder: str,
) -> tuple[list[Entry], Gpt2npError | None]:
    """Run a prompt and write its files below a folder; return what `write_files` does.

    `arguments` are those of `Options.of_run`.

    Raises:
        InputError: the prompt cannot be run.
    """
    model = as_given(model)
    sites: set[str] = set()
    for layer in layers.values():
        if layer is None:
            sites.update(formats.residual_sites(model.config.n_layer))
        else:
            sites.update(formats.internals_sites(layer, model.config))
    text, arguments = as_run(model, prompt, arguments)
    generated = model.generate(text, keep=sites.__contains__, **arguments).finish()
    return write_files(generated, prompt_set, prompt, layers, made_from, Path(folder))


def as_run(model: Model, prompt: Prompt, arguments: dict[str, Any]) -> tuple[str | list[int], dict[str, Any]]:
    """Return what `Model.generate` is given of a prompt and of `Options.of_run`."""
    others = {key: value for key, value in arguments.items() if key != "chat"}
    return model.chat_prompt(prompt.text) if arguments.get("chat") else prompt.text, others


def write_files(
    generated: Generated,
    prompt_set: str,
    prompt: Prompt,
    layers: Layers,
    made_from: dict[str, Any],
    folder: Path,
    generation: str | None = None,
) -> tuple[list[Entry], Gpt2npError | None]:
    """Write the files of a generation below a folder.

    Returns an entry for each, and why the next one could not be written, if one could not.
    """
    assert prompt.id is not None
    assert generated.trace is not None
    entries: list[Entry] = []
    for path, layer in layers.items():
        capture = captured(generated, layer)
        sites = formats.captured_sites(generated.trace.config, internals=layer is not None)
        facts = made_from | {"prompt_set": prompt_set, "id": prompt.id, "layer": layer, "sites": sites}
        try:
            size, sha256 = _write(capture, folder / path, facts)
        except Gpt2npError as error:
            return entries, error
        entry = Entry(
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
            generation=generation,
            sites=sites,
        )
        entries.append(entry)
    return entries, None


def captured(generated: Generated, layer: int | None) -> Capture:
    """Return the internals of a layer, or with None the raw residual of all."""
    return formats.raw_residual(generated) if layer is None else formats.layer_internals(generated, layer)


def _write(capture: Capture, path: Path, facts: dict[str, Any]) -> tuple[int, str]:
    """Size and SHA-256 of the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_capture(capture, path, facts)
        return path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
