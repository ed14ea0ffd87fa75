"""What `gpt2np trace` and `gpt2np info` print: facts first, then the same facts as text or JSON."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpt2np.characters import joined, readable
from gpt2np.errors import TokenizerError, TraceError, printable
from gpt2np.tables import fitted, number, quoted, strict_json, wrapped
from gpt2np.tracing.plan import human_bytes
from gpt2np.tracing.sites import DIALECTS, Site

as_json = strict_json


def trace_facts(model: Any, trace: Any, lens: list[Any], k: int) -> dict[str, Any]:
    """What a trace says, in the order in which it is shown."""
    return {
        "model": _model_line(model),
        "edited": trace.edited or None,
        "tokens": [{"token": t, "id": i} for t, i in zip(trace.tokens, trace.token_ids, strict=True)],
        "top": _likeliest(trace, min(k, model.config.vocab_size)),
        "lens": [{"site": site, **_prediction(*tops[0])} for site, tops in lens],
        "sites": site_facts(trace),
        "bytes": trace.nbytes,
    }


def _likeliest(trace: Any, k: int) -> list[dict[str, Any]]:
    """The k likeliest next tokens; none of a saved trace without logits."""
    try:
        return [_prediction(*top) for top in trace.top(k)]
    except TraceError:
        return []


def _prediction(token: str, token_id: int, probability: float) -> dict[str, Any]:
    return {"token": token, "id": token_id, "probability": probability}


def _model_line(model: Any) -> dict[str, Any]:
    c = model.config
    return {
        "name": model.name,
        "layers": c.n_layer,
        "heads": c.n_head,
        "n_embd": c.n_embd,
        "vocab": c.vocab_size,
        "parameters": model.n_parameters,
        "dtype": model.dtype.name,
        "commit": model.checkpoint.commit,
        "fingerprint": model.checkpoint.fingerprint,
    }


def site_facts(trace: Any) -> list[dict[str, Any]]:
    """One row a site, its layers together: axes, shape, bytes, and the range of its finite values."""
    rows = []
    for site in trace.config.architecture.sites:
        names = [name for name in trace.names() if trace.plan.by_name[name].site is site]
        if not names:
            continue
        ranges = [r for name in names if (r := _finite_range(trace[name])) is not None]
        rows.append(
            {
                "site": ("h.*." if site.layered else "") + site.name,
                "layers": len(names) if site.layered else None,
                "axes": site.axis_names,
                "shape": list(trace[names[0]].shape),
                "bytes": sum(trace[name].nbytes for name in names),
                "min": min((low for low, _ in ranges), default=None),
                "max": max((high for _, high in ranges), default=None),
            }
        )
    return rows


def _finite_range(array: Any) -> tuple[float, float] | None:
    values = array[np.isfinite(array)]
    return (float(values.min()), float(values.max())) if values.size else None


def trace_text(facts: dict[str, Any]) -> str:
    """The facts of a trace for a terminal of 80 columns."""
    m = facts["model"]
    head = f"{m['name']}: {m['layers']} layers, {m['heads']} heads, n_embd {m['n_embd']}, vocab {m['vocab']}"
    parts = [wrapped(f"model  {head}, {m['dtype']}")]
    told = [t["token"] for t in facts["tokens"]]
    shown = readable(told)
    if shown != told:  # the text stands nowhere in tokens that are parts of its characters
        parts.append(wrapped(f"text  {printable(joined(told))}"))
    tokens = [[str(i), str(t["id"]), quoted(shown[i])] for i, t in enumerate(facts["tokens"])]
    parts.append("tokens\n" + fitted([["pos", "id", "token"], *_shortened(tokens)], ">><"))
    top = [[quoted(t["token"]), str(t["id"]), f"{t['probability']:.2%}"] for t in facts["top"]]
    if top:
        parts.append("next token\n" + fitted([["token", "id", "probability"], *top], "<>>"))
    lens = [[r["site"], quoted(r["token"]), str(r["id"]), f"{r['probability']:.2%}"] for r in facts["lens"]]
    if lens:
        title = "what it would predict if it stopped here (ln_f and unembedding of the residual)"
        parts.append(f"{wrapped(title)}\n" + fitted([["after", "token", "id", "probability"], *lens], "<<>>"))
    sites = []
    for row in facts["sites"]:
        low, high = ("" if row[end] is None else number(row[end]) for end in ("min", "max"))
        shape = " ".join(str(n) for n in row["shape"])
        sites.append([row["site"], " ".join(row["axes"]), shape, human_bytes(row["bytes"]), low, high])
    title = f"recorded: {human_bytes(facts['bytes'])} (h.* stands for every layer; the shape is one layer's)"
    header = ["site", "axes", "shape", "bytes", "min", "max"]
    parts.append(f"{wrapped(title)}\n" + fitted([header, *sites], "<<<>>>"))
    return "\n\n".join(parts)


def _shortened(rows: list[list[str]], most: int = 40) -> list[list[str]]:
    """The first and last of many rows."""
    if len(rows) <= most:
        return rows
    left_out = f"... {len(rows) - most + 1} more"
    return [*rows[: most // 2], ["", "", left_out], *rows[len(rows) - most // 2 + 1 :]]


def model_facts(model: Any, full_hash: bool = False) -> dict[str, Any]:
    """What `gpt2np info` says of a model."""
    parts = dict(model.config.parameters_by_component())
    unembedding = model.config.architecture.naming.tied[0]
    if unembedding in model.weights:
        parts["unembedding (untied)"] = int(model.weights.held[unembedding].size)
    c = model.checkpoint
    return {
        "name": model.name,
        "folder": str(c.folder.resolve()),
        "files": [{"name": path.name, "bytes": path.stat().st_size} for path in c.files],
        "commit": c.commit,
        "fingerprint": c.fingerprint,
        "sha256": c.full_hash() if full_hash else None,
        "config": model.config.to_dict(),
        "parameters": model.n_parameters,
        "weights": {
            "held_as": model.weights.narrow or model.dtype.name,
            "held": sum(array.nbytes for array in model.weights.held.values()),
            **{name: model.n_parameters * size for name, size in (("float32", 4), ("float64", 8))},
        },
        "parameters_by_component": parts,
        "vocabulary": None if model.usable_tokenizer is None else model.usable_tokenizer.n_vocab,
        "vocabulary_parts": _vocabulary_parts(model.usable_tokenizer),
    }


def _vocabulary_parts(tokenizer: Any) -> dict[str, int] | None:
    """Bytes, merges and added tokens; None for a vocabulary of another kind."""
    try:
        return None if tokenizer is None else dict(tokenizer.parts())
    except TokenizerError:
        return None


def model_text(facts: dict[str, Any]) -> str:
    """The facts of a model for a terminal of 80 columns."""
    total = facts["parameters"]
    where = [["folder", facts["folder"]]]
    where += [["file", f"{f['name']}, {f['bytes']:,} bytes"] for f in facts["files"]]
    where += [[key, facts[key]] for key in ("commit", "fingerprint", "sha256") if facts[key]]
    w = facts["weights"]
    where.append(["weights", f"{w['held']:,} bytes, held as {w['held_as']}"])
    where += [["", f"{w[k]:,} bytes as {k}"] for k in ("float32", "float64") if k != w["held_as"]]
    words = "none: takes ids only" if facts["vocabulary"] is None else f"{facts['vocabulary']:,} tokens"
    if parts := facts["vocabulary_parts"]:
        words += f": {' + '.join(f'{n:,} {name}' for name, n in parts.items())}"
    where.append(["vocabulary", words])
    config = [[key, json.dumps(value)] for key, value in facts["config"].items()]
    parts = [[name, f"{n:,}", f"{n / total:.1%}"] for name, n in facts["parameters_by_component"].items()]
    return "\n\n".join(
        [
            f"model {facts['name']}\n" + fitted(where, "<<"),
            "config\n" + fitted(config, "<<"),
            "parameters\n" + fitted([*parts, ["total", f"{total:,}", ""]], "<>>"),
        ]
    )


def markdown_table(table: Iterable[Site]) -> str:
    """The sites of an architecture as the README shows them."""
    lines = [
        "| site | axes | what it tells you | extraction guide | HF | TransformerLens | llm.c | captures |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for site in table:
        elsewhere = [f"`{n}`" if (n := site.dialect_name(d, None)) else "-" for d in DIALECTS]
        elsewhere = [n.replace("None", "i") for n in elsewhere]
        elsewhere.append(", ".join(f"`{place}`" for place in site.captures) or "-")
        name = f"`{site.full_name(None).replace('None', 'i')}`" + (" *" if site.derived else "")
        lines.append(f"| {name} | {site.axes} | {site.doc} | {' | '.join(elsewhere)} |")
    return "\n".join([*lines, "", "\\* derived on access, stored only when asked for by name", ""])
