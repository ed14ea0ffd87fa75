"""The facts of a page: the model, and the steps of a generation."""

from dataclasses import asdict
from typing import Any

import numpy as np

from gpt2np.characters import joined, readable
from gpt2np.errors import TraceError
from gpt2np.generation.beam import Beams
from gpt2np.generation.filters import probabilities
from gpt2np.generation.generated import Generated, Step
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.edits import each_edit
from gpt2np.tracing.lines import ends_with_a_shift
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import Sizes
from gpt2np.viewer.model_parts import kinds_of_layers

NAMES = {"gpt2": "GPT-2", "gpt_neo": "GPT-Neo", "gemma2": "Gemma-2"}  # of models without one of their own
LISTED = 10  # candidates of a step, and logits that a penalty changed
MOST_BEAMS = 20_000  # beams of all steps together that a page has
LONGEST = 80  # characters of a token that a page shows


def model_facts(trace: Trace, sizes: Sizes) -> dict[str, Any]:
    """The model's name and sizes."""
    c, kind = trace.config, trace.config.architecture.model_type
    return {
        "type": kind,
        "name": str(trace.metadata.get("model") or NAMES.get(kind, kind))[:200],
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_kv_head": c.n_kv_head,
        "n_embd": c.n_embd,
        "d_head": c.d_head,
        "d_mlp": c.d_mlp,
        "vocab": c.vocab_size,
        "kinds": kinds_of_layers(c),
        "capped": "logits_raw" in c.architecture.sites,
        "windows": [c.window(layer) for layer in range(sizes.layers)],
        "n_positions": c.n_positions,
        "ran": sizes.layers,
        "parameters": c.n_parameters,
        "embeddings": [site.name for site in c.architecture.sites.before_layers],
        "norm": "LayerNorm" if ends_with_a_shift(c) else "RMSNorm",
        "activation": c.activation_function,
        "dtype": trace.plan.dtype.name,
        "edits": each_edit(trace.metadata),
        "gpt2np": str(trace.metadata.get("gpt2np")),
    }


def as_written(trace: Trace) -> dict[str, Any]:
    """How tokens are shown that are parts of characters, and the text without such parts; else nothing."""
    tokens = trace.tokens
    shown = readable(tokens)
    if shown == tokens:
        return {}
    return {"shown": [token[:LONGEST] for token in shown], "written": joined(tokens)[:2000]}


def has_choices(run: Trace | Generated) -> bool:
    """Whether tokens were generated in a run: only then its page has a panel of choices."""
    if isinstance(run, Generated):
        return bool(run.probabilities)
    n_prompt = run.metadata.get("n_prompt")
    return type(n_prompt) is int and 1 <= n_prompt < len(run.token_ids)


def generation_facts(run: Trace | Generated, ids: set[int]) -> dict[str, Any] | None:
    """The steps of a generation: what was chosen from what; None where a text was only read.

    `ids` takes up the tokens that are named.
    """
    if isinstance(run, Generated):
        steps = [_step(step, ids) for step in run.steps]
        sampling = {name: value for name, value in asdict(run.sampling).items() if _matters(name, value)}
        told = {"n_prompt": run.n_prompt, "stopped_by": run.stopped_by, "sampling": sampling, "last": None}
        if len(run.token_ids) > len(run.probabilities):
            ids |= set(run.token_ids)
            told["last"] = {"id": run.token_ids[-1], "token": run.tokens[-1][:80]}
        beams = None if run.beams is None else _beams(run.beams, run.n_prompt, ids)
        return told | {"steps": steps, "ledger": bool(run.ledger), "beams": beams}
    if not has_choices(run):
        return None
    n_prompt = run.metadata["n_prompt"]
    steps = [_read(run, pos, ids) for pos in range(n_prompt - 1, len(run.token_ids) - 1)]
    told = {"n_prompt": n_prompt, "stopped_by": None, "sampling": None, "last": None}
    return told | {"steps": steps, "ledger": False, "beams": None}


