"""Whole numbers may be NumPy's wherever they may be Python's: results and files are the same."""

import numpy as np
import pytest

import gpt2np
from gpt2np.analysis import attribution, circuits, heads, lens, neurons, patching, site_values, statistics
from gpt2np.analysis.interventions import zero
from gpt2np.capture.formats import internals_sites, layer_internals
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.errors import Gpt2npError, InputError
from gpt2np.kv.datasets import randoms, write_dataset
from gpt2np.kv.extraction import GPT2KVCacheExtractor

TEXT = "Elizabeth was not"
KEPT = "logits"

# What is called with `n`, which makes a number: int, or a NumPy type.
CALLS = {
    "logits": lambda m, n, _: m([n(36), n(36), n(340)]),
    "stop_at_layer": lambda m, n, _: m.trace(TEXT, stop_at_layer=n(2))["h.1.resid_post"],
    "a plan": lambda m, n, _: str(m.plan(n(7), stop_at_layer=n(1))),
    "a layer of a site": lambda m, n, _: m.trace(TEXT)["attn.pattern", n(1)],
    "top": lambda m, n, _: m.trace(TEXT).top(n(3), pos=n(-1)),
    "positions kept": lambda m, n, _: m.trace(TEXT, keep={"positions": slice(n(1), n(3), n(1))})["wte"],
    "options": lambda m, n, _: m.generate(
        TEXT, max_new_tokens=n(4), temperature=1.0, top_k=n(20), seed=n(3), no_repeat_ngram_size=n(2)
    ).finish().token_ids,
    "lists of numbers": lambda m, n, _: [
        d.token_ids
        for d in m.generate(
            [TEXT] * 2, max_new_tokens=n(4), temperature=1.0, seed=[n(1), n(2)], stop_tokens=[n(5)], eos=n(7)
        ).finish()
    ],
    "beams": lambda m, n, _: m.generate(TEXT, max_new_tokens=n(4), num_beams=n(2)).finish().token_ids,
    "lookup": lambda m, n, _: m.generate(TEXT, max_new_tokens=n(4), lookup=n(2)).finish().token_ids,
    "stride": lambda m, n, _: m.score(TEXT * 3, stride=n(4)).losses,
    "threads": lambda m, n, _: gpt2np.load("tiny", threads=n(1))(TEXT),
    "lens": lambda m, n, _: str(lens.logit_lens(m.trace(TEXT), token=n(300), k=n(2), pos=n(1))),
    "attention lens": lambda m, n, _: str(lens.attention_lens(m.trace(TEXT), layer=n(1), pos=n(1), k=n(2))),
    "components": lambda m, n, _: attribution.components(m.trace(TEXT), layer=n(2), pos=n(1)).array,
    "attribution": lambda m, n, _: attribution.attribution(m.trace(TEXT), n(300), pos=n(1)).array,
    "circuits": lambda m, n, _: circuits.head_weights(m, n(1), n(2)).W_Q,
    "neurons": lambda m, n, _: neurons.neuron_activations(m.trace(TEXT), n(1), n(5)).array,
    "most active": lambda m, n, _: str(neurons.most_active(m.trace(TEXT), k=n(3), pos=n(1))),
    "heads": lambda m, n, _: heads.head_scores(m, n=n(8), repeats=n(2), seed=n(1)).array,
    "reads and writes": lambda m, n, _: str(heads.reads_and_writes(m, n(1), n(2), directions=n(1), k=n(2))),
    "values": lambda m, n, _: site_values.site_values(m.trace(TEXT), "h.1.attn.z", head=n(1), pos=n(1)).array,
    "zero": lambda m, n, _: m(TEXT, edits={"attn.z": zero(heads=[n(1)], positions=[n(1)])}),
    "differences": lambda m, n, _: patching.logit_difference(n(300), n(301))(m(TEXT, last=True)),
    "comparison": lambda m, n, _: statistics.layer_comparison(
        m.generate(TEXT, max_new_tokens=n(2), keep="*").finish(), step=n(0), pos=n(1)
    ).array,
    "internals": lambda m, n, _: layer_internals(
        m.generate(TEXT, max_new_tokens=n(2), keep=internals_sites(n(1), m.config)).finish(), n(1)
    )["prompt"]["attention"]["attn_weights"],
    "saved positions": lambda m, n, to: saved(m, to, keep={"positions": slice(n(1), None)}),
    "saved stop": lambda m, n, to: saved(m, to, stop_at_layer=n(1)),
    "saved edit": lambda m, n, to: saved(m, to, edits={"attn.z": zero(heads=[n(1)], positions=[n(1)])}),
    "saved generation": lambda m, n, to: generated(m, to, max_new_tokens=n(2), temperature=1.0, seed=n(5)),
    "a capture": lambda m, n, to: [
        e.path
        for e in capture_prompts(
            m, PromptSet("s", (Prompt(1, TEXT),)), to, layers=[n(1)], options=Options(n(2), 1.0, n(3))
        )[0]
    ],
    "a dataset": lambda m, n, to: [
        e["input_text"] for e, _ in write_dataset(m, randoms(n(1), n(3)), to, top_k=n(2))
    ],
    "keys and values": lambda m, n, _: GPT2KVCacheExtractor(m).extract_kv_cache(TEXT, n(2))["input_tokens"],
}  # fmt: skip


