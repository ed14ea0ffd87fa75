"""What of a model goes into its live page: weights in float16, the tokenizer, the facts for the panels."""

import base64
import gzip
from dataclasses import asdict
from typing import Any

import numpy as np

from gpt2np.analysis.heads import head_scores
from gpt2np.errors import InputError
from gpt2np.generation.options import Sampling
from gpt2np.model import Model
from gpt2np.ops.narrow_weights import widened
from gpt2np.tracing.trace import Trace
from gpt2np.viewer import detail_levels as levels
from gpt2np.viewer.commentary import notes
from gpt2np.viewer.model_parts import part_table
from gpt2np.viewer.page_data import sizes_of
from gpt2np.viewer.page_facts import model_facts

MOST = 40 * levels.MB  # bytes of a live page
LARGEST = 65504.0  # of float16


def checked_live(model: Model) -> None:
    """Refuse a model that a live page cannot run.

    Raises:
        InputError: it is no GPT-2, has no tokenizer of GPT-2's kind, or is so large that its page would be
            larger than `MOST`.
    """
    kind = model.config.architecture.model_type
    if kind != "gpt2":
        raise InputError(f"view --live: the page runs GPT-2 only, not {kind}; view a TEXT of it instead")
    n_bytes = 2 * model.n_parameters * 4 // 3  # float16 in base64; compression saves little of it
    if n_bytes > 1.5 * MOST:
        raise InputError(too_large(model, n_bytes))
    tokenizer = model.usable_tokenizer
    if tokenizer is None or tokenizer.tables() is None:
        raise InputError(
            f"view --live: {model.name} has no tokenizer of GPT-2's own kind, which the page needs"
        )


def too_large(model: Model, n_bytes: int) -> str:
    """What to say of a model whose page would be too large."""
    megabytes = f"{n_bytes / levels.MB:,.0f} MB"
    return (
        f"view --live: {model.name} has {model.n_parameters:,} parameters: its page would have {megabytes}, "
        f"{MOST // levels.MB} MB is the most"
    )


def live_facts(model: Model, trace: Trace) -> dict[str, Any]:
    """The facts that the page runs and draws by; `trace` is that of the text that it begins with."""
    c, sizes = model.config, sizes_of(trace)
    assert model.tokenizer is not None  # `checked_live` has seen it
    tables = model.tokenizer.tables()
    assert tables is not None
    page = {
        "model": model_facts(trace, sizes),
        "parts": part_table(trace, sizes),
        "detail": _everything(),
        "head scores": _head_scores(model),
        "commentary": [note._asdict() for note in notes(c)],
    }
    return {
        "config": {
            "n_layer": c.n_layer,
            "n_head": c.n_head,
            "n_embd": c.n_embd,
            "d_mlp": c.d_mlp,
            "n_positions": c.n_positions,
            "vocab": c.vocab_size,
            "epsilon": c.norm_epsilon,
            "scales": [c.attention_scale(layer) for layer in range(c.n_layer)],
            "activation": c.activation_function,
            "eos_ids": list(model.checkpoint.eos_ids),
        },
        "tokenizer": tables._asdict(),
        "sampling": asdict(Sampling()),
        "shapes": [[name, list(array.shape)] for name, array in model.weights.held.items()],
        "page": page,
        "ids": trace.token_ids,
        "text": model.decode(trace.token_ids),
    }


def _everything() -> dict[str, Any]:
    """The level of detail: whatever the run has, as it is."""
    return {
        "budget": MOST,
        "factors": dict.fromkeys(("n_embd", "d_head", "d_mlp", "outputs"), 1),
        "floats": True,
        "attention": "f4",
        "top": 0,
        "scores": True,
        "first": 0,
        "firstLens": 0,
        "compact": False,
        "reach": levels.REACH,
    }


def _head_scores(model: Model) -> list[dict[str, Any]]:
    """What kind of head each is, on random tokens said twice."""
    n = min(16, model.config.n_positions // 2)
    if n < 2:
        return []
    scored = head_scores(model, n, 2)
    where = f"on {n} random tokens said twice"
    names = enumerate(scored.labels["score"])
    return [{"name": name, "where": where, "values": scored.array[i].tolist()} for i, name in names]


def packed_weights(model: Model) -> str:
    """All weights as float16, in the order of `shapes`: base64 of gzip of all low bytes, then all high ones.

    Raises:
        InputError: one is larger than float16 can hold.
    """
    parts = []
    for name, array in model.weights.held.items():
        wide = np.asarray(widened(array), np.float32)
        if wide.size and not np.abs(wide).max() <= LARGEST:
            raise InputError(
                f"view --live: {name} has a weight above {LARGEST:,.0f}, which float16 cannot hold"
            )
        parts.append(wide.astype("<f2").ravel())
    both = np.concatenate(parts).view(np.uint8).reshape(-1, 2)
    return base64.b64encode(gzip.compress(both.T.tobytes(), 9, mtime=0)).decode("ascii")


def is_rounded(model: Model) -> bool:
    """Whether float16 changes a weight."""
    return any(
        not np.array_equal(wide.astype(np.float16).astype(wide.dtype), wide)
        for wide in map(widened, model.weights.held.values())
    )