def _beams(beams: Beams, n_prompt: int, ids: set[int]) -> dict[str, Any]:
    """Every step of a beam search and the texts at its end; without steps where they are too many."""
    texts = [list(text.token_ids[n_prompt:]) for text in beams.hypotheses]
    told: dict[str, Any] = {
        "texts": [
            {"ids": text, "score": each.score} for text, each in zip(texts, beams.hypotheses, strict=True)
        ]
    }
    ids |= {i for text in texts for i in text}
    if sum(len(step.live) + len(step.ended) for step in beams.steps) > MOST_BEAMS:
        return told | {"steps": []}
    ids |= {each.token_id for step in beams.steps for each in (*step.live, *step.ended)}
    return told | {"steps": [{"live": step.live, "ended": step.ended} for step in beams.steps]}


def _step(step: Step, ids: set[int]) -> dict[str, Any]:
    """One choice, with its ledger if there is one."""
    told: dict[str, Any] = {
        "id": step.token_id,
        "p": _finite(step.probability),
        "own": _own_chance(step),
        "pos": step.positions[-1],
        "candidates": [],
        "removals": None,
        "penalized": _penalized(step, ids),
    }
    entry = step.ledger
    if entry is None:
        try:
            chances = step.distribution
        except TraceError:
            return told
        best = [i for i in top_k_tokens(chances, LISTED).tolist() if chances[i] > 0]
        told["candidates"] = [[i, float(chances[i])] for i in best]
    else:
        told["candidates"] = [[i, p] for i, p in entry.top]
        told["removals"] = [
            {"name": r.name, "count": r.count, "mass": r.mass, "ids": list(r.most_likely)}
            for r in entry.removals
        ]
        told |= {
            "survivors": entry.survivors,
            "entropy": entry.entropy,
            "rank": entry.raw_rank,
            "logit": _finite(entry.raw_logit),
            "uniform": entry.uniform,
            "interval": entry.interval,
        }
        ids |= {i for removal in entry.removals for i in removal.most_likely}
    ids |= {step.token_id, *(i for i, _ in told["candidates"])}
    return told


def _own_chance(step: Step) -> float | None:
    """The probability that the model gave to the chosen token, before any option; None without logits."""
    try:
        logits = step["logits"][-1]
    except TraceError:
        return None
    return float(probabilities(logits.astype(np.float32))[step.token_id])


def _penalized(step: Step, ids: set[int]) -> list[dict[str, Any]]:
    """What each penalty changed: how many logits, and the largest changes as (id, before, after)."""
    try:
        found = step.penalized
    except TraceError:
        return []
    told = []
    for name, token_ids, before, after in found:
        changes = zip(token_ids.tolist(), before.tolist(), after.tolist(), strict=True)
        largest = [(i, a, _finite(b)) for i, a, b in list(changes)[:LISTED]]
        ids |= {i for i, _, _ in largest}
        told.append({"name": name, "count": len(token_ids), "largest": largest})
    return told


def _read(trace: Trace, pos: int, ids: set[int]) -> dict[str, Any]:
    """A step of a saved trace: how it was chosen is not known, only what the model thought of it."""
    chosen = trace.token_ids[pos + 1]
    top = trace.top(min(LISTED, trace.config.vocab_size), pos)
    p = float(np.exp(-trace["loss"][pos])) if "logits" in trace else None
    ids |= {chosen, *(i for _, i, _ in top)}
    candidates = [[i, p] for _, i, p in top]
    return {"id": chosen, "p": p, "own": p, "pos": pos, "candidates": candidates, "removals": None}


def _matters(name: str, value: Any) -> bool:
    """Whether an option differs from its default, or is the temperature."""
    from gpt2np.generation.options import Sampling

    return name == "temperature" or value != getattr(Sampling(), name)


def _finite(x: float | None) -> float | None:
    return None if x is None or not np.isfinite(x) else float(x)
