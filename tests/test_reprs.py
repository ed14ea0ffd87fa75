"""What people see at the end of a line or a cell: short, complete in itself, with what the thing is."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import gpt2np
from gpt2np.analysis import (
    attribution,
    circuits,
    directions,
    heads,
    interventions,
    lens,
    neurons,
    patching,
    residual_stream,
    site_values,
    two_prompts,
)
from gpt2np.analysis.named_array import NamedArray
from gpt2np.capture.prompt_set import load_prompt_set
from gpt2np.html_tables import coloured, heat_table, plain_table, shaded_text, text_block
from gpt2np.kv.queries import KV
from gpt2np.reference.fixture import make_fixture
from gpt2np.reference.token_comparison import compare_tokens

PROMPT = "Elizabeth was"


def unfinished(model):
    generation = model.generate(PROMPT, max_new_tokens=5)
    next(generation)
    return generation


def wrong(model, trace):
    dump = dict(trace.items())
    dump["h.1.mlp.post"] = dump["h.1.mlp.post"] * 1.01
    return gpt2np.compare(dump, model, PROMPT)


# What is returned, and what must be seen of it in text and in HTML (None: it has none of its own).
RESULTS = {
    "model": (lambda m, t, d: m, "4 layers", "2,222,208"),
    "weights": (lambda m, t, d: m.weights, "52 arrays", "wte.weight"),
    "parameters": (lambda m, t, d: m.parameters, "wte [2048, 192]", None),
    "block": (lambda m, t, d: m.parameters.h[0], "c_attn", None),
    "config": (lambda m, t, d: m.config, "n_layer=4", None),
    "architecture": (lambda m, t, d: m.config.architecture, "gpt2", None),
    "sites": (lambda m, t, d: m.config.architecture.sites, "sites", None),
    "tokenizer": (lambda m, t, d: m.tokenizer, "2,048 ids", "end of text"),
    "trace": (lambda m, t, d: t, "Elizabeth was", "gpt2np.view(trace)"),
    "plan": (lambda m, t, d: m.plan(3), "3 positions", "linear in tokens"),
    "verification": (
        lambda m, t, d: t.verify(),
        "identities",
        "h.0.attn.z = mix(h.0.attn.pattern, h.0.attn.v)",
    ),
    "hf": (lambda m, t, d: t.to("hf"), "hf names", None),
    "unfinished": (lambda m, t, d: unfinished(m), "1 of at most 5", PROMPT),
    "generated": (lambda m, t, d: d, "5 tokens", "probability of each"),
    "steps": (lambda m, t, d: d.steps, "Step 1", None),
    "step": (lambda m, t, d: d.steps[1], "Step 1", "(chosen)"),
    "prompt": (lambda m, t, d: d.prompt, PROMPT, None),
    "tokens": (lambda m, t, d: list(m.generate(PROMPT, max_new_tokens=2, ledger="full")), "step 1", None),
    "ledger": (lambda m, t, d: d.ledger, "raw rank", None),
    "score": (lambda m, t, d: m.score(PROMPT), "perplexity", "loss of each token"),
    "logit lens": (lambda m, t, d: lens.logit_lens(t), "2 | was|", "h.3.resid_post"),
    "attention lens": (lambda m, t, d: lens.attention_lens(t), "raises", "lowers 1"),
    "predictions": (lambda m, t, d: lens.predictions(t), "embed", None),
    "attribution": (lambda m, t, d: attribution.attribution(t, " not"), "more lines", "h.0.attn.head.0"),
    "components": (lambda m, t, d: attribution.components(t), "largest", "largest"),
    "heads": (lambda m, t, d: heads.head_scores(m, 8, 1), "induction", "induction"),
    "directions of a head": (lambda m, t, d: heads.reads_and_writes(m, 0, 1), "<QK", None),
    "neuron": (lambda m, t, d: neurons.neuron(m, 0, 1), "excited by", "excited by"),
    "head weights": (lambda m, t, d: circuits.head_weights(m, 0, 1), "W_Q [192, 48]", None),
    "low rank": (lambda m, t, d: circuits.head_weights(m, 0, 1).ov, "rank 48", None),
    "composition": (lambda m, t, d: circuits.composition_scores(m, "q"), "composition", "writer"),
    "interference": (lambda m, t, d: directions.interference(m, 4), "token embeddings", "token embeddings"),
    "erasure": (lambda m, t, d: residual_stream.erasure(t), "largest", "writer"),
    "two prompts": (lambda m, t, d: two_prompts.stream_distance(t, t), "cosine", "cosine"),
    "pattern": (lambda m, t, d: site_values.site_values(t, "h.1.attn.pattern"), "Attention", "head 3"),
    "logits": (lambda m, t, d: site_values.site_values(t, "logits"), "2048", "…"),
    "intervention": (lambda m, t, d: interventions.zero(heads=[1]), "zero: heads=[1]", None),
    "patching": (lambda m, t, d: sweep(m), "patched", "patched"),
    "right": (lambda m, t, d: gpt2np.compare(t, m), "within-noise", "within-noise"),
    "wrong": (lambda m, t, d: wrong(m, t), "h.1.mlp.post", "mlp.post"),
    "tokens compared": (lambda m, t, d: compare_tokens(m.tokenizer, PROMPT * 50, [1]), "they part", None),
    "extractor": (lambda m, t, d: gpt2np.GPT2KVCacheExtractor(m), "tiny", None),
    "kv": (lambda m, t, d: KV.of(t), "4 layers", None),
    "fixture": (lambda m, t, d: make_fixture(), "seed 0", None),
    "prompt set": (lambda m, t, d: load_prompt_set("baseline"), "prompts", None),
    "page": (lambda m, t, d: gpt2np.view(t), "bytes of HTML", None),
}


def sweep(model):
    ids = model.token_ids(PROMPT)
    return patching.sweep(ids, [*ids[:-1], 5], patching.logit_difference(1, 2), model=model)


@pytest.fixture(scope="module")
def run(tiny):
    options = {"max_new_tokens": 5, "temperature": 0.8, "seed": 1, "keep": "*", "ledger": True}
    return tiny, tiny.trace(PROMPT), tiny.generate(PROMPT, **options).finish()


class Cells(HTMLParser):
    """Every opened element is closed, and no address is outside; keeps the styles of cells and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.styles, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe", "style")
        self.open.append(tag)
        self.styles += [value for name, value in attrs if name == "style" and "background" in value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def luminance(colour):
    colour = {"black": "000", "white": "fff"}.get(colour, colour)
    whole = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = [int(whole[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(style):
    found = re.fullmatch(r"background:#(\w+);color:(\w+)", style)
    light, dark = sorted(map(luminance, found.groups()), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def checked(shown):
    """Small, closed, without addresses, readable."""
    assert len(shown.encode("utf-8")) < 20_000
    assert "://" not in shown
    cells = Cells(shown)
    assert all(contrast(style) >= 4.5 for style in cells.styles)
    return cells


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_shows_what_it_is(run, name):
    make, in_text, in_html = RESULTS[name]
    result = make(*run)
    text = repr(result)
    assert in_text in text
    assert len(text) < 3000
    assert " at 0x" not in text
    assert "array(" not in text
    assert len(text.splitlines()) <= 24
    if in_html is not None:
        assert in_html in checked(result._repr_html_()).text
    elif name != "page":
        assert not hasattr(result, "_repr_html_") or checked(result._repr_html_())


@pytest.mark.parametrize(
    "trace",
    [
        lambda m: m.trace("Elizabeth was not " * 40),
        lambda m: m.trace([5], keep="wte"),
        lambda m: m.trace("<b>&</b>", keep={"positions": slice(1, None)}),
        lambda m: m.trace("日本 🙂\n\x1b[0m"),
        lambda m: m.trace("a b", stop_at_layer=0),
    ],
)
def test_any_trace_shows_itself(tiny, trace, tmp_path):
    made = trace(tiny)
    assert "Recorded" in checked(made._repr_html_()).text
    made.save(tmp_path / "t.safetensors")
    assert "Recorded" in checked(gpt2np.Trace.open(tmp_path / "t.safetensors")._repr_html_()).text


@pytest.mark.parametrize(
    "shape", [(), (1,), (5,), (500,), (3, 4), (144, 144), (4, 12, 12), (2, 3, 500), (2, 2, 2, 2)]
)
@pytest.mark.parametrize("values", ["normal", "positive", "zero", "nan", "integers"])
def test_any_array_shows_itself(shape, values):
    rng = np.random.default_rng(0)
    array = {
        "normal": rng.standard_normal(shape),
        "positive": rng.random(shape),
        "zero": np.zeros(shape),
        "nan": np.full(shape, np.nan),
        "integers": rng.integers(-5, 5, shape),
    }[values]
    axes = tuple(f"axis{i}" for i in range(len(shape)))
    labels = {axes[-1]: ["<&\"'> 🙂\n" * 20] * shape[-1]} if shape else {}
    named = NamedArray(np.asarray(array), axes, labels, "what it is\nand how to read it")
    assert "what it is" in checked(named._repr_html_()).text
    assert len(repr(named).splitlines()) <= 20


def test_one_is_not_plural(tiny):
    run = tiny.generate([5], max_new_tokens=1, keep="wte")
    assert "1 prompt," in repr(run)
    done = run.finish()
    for shown in (repr(done), repr(done.trace), repr(done.prompt), repr(done.trace.plan)):
        assert "1 tokens" not in shown
        assert "1 arrays" not in shown
        assert "1 positions" not in shown


def test_colours():
    assert coloured(0.0, 1.0) == "background:#ffffff;color:black"
    assert coloured(1.0, 1.0) == "background:#b2182b;color:white"
    assert coloured(-1.0, 1.0) == coloured(-3.0, 1.0) == "background:#2166ac;color:white"
    assert coloured(float("nan"), 1.0) == coloured(float("inf"), 1.0)
    for value in np.linspace(-1, 1, 201):
        assert contrast(coloured(float(value), 1.0)) >= 4.5


def test_what_is_too_large_is_cut_in_the_middle():
    rows = [str(i) for i in range(1000)]
    table = checked(heat_table(np.ones((1000, 1)), rows, ["value"])).text
    assert table.startswith("darkest at 1value0")
    assert "…" in table
    assert "999" in table
    assert checked(plain_table([[row] for row in rows])).text.endswith("999")
    assert checked(text_block("\n".join(rows))).text.endswith("999")
    assert checked(shaded_text([f" {row}" for row in rows], [1.0] * 1000)).text.endswith("999")