def saved(model, folder, **options):
    model.trace(TEXT, **options).save(folder / "t.safetensors")
    return gpt2np.Trace.open(folder / "t.safetensors").names()


def generated(model, folder, **options):
    done = model.generate(TEXT, keep=KEPT, **options).finish()
    done.trace.save(folder / "g.safetensors")
    return gpt2np.Trace.open(folder / "g.safetensors")["logits"]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.int16])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_number_of_numpy(tiny, tmp_path, call, kind):
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for folder in folders:
        folder.mkdir()
    expected, found = (call(tiny, n, folder) for n, folder in zip((int, kind), folders, strict=True))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_what_is_no_whole_number(tiny):
    for wrong in (True, np.True_, 1.0, np.float64(1), "1", object(), [1], np.array([1, 2])):
        with pytest.raises(InputError, match="must be a whole number from 0 to 4"):
            tiny.trace(TEXT, stop_at_layer=wrong)


LONG = 10**5000  # Python does not print it

OPTIONS = """stop stop_tokens keep ledger on_overflow past top_p min_p repetition_penalty presence_penalty
    frequency_penalty length_penalty temperature eos""".split()
NEGATIVE = "top_k max_new_tokens no_repeat_ngram_size num_beams seed lookup".split()
LONG_CALLS = {name: lambda m, name=name: m.generate(TEXT, **{name: LONG}) for name in OPTIONS}
LONG_CALLS |= {f"-{name}": lambda m, name=name: m.generate(TEXT, **{name: -LONG}) for name in NEGATIVE}
LONG_CALLS |= {
    "a plan": lambda m: m.plan(LONG),
    "kept": lambda m: m.trace(TEXT, keep=LONG),
    "a stop": lambda m: m.trace(TEXT, stop_at_layer=LONG),
    "ids": lambda m: m.decode([-LONG]),
    "tokens": lambda m: m.tokens([-LONG]),
    "bytes of a token": lambda m: m.tokenizer.token_bytes(LONG),
    "a name of weights": lambda m: m.with_weights({LONG: 1}),
    "a dialect": lambda m: m.trace(TEXT).to(LONG),
    "a layer": lambda m: circuits.head_weights(m, LONG, 0),
    "heads": lambda m: heads.head_scores(m, n=LONG),
    "a model": lambda m: gpt2np.load(LONG),
    "a precision": lambda m: gpt2np.load("tiny", dtype=LONG),
}


@pytest.mark.parametrize("call", LONG_CALLS.values(), ids=LONG_CALLS)
def test_a_number_of_5000_digits(tiny, call):
    with pytest.raises(Gpt2npError) as caught:
        call(tiny)
    assert len(str(caught.value)) < 300
