"""The extraction guide's TypeScript interface, `FullGPT2Extraction`, with the data of a trace.

A folder that is a JavaScript package without dependencies:

- `extraction.d.ts`: the interface, generated from the table of sites for this model's sizes;
- `extraction.bin`: every array, little-endian float32, one behind the other;
- `extraction.json`: tokens, and name, layer, shape and byte offset of each array;
- `extraction.js`: the loader, `loadExtraction()`; `package.json` says that it is a module.
"""

import json
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import TraceError
from gpt2np.outputs import whole_binary_file, whole_file, whole_folder
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.sites import TYPESCRIPT, Site
from gpt2np.tracing.trace import Trace

SCHEMA = "gpt2np.typescript/1"
LOADER = "extraction.js"
INDEX = "extraction.json"
FILES = ("package.json", LOADER, "extraction.d.ts", INDEX, "extraction.bin")
PACKAGE = {
    "name": "gpt2-extraction",
    "version": "1.0.0",
    "private": True,
    "type": "module",
    "main": LOADER,
    "types": "extraction.d.ts",
}
FUNCTIONS = """
/** Fetch an extraction and parse it; by default the one in the folder that this file is in. */
export declare function loadExtraction(folder?: string | URL): Promise<FullGPT2Extraction>;

/** The same from what extraction.json and extraction.bin hold; the arrays are views of `data`. */
export declare function parseExtraction(index: unknown, data: ArrayBuffer | Uint8Array): FullGPT2Extraction;
"""


def write_typescript(trace: Trace, folder: str | Path) -> int:
    """Write a trace as such a folder, made if need be with its parents; returns the number of arrays.

    The files appear together, or not at all, and none replaces an older one before all are written. Arrays of
    other precisions become float32.

    Raises:
        TraceError: the trace lacks a site, or positions, that the interface has.
        InputError: it is of another model than a GPT-2, or the folder cannot be written or is
            somebody else's.
    """
    gpt2_only(trace.config, "TypeScript interface")
    arrays = list(_arrays(trace))
    index, offset = _facts(trace), 0
    for facts, _ in arrays:
        facts["byteOffset"] = offset
        offset += 4 * math.prod(facts["shape"])
    index |= {"byteLength": offset, "arrays": [facts for facts, _ in arrays]}
    texts = (
        json.dumps(PACKAGE, indent=2) + "\n",
        resources.files("gpt2np.export").joinpath(LOADER).read_text("utf-8"),
        interface(trace.plan),
        json.dumps(index, ensure_ascii=False, allow_nan=False) + "\n",
    )
    with whole_folder(folder, INDEX) as target:
        for name, text in zip(FILES, texts, strict=False):
            with whole_file(target / name) as file:
                file.write(text)
        with whole_binary_file(target / FILES[-1]) as data:
            for _, name in arrays:
                data.write(np.ascontiguousarray(trace[name], "<f4").data)
    return len(arrays)


def interface(plan: Plan) -> str:
    """Return the `.d.ts` for a model: the guide's two interfaces, and the loader's two functions."""
    properties = [site for site in SITES if TYPESCRIPT in site.names]
    first = next(i for i, site in enumerate(properties) if site.layered)
    last = max(i for i, site in enumerate(properties) if site.layered) + 1
    run, layer = [*_TOKENS], ["  layerIndex: number;"]
    run += _section("Embeddings", properties[:first], plan)
    run += ["", f"  // Per-layer extractions ({plan.config.n_layer} layers)", "  layers: LayerExtraction[];"]
    run += _section("Final outputs", properties[last:], plan)
    for part, title in _PARTS.items():
        layer += _section(title, [s for s in properties[first:last] if s.name.startswith(part)], plan)
    lines = [
        "// Written by `gpt2np export --to ts`. `seq` is the number of tokens; the last axis varies fastest.",
        *("", "export interface FullGPT2Extraction {", *run, "}"),
        *("", "export interface LayerExtraction {", *layer, "}"),
    ]
    return "\n".join(lines) + "\n" + FUNCTIONS


_PARTS = {"attn.": "Attention", "mlp.": "MLP", "resid_": "Residual"}
_TOKENS = (
    "  // Tokenization",
    "  tokenIds: number[];",
    "  tokens: string[];",
    "  attentionMask: number[];",
    "  positionIds: number[];",
)


def _section(title: str, sites: list[Site], plan: Plan) -> Iterator[str]:
    """Lines of an interface: what each property tells, its type and its shape."""
    sizes: dict[str, Any] = plan.sizes() | dict.fromkeys(("pos", "query", "key"), "seq")
    yield from ("", f"  // {title}")
    for site in sites:
        shape = ", ".join(str(sizes[axis]) for axis in site.axis_names)
        yield f"  /** {site.doc} */"
        yield f"  {site.names[TYPESCRIPT][0] + ': Float32Array;':<35} // [{shape}]"


def _arrays(trace: Trace) -> list[tuple[dict[str, Any], str]]:
    """Every array of the interface: its line of the index, and its name in the trace."""
    if len(trace.positions) != len(trace.token_ids):
        kept, n = len(trace.positions), len(trace.token_ids)
        raise TraceError(
            f"the TypeScript interface holds whole texts; this trace kept {kept} of {n} positions"
        )
    own = trace.to("gpt2np")
    rows = [row for row in SITES.expand(trace.config.n_layer) if TYPESCRIPT in row[1].names]
    missing = [name for name, _, _ in rows if name not in own]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TraceError(f"the TypeScript interface has {missing[0]}{more}, which this trace did not keep")
    sizes = trace.plan.sizes()
    return [
        (
            {
                "name": site.names[TYPESCRIPT][0],
                "layer": layer,
                "shape": [sizes[axis] for axis in site.axis_names],
            },
            name,
        )
        for name, site, layer in rows
    ]


def _facts(trace: Trace) -> dict[str, Any]:
    """The index without its arrays."""
    guide = trace.to("guide")
    return {
        "schema": SCHEMA,
        "model": trace.metadata.get("model"),
        "layers": trace.config.n_layer,
        "tokenIds": trace.token_ids,
        "tokens": trace.tokens,
        "attentionMask": guide["attention_mask"].tolist(),
        "positionIds": guide["position_ids"].tolist(),
    }
