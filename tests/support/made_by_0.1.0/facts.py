"""What an opened file says, in a form that JSON holds: asked of the version that wrote it, and of later ones.

The functions take opened objects and import nothing of gpt2np, so that both versions can be asked alike.
"""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

METADATA = (
    "schema", "gpt2np", "model", "prompt", "n_prompt", "edits", "dtype", "stored_dtype", "positions",
    "stop_at_layer", "fingerprint", "predicted_next_token", "digest",
)  # fmt: skip
DERIVED = (
    "h.0.resid_pre", "h.0.ln_1.mean", "h.1.ln_1.normalized", "h.0.attn.q", "h.1.attn.k", "h.1.attn.v",
    "h.1.attn.heads", "h.1.ln_2.rstd", "ln_f.normalized", "probabilities", "top_k_tokens",
)  # fmt: skip


def digest(array: np.ndarray) -> str:
    """Type, shape and checksum of an array: two that have the same are the same bit for bit."""
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    shape = "x".join(map(str, array.shape))
    return f"{array.dtype.name} {shape} {zlib.crc32(data):08x}"


def trace_facts(trace: Any) -> dict[str, Any]:
    """What a Trace says of itself, and a digest of each array that it stores."""
    return {
        "token_ids": trace.token_ids,
        "tokens": trace.tokens,
        "positions": list(trace.positions),
        "metadata": {name: trace.metadata[name] for name in METADATA if name in trace.metadata},
        "arrays": {name: digest(trace[name]) for name in trace.names()},
    }


def derived_arrays(trace: Any) -> dict[str, np.ndarray]:
    """Some derived sites, computed from what a Trace stores."""
    return {name: trace[name] for name in DERIVED if name not in trace.names() and name in trace}


def summary(array: np.ndarray) -> list[float]:
    """Size, mean, root mean square, and a mean with other weights everywhere: what moves shows in one."""
    values = array.astype(np.float64).ravel()
    weights = np.cos(np.arange(values.size))
    return [values.size, values.mean(), np.sqrt((values**2).mean()), (values * weights).mean()]


def kv_facts(kv: Any) -> dict[str, Any]:
    """What a KV file says, digests of keys and values by layer, and their norms: [layer, part, head, pos]."""
    names = ("model", "text", "tokens", "token_ids", "prediction", "fingerprint", "exact", "digest")
    norms = [[kv.norms(layer, part).tolist() for part in ("key", "value")] for layer in range(kv.n_layer)]
    arrays = [[digest(array) for array in pair] for pair in kv.layers]
    return {name: getattr(kv, name) for name in names} | {"arrays": arrays, "norms": norms}


def capture_facts(capture: Any) -> dict[str, Any]:
    """The nested dict of a capture file as a flat one, with digests for arrays."""
    return dict(_flat("", capture))


def _flat(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _flat(f"{path}/{key}", child)
    elif isinstance(node, list) and isinstance(node[0], np.ndarray):
        for i, child in enumerate(node):
            yield from _flat(f"{path}/{i}", child)
    else:
        yield path[1:], digest(node) if isinstance(node, np.ndarray) else node
