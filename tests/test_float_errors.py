"""Callers may want NumPy to raise whatever underflows or overflows: nothing changes for them.

The model is made so that about everything underflows: attention that sees one key only, weights and parts
of the stream that vanish when they are squared.
"""

import json

import numpy as np
import pytest
from support import tiny_checkpoint

import gpt2np
from gpt2np.analysis import (
    attribution,
    circuits,
    heads,
    layer_norms,
    lens,
    neurons,
    patching,
    residual_stream,
    site_values,
    statistics,
)
from gpt2np.analysis.baseline_notebook import summary
from gpt2np.analysis.interventions import freeze, mean, patch, project, scale, steer, zero
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.export.llmc import write_llmc
from gpt2np.export.typescript import write_typescript
from gpt2np.kv.datasets import randoms, write_dataset
from gpt2np.kv.extraction import GPT2KVCacheExtractor
from gpt2np.kv.reading import read_kv
from gpt2np.kv.resume import load_kv

TEXT, OTHER = "the inn on", "the inn at"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    weights = tiny_checkpoint.tensors(3)
    factors = {"h.0.attn.c_attn": 40, "h.1.attn.c_attn": 1e-21, "h.1.attn.c_proj": 1e-30, "h.0.mlp.c_fc": 30}
    factors |= {"h.1.mlp.c_fc": 1e-25, "wpe": 1e-24, "h.1.ln_2": 1e-20, "ln_f.weight": 30}
    for name in weights:
        for part, factor in factors.items():
            if part in name:
                weights[name] = (weights[name] * np.float32(factor)).astype("<f4")
    folder = tiny_checkpoint.write(tmp_path_factory.mktemp("model"))
    (folder / "model.safetensors").write_bytes(tiny_checkpoint.safetensors(weights))
    return folder


def run(model, **options):
    return model.generate(TEXT, max_new_tokens=3, keep="*", **options).finish()


def edited(model, change):
    return model(TEXT, edits={"attn.z": change})


def opened(model, to, write, read):
    write(model.trace(TEXT), to)
    return read(to)


