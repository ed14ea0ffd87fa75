"""Continues from a KV file: its tokens need not be run again."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Unpack

import numpy as np

from gpt2np.errors import InputError, TraceError
from gpt2np.files import MAX_BYTES
from gpt2np.generation.decoding import Generation
from gpt2np.generation.generated import Generated
from gpt2np.generation.options import DecodingOptions
from gpt2np.kv.extraction import TOLERANCE
from gpt2np.kv.queries import KV
from gpt2np.kv.reading import read_kv
from gpt2np.model import Model
from gpt2np.tables import counted
from gpt2np.tracing.cache import Cache
from gpt2np.tracing.derived import log_probabilities
from gpt2np.tracing.keep import Keep
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.recording import Recording
from gpt2np.tracing.resume import fill


class KVCache:
    """Keys and values of a text, checked against the model that continues it; made by `load_kv`."""

    def __init__(self, model: Model, kv: KV) -> None:
        self.model, self.kv = model, kv
        self.token_ids = list(kv.token_ids)

    def __getitem__(self, name: str, /) -> Any:
        return self.kv[name]

    def generate(
        self, more: "str | Sequence[int]" = (), *, special: bool = False, **options: Unpack[DecodingOptions]
    ) -> "Generation[Generated]":
        """Run `Model.generate` on this text, followed by `more` if given; only what is new is run.

        The text's last token is run again, for its logits; a trace (`keep=`) has the positions from there.

        Raises:
            InputError: as `Model.generate`.
        """
        new = self.model.token_ids(more, special=special, ends=False) if len(more) else []
        same = not new and self.kv.text is not None and self.model.tokenizer is not None
        if same and self.model.token_ids(self.kv.text or "", special=special) == self.token_ids:
            return self.model.generate(self.kv.text or "", past=self, special=special, **options)
        return self.model.generate(self.token_ids + new, past=self, **options)

    def __repr__(self) -> str:
        return f"<KVCache of {counted(len(self.token_ids), 'token')} for {self.model!r}>"


def load_kv(path: str | PathLike[str], model: Model, *, max_bytes: int | None = MAX_BYTES) -> KVCache:
    """Read a KV file, JSON or `.safetensors`, and check that it is whole and this model's.

    Where the file has a digest, its keys and values must be those that were written. If it also has this
    model's fingerprint, the last token alone is run again, on top of the others. Else (another program's
    file, a saved trace, another copy of the weights) the whole text is run again, and every key and value
    must come out the same, to a thousandth of the vector's largest number. `max_bytes` is that of `read_kv`.

    Raises:
        TraceError: the file is damaged, foreign, too large, or of another model.
    """
    kv, config = read_kv(path, max_bytes=max_bytes), model.config
    _check_sizes(path, kv, model)
    if not kv.token_ids:
        raise TraceError(f"{path}: has no input_token_ids, so the text cannot be gone on with")
    if not kv.exact:
        raise TraceError(f"{path}: was kept in float16, which does not give the same tokens")
    try:
        ids = model.token_ids(kv.token_ids)
    except InputError as problem:
        raise TraceError(f"{path}: does not fit {model.name}: {problem}") from None
    if kv.tokens != model.tokens(ids):
        raise TraceError(
            f"{path}: is of another model: its input_tokens are not what {model.name} calls them"
        )
    token_id = kv.prediction["token_id"] if kv.prediction else 0
    if not 0 <= token_id < config.vocab_size:
        raise TraceError(
            f"{path}: predicted_next_token.token_id is {token_id}, not one of 0 to {config.vocab_size - 1}"
        )
    kv.check_digest(path)
    kv = replace(kv, sites=config.architecture.cache)
    cache, same = KVCache(model, kv), kv.fingerprint == model.checkpoint.fingerprint
    start = len(ids) - 1 if same and kv.digest is not None else 0
    error = _difference(cache, ids, start)
    if not error <= TOLERANCE:
        why = "is damaged" if same else f"is damaged, or of another model than {model.name}"
        what = "last token" if start else "text"
        raise TraceError(f"{path}: {why}: its {what}, run again, comes out otherwise (by {error:.2g})")
    return cache


def _check_sizes(path: str | PathLike[str], kv: KV, model: Model) -> None:
    """Refuse a file of a model of other sizes, or whose keys are something else."""
    config = model.config
    if kv.keys is None and config.architecture.keys is not None:
        raise TraceError(
            f"{path}: does not say n_kv_heads and keys, so it is of a GPT-2, "
            f"and {model.name} is a {config.architecture.model_type}"
        )
    found = {
        "n_layers": kv.n_layer,
        "n_heads": kv.n_query_head or kv.n_head,
        "n_kv_heads": kv.n_head,
        "d_head": kv.d_head,
        "keys": kv.keys or "as computed",
    }
    wanted = {
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "n_kv_heads": config.n_kv_head,
        "d_head": config.d_head,
        "keys": config.architecture.keys or "as computed",
    }
    for name, value in found.items():
        if value != wanted[name]:
            raise TraceError(
                f"{path}: is of another model: {name} is {str(value)[:100]}, {model.name} has {wanted[name]}"
            )


def _difference(cache: KVCache, ids: list[int], start: int) -> float:
    """Run a text from position `start` on; the largest difference to what the file says.

    That of a key or value vector is relative to its largest number (or to a hundredth of the layer's largest,
    for vectors that are next to nothing); that of the next token is in its probability.
    """
    model, kv = cache.model, cache.kv
    plan = Plan(model.config, len(ids), Keep(names=frozenset()), model.dtype.name)
    kept = Cache(model.config, len(ids), model.dtype)
    recording = Recording(plan, {}, kept)
    fill(recording, cache, start)
    sequence = PackedSequence(np.array(ids[start:]), start, recording)
    logits = model.run_pass(Pass(model.config, model.dtype, [sequence], last_only=True))[0]
    errors = []
    for layer, pair in enumerate(kv.layers):
        for site, array in zip(model.config.architecture.cache, pair, strict=True):
            expected = kept.so_far(f"h.{layer}.{site}", len(ids))[start:]
            sizes = np.abs(expected).max(axis=2)
            scale = np.maximum(np.maximum(sizes, 0.01 * sizes.max()), np.finfo(np.float32).tiny)
            errors.append((np.abs(expected - array[start:]).max(axis=2) / scale).max())
    prediction = kv.prediction or {"token_id": 0, "top_k_candidates": []}
    candidates = prediction["top_k_candidates"]
    if candidates and candidates[0]["token"] == prediction["token"]:
        probability = np.exp(log_probabilities(logits.astype(np.float64))[prediction["token_id"]])
        errors.append(abs(candidates[0]["probability"] - probability))
    return float(max(errors))
