"""The programs that are measured; each module here is imported only inside a worker.

An engine is made with `Engine(folder, threads)` and offers methods that a job names (`trace`, `logits`, ...).
What a method returns is held until the clock has stopped, so that nobody's time includes freeing memory. A
method that decodes sets `first_token` when the first new token is there.
"""

import importlib
import importlib.util
import os
import sys

# name: (module, class, packages that it needs)
ENGINES = {
    "gpt2np": ("gpt2np", "Gpt2np", ("numpy",)),
    "gpt2np_before": ("gpt2np", "Gpt2np", ("numpy",)),
    "bare_loop": ("bare_loop", "BareLoop", ("numpy", "safetensors", "threadpoolctl")),
    "hf_eager": ("hf", "Eager", ("torch", "transformers")),
    "hf_sdpa": ("hf", "Sdpa", ("torch", "transformers")),
    "transformer_lens": (
        "transformer_lens",
        "TransformerLens",
        ("torch", "transformers", "transformer_lens"),
    ),
    "sae_lens": ("sae_lens", "SAELens", ("torch", "transformers", "sae_lens")),
    "ctranslate2": ("ctranslate2", "CTranslate2", ("ctranslate2", "torch", "transformers")),
    "machine": ("machine", "Machine", ("numpy", "threadpoolctl")),
}

BEFORE = "gpt2np_before"  # gpt2np of another checkout, whose folder this variable of the environment names
VARIABLE = "GPT2NP_BEFORE"

LABELS = {
    "gpt2np": "gpt2np",
    "gpt2np_before": "gpt2np before",
    "hf_eager": "HF, eager, hooks",
    "hf_sdpa": "HF, sdpa",
    "transformer_lens": "TransformerLens",
    "ctranslate2": "CTranslate2 float32",
}


def missing(name: str) -> str | None:
    """The first package that an engine needs and this Python does not have."""
    for package in ENGINES[name][2]:
        if importlib.util.find_spec(package) is None:
            return package
    return None


def versions(name: str) -> dict[str, str]:
    """Versions of the packages that an engine uses."""
    from importlib.metadata import PackageNotFoundError, version  # slow, and a cold process does not need it

    found = {}
    for package in ENGINES[name][2]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def make_engine(name: str, folder: str, threads: int):
    """The engine, with its model loaded."""
    if name == BEFORE:
        sys.path.insert(0, os.environ[VARIABLE])  # `benchmarks` is imported already, and stays this one
    module, kind, _ = ENGINES[name]
    return getattr(importlib.import_module(f"benchmarks.engines.{module}"), kind)(folder, threads)


def wait_for_disk(path: str) -> None:
    """Return when a file that was written is on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