CALLS = {
    "logits": lambda m, _: m(TEXT),
    "float64": lambda m, _: gpt2np.load(m.name, dtype="float64")(TEXT),
    "a trace": lambda m, _: [m.trace(TEXT)[name] for name in m.trace(TEXT).names()],
    "derived sites": lambda m, _: [
        m.trace(TEXT)[s.full_name(1 if s.layered else None)] for s in m.config.architecture.sites
    ],
    "float16": lambda m, _: m.trace(TEXT, keep={"dtype": "float16"})["h.0.attn.pattern"],
    "derived of float16": lambda m, _: m.trace(TEXT, keep={"dtype": "float16"})["h.0.attn.heads"],
    "stored probabilities": lambda m, _: m.trace(TEXT, keep=["probabilities", "loss"])["probabilities"],
    "packed": lambda m, _: [t["logits"] for t in m.trace([TEXT, OTHER])],
    "top": lambda m, _: str(m.trace(TEXT).top(5)),
    "verify": lambda m, _: str(m.trace(TEXT).verify()),
    "greedy": lambda m, _: run(m).token_ids,
    "drawn": lambda m, _: run(m, temperature=0.01, seed=1, top_p=0.9, top_k=50, min_p=0.1).token_ids,
    "penalties": lambda m, _: run(
        m, repetition_penalty=1e20, presence_penalty=2, frequency_penalty=2
    ).token_ids,
    "beams": lambda m, _: m.generate(TEXT, max_new_tokens=3, num_beams=3).finish().token_ids,
    "a ledger": lambda m, _: json.dumps(
        [e.to_json() for e in run(m, temperature=0.5, seed=1, ledger="full").ledger]
    ),
    "a ledger of certain tokens": lambda m, _: json.dumps(
        [e.to_json() for e in run(m, temperature=0.01, seed=1, ledger="full").ledger]
    ),
    "a peaked prediction": lambda m, _: str(m.trace(TEXT, edits={"ln_f": lambda x: x * 300}).top()),
    "lookup": lambda m, _: run(m, lookup=2).token_ids,
    "views of a generation": lambda m, _: [
        run(m).steps[1]["logits"], run(m).attentions[0], run(m).hidden_states[0]
    ],
    "score": lambda m, _: m.score(TEXT).perplexity,
    "logit lens": lambda m, _: str(lens.logit_lens(m.trace(TEXT), token=5)),
    "predictions": lambda m, _: str(lens.predictions(m.trace(TEXT))),
    "attention lens": lambda m, _: str(lens.attention_lens(m.trace(TEXT))),
    "components": lambda m, _: attribution.components(m.trace(TEXT)).array,
    "attribution": lambda m, _: attribution.attribution(m.trace(TEXT), 5).array,
    "writers": lambda m, _: attribution.writers(m.trace(TEXT)).array,
    "similarity": lambda m, _: attribution.similarity(m.trace(TEXT)).array,
    "head scores": lambda m, _: heads.head_scores(m, n=4, repeats=2).array,
    "attention scores": lambda m, _: heads.attention_scores(m.trace(TEXT)).array,
    "nearest tokens": lambda m, _: str(heads.nearest_tokens(m, m.trace(TEXT)["ln_f"][-1])),
    "tokens read": lambda m, _: str(heads.tokens_read(m, m.trace(TEXT)["wpe"][-1])),
    "reads and writes": lambda m, _: str(heads.reads_and_writes(m, 1, 1)),
    "circuit norms": lambda m, _: circuits.circuit_norms(m).array,
    "copying": lambda m, _: circuits.copying_scores(m).array,
    "compositions": lambda m, _: [circuits.composition_scores(m, kind).array for kind in "qkv"],
    "token scores": lambda m, _: circuits.token_scores(m, 1, 1, [1, 2]).array,
    "token effects": lambda m, _: circuits.token_effects(m, 1, 1, [1, 2]).array,
    "effective embedding": lambda m, _: circuits.effective_embedding(m),
    "factors": lambda m, _: circuits.head_weights(m, 1, 1).qk.norm(),
    "norms": lambda m, _: layer_norms.norm_statistics(m).array,
    "a neuron": lambda m, _: str(neurons.neuron(m, 1, 1)),
    "most active": lambda m, _: str(neurons.most_active(m.trace(TEXT))),
    "sparsity": lambda m, _: neurons.sparsity(m.trace(TEXT)).array,
    **{
        f"the stream: {name}": lambda m, _, name=name: str(getattr(residual_stream, name)(m.trace(TEXT)))
        for name in (
            "magnitude_ratios basis_alignment erasure opposition amplification agreement memory".split()
        )
    },
    **{
        f"statistics: {name}": lambda m, _, name=name: str(getattr(statistics, name)(run(m)))
        for name in (
            "attention_statistics entropy distance first_token saturation attention_summary "
            "hidden_state_statistics layer_comparison comparison_by_step".split()
        )
    },
    "the notebook's summary": lambda m, _: summary(run(m)),
    "values of a site": lambda m, _: str(site_values.site_values(m.trace(TEXT), "h.1.attn.heads", head=1)),
    "zero": lambda m, _: edited(m, zero(heads=[1])),
    "scale": lambda m, _: edited(m, scale(1e-30, heads=[1])),
    "mean": lambda m, _: edited(m, mean([m.trace(TEXT)], heads=[1])),
    "patch": lambda m, _: edited(m, patch(m.trace(OTHER), heads=[1])),
    "steer": lambda m, _: m(TEXT, edits={"h.0.resid_post": steer(m.trace(OTHER)["wpe"][1], 1e-20)}),
    "freeze": lambda m, _: m(TEXT, edits={"h.1.ln_2": freeze(m.trace(TEXT))}),
    "project": lambda m, _: project(m.trace(TEXT), m.trace(TEXT)["wpe"][1]).array,
    "an edit that peaks": lambda m, _: m(TEXT, edits={"attn.q": lambda q: q * 1000}),
    "a sweep": lambda m, _: patching.sweep(
        m.trace(TEXT), m.trace(OTHER), patching.logit_difference(5, 6), "attn.z"
    ).array,
    "a page": lambda m, _: len(gpt2np.view(m.trace(TEXT)).html),
    "a page of a generation": lambda m, _: len(gpt2np.view(run(m, ledger=True)).html),
    "a notebook": lambda m, _: len(m.trace(TEXT)._repr_html_()),
    "a saved trace": lambda m, to: opened(
        m, to / "t.safetensors", gpt2np.Trace.save, gpt2np.Trace.open
    )["ln_f"],
    "an export": lambda m, to: [
        opened(m, to / f"{d}.npz", lambda t, p, d=d: write_dialect(t, p, "npz", d), read_dialect)["ln_f"]
        for d in ("hf", "guide", "transformer_lens")
    ],
    "texts": lambda m, to: [write_dialect(m.trace(TEXT), to / f"t.{k}", k) for k in ("json", "csv")],
    "TypeScript": lambda m, to: write_typescript(m.trace(TEXT), to),
    "llm.c": lambda m, to: write_llmc(m.trace(TEXT), to),
    "keys and values": lambda m, to: [
        opened(m, to / "kv.json", lambda t, p: GPT2KVCacheExtractor(m).save_to_json(
            GPT2KVCacheExtractor(m).extract_kv_cache(TEXT), p), read_kv).norms(1, "key"),
        load_kv(to / "kv.json", m).generate(max_new_tokens=2).finish().token_ids,
    ],
    "a dataset": lambda m, to: str(list(write_dataset(m, randoms(2), to))),
    "a capture": lambda m, to: str(
        capture_prompts(m, PromptSet("s", (Prompt(1, TEXT),)), to, options=Options(2, 0.01))[1]
    ),
    "a comparison": lambda m, to: gpt2np.compare(saved_dump(m, to), m, TEXT).verdict,
}  # fmt: skip


def saved_dump(model, folder):
    trace = model.trace(TEXT)
    np.savez(folder / "dump.npz", **{name: trace[name] for name in trace.names()})
    return folder / "dump.npz"


@pytest.mark.every(2)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_same_whatever_the_caller_set(folder, tmp_path, call):
    found = []
    for name, state in (("before", {"all": "ignore"}), ("after", {"all": "raise"})):
        (tmp_path / name).mkdir()
        with np.errstate(**state):
            found.append(call(gpt2np.load(folder), tmp_path / name))
    np.testing.assert_equal(*found)


def test_threads_of_a_long_pass(tiny):
    text = list(range(100, 340))
    expected = gpt2np.load("tiny", threads=2).trace(text, edits={"attn.qkv": lambda x: x * 100})["logits"]
    with np.errstate(all="raise"):
        found = gpt2np.load("tiny", threads=2).trace(text, edits={"attn.qkv": lambda x: x * 100})["logits"]
    np.testing.assert_array_equal(found, expected)
