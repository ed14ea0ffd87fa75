"""The engine inside a live page, in a real browser, held against NumPy: sites, tokens, generations, edits."""

import base64
import itertools
import json
import random
import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from support.random_model import random_model_with_text
from support.viewer_browser import visit

import gpt2np
from gpt2np.analysis.interventions import zero
from gpt2np.text.byte_level_bpe import SPACES
from gpt2np.viewer.detail_levels import LEVELS
from gpt2np.viewer.page_data import Data

pytestmark = pytest.mark.needs("playwright", "chromium")
NOISE = 1e-5  # between two float32 runs, relative to a site's largest magnitude, or to 1
SITES = """async ({ids, off}) => {
    const sites = await gpt2np.ask("sites", {ids, off}), found = {};
    for (const [name, {data, shape}] of Object.entries(sites)) found[name] = [shape, BASE64(data)];
    return found;
}"""
PANELS = """async ({ids, off}) => {
    const {header, arrays} = await gpt2np.ask("run", {ids, off}), found = {};
    for (const [name, {data, shape}] of Object.entries(arrays))
        found[name] = [shape, BASE64(Float32Array.from(data))];
    return [header, found];
}"""
BASE64 = """(data => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const CHARACTER = String.fromCharCode;
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += CHARACTER(...bytes.subarray(i, i + 32768));
    return btoa(text);
})"""


@pytest.fixture(scope="module")
def live(chromium, live_path):
    with visit(chromium, live_path) as page:
        yield page


def arrays_of(found):
    return {
        name: np.frombuffer(base64.b64decode(text), np.float32).reshape(shape)
        for name, (shape, text) in found.items()
    }


def sites_of(page, ids, **off):
    return arrays_of(page.js(SITES.replace("BASE64", BASE64), {"ids": ids, "off": off}))


def check_sites(found, trace):
    assert set(trace.names()) <= set(found)
    for name in found:
        expected, got = trace[name], found[name]
        assert got.shape == expected.shape, name
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(got), finite, name)
        most = max(1.0, float(np.abs(expected[finite]).max(initial=0)))
        difference = float(np.abs(got[finite] - expected[finite]).max(initial=0))
        assert difference <= NOISE * most, f"{name}: {difference / most:.2g}"


def test_every_site_of_20_prompts_is_within_noise_of_numpy(live, tiny):
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 24, 31, 40):
        ids = rng.integers(0, 2048, n).tolist()
        check_sites(sites_of(live, ids), tiny.trace(ids))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_other_shapes_an_unembedding_of_its_own_and_other_activations(chromium, tmp_path, activation):
    """Of a random model, whose weights float16 rounds: the page runs the rounded ones, and says so."""
    model = random_model_with_text(
        1,
        activation_function=activation,
        n_embd=12,
        n_inner=30,
        n_head=3,
        scale_attn_by_inverse_layer_idx=True,
    )
    rounded = {name: w.astype(np.float16).astype(np.float32) for name, w in model.weights.held.items()}
    path = tmp_path / "live.html"
    gpt2np.view(model, out=path)
    with visit(chromium, path) as page:
        assert "weights rounded to float16" in page.text(".status")
        ids = np.random.default_rng(2).integers(0, 2048, 21).tolist()
        check_sites(sites_of(page, ids), model.with_weights(rounded).trace(ids))


def test_a_head_an_mlp_and_a_position_that_are_off_equal_edits(live, tiny):
    def hide(array, where):
        array = array.copy()
        array[:, np.array(where.positions) > 3, 3] = -np.inf
        return array

    ids = tiny.tokenizer.encode("Elizabeth was not sorry that Mr. Darcy was")
    every = {f"h.{i}.attn.scores": hide for i in range(4)}
    for off, edits in (
        ({"heads": [[1, 2]]}, {"h.1.attn.z": zero(heads=[2])}),
        ({"heads": [[0, 0], [0, 3]]}, {"h.0.attn.z": zero(heads=[0, 3])}),
        ({"mlps": [2]}, {"h.2.mlp.out": zero()}),
        ({"positions": [3]}, every),
        (
            {"heads": [[3, 1]], "mlps": [0], "positions": [3]},
            {"h.3.attn.z": zero(heads=[1]), "h.0.mlp.out": zero(), **every},
        ),
    ):
        trace = tiny.trace(ids, edits=edits)
        check_sites(sites_of(live, ids, **off), trace)
        assert np.abs(trace["logits"] - tiny.trace(ids)["logits"]).max() > 0.01
        losses = live.js("given => gpt2np.ask('losses', given)", {"ids": ids, "off": off})
        assert losses == [None, *(pytest.approx(float(loss), abs=1e-4) for loss in trace["loss"][:-1])]


# What the panel of weights and the cards say of them, which a live page leaves out.
OF_WEIGHTS = {"parameters", "matrices", "norms", "circuits", "composition", "memory", "spread"}


def test_what_the_panels_are_given_is_what_a_page_of_the_trace_has(live, tiny):
    whole = replace(LEVELS[0], cells=10**6, head_cells=10**6, output_cells=10**6, mlp_cells=10**6)
    for text in ("Elizabeth was not sorry that Mr. Darcy was", "It is a truth", "E"):
        trace = tiny.trace(text)
        data = Data(trace, trace, whole)
        header, found = live.js(PANELS.replace("BASE64", BASE64), {"ids": trace.token_ids, "off": {}})
        found = arrays_of(found)
        expected = {name: array for name, array in data.arrays.items() if name != "near"}  # of weights too
        assert set(found) == set(expected)
        for name, array in expected.items():
            tolerance = 1e-3 if array.dtype == np.float16 else 2e-5
            np.testing.assert_allclose(
                found[name], array.astype(np.float64), tolerance, tolerance, err_msg=name
            )
        assert set(header) - {"milliseconds"} == set(data.facts) - OF_WEIGHTS
        assert header["vocabulary"].items() <= json.loads(json.dumps(data.facts["vocabulary"])).items()
        for name in ("tokens", "ids", "parts", "components", "prompt", "missing", "commentary", "generation"):
            assert header[name] == json.loads(json.dumps(data.facts[name])), name
        for kind in ("heads raised", "heads lowered"):
            assert header[kind]["ids"] == data.facts[kind]["ids"]
        for one, other in zip(header["neurons"], data.facts["neurons"], strict=True):
            assert {k: v for k, v in one.items() if k != "active"} == {
                k: v for k, v in other.items() if k != "active"
            }
        for one, other in zip(header["head scores"], data.facts["head scores"], strict=True):
            assert (one["name"], one["where"]) == (other["name"], other["where"])
            np.testing.assert_allclose(one["values"], other["values"], atol=1e-5)
        for name, values in data.facts["head statistics"].items():
            np.testing.assert_allclose(header["head statistics"][name], values, atol=1e-4)


# -- tokens ---------------------------------------------------------------------------------------------


def texts(n):
    """Texts of characters that this Python's Unicode knows, and of what a tokenizer trips over."""
    rng = random.Random(24)
    known = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cs", "Cn")]
    kinds = [
        "abcdefghijklm",
        "ABC",
        "0123456789½²",
        " ",
        " \n\t",
        list(SPACES),
        known,
        list("'’.,!?-_\\\"<>&"),
    ]
    pieces = [
        "'s",
        "'ll",
        "'t",
        " the",
        "Elizabeth",
        " Darcy",
        "<|endoftext|>",
        "é",
        "日本",
        "🙂",
        "\r\n",
        "\ufeff",
        "   ",
    ]
    for _ in range(n):
        parts = (
            rng.choice(pieces) if rng.random() < 0.3 else rng.choice(rng.choice(kinds))
            for _ in range(rng.randint(1, 24))
        )
        yield "".join(parts)


def test_thousands_of_texts_have_the_same_tokens(live, tiny, request):
    given = list(texts(50_000 if request.config.getoption("--slow") else 3_000))
    for start in range(0, len(given), 1000):
        some = given[start : start + 1000]
        encode = "texts => Promise.all(texts.map(text => gpt2np.ask('tokenize', {text})))"
        for text, found in zip(some, live.js(encode, some), strict=True):
            ids = tiny.tokenizer.encode(text)
            assert found["ids"] == ids, repr(text)
            assert found["tokens"] == tiny.tokenizer.tokens(ids), repr(text)


def test_letters_and_numbers_differ_only_where_unicode_has_grown(live):
    """The classes of the regular expression: what this browser has and this Python has not is printed."""
    kinds = live.js(
        """() => Array.from({length: 0x110000}, (_, i) => {
            const c = String.fromCodePoint(i);
            return /\\p{L}/u.test(c) ? "L" : /\\p{N}/u.test(c) ? "N" : "-";
        }).join("")"""
    )
    categories = [unicodedata.category(chr(i)) for i in range(0x110000)]
    later = [
        i
        for i, (kind, category) in enumerate(zip(kinds, categories, strict=True))
        if kind != (category[0] if category[0] in "LN" else "-")
    ]
    runs = itertools.groupby(enumerate(later), lambda pair: pair[1] - pair[0])
    ranges = [[i for _, i in run] for _, run in runs]
    print(f"{len(later)} letters and numbers are later than Unicode {unicodedata.unidata_version}:")
    print(" ".join(f"{run[0]:X}-{run[-1]:X}" for run in ranges))
    assert {categories[i] for i in later} <= {"Cn"}


def test_decoding_gives_the_same_text_and_every_token_the_same_name(live, tiny):
    rng = np.random.default_rng(3)
    some = [rng.integers(0, 2048, n).tolist() for n in (1, 2, 5, 20, 100)] + [[i] for i in range(300)]
    decoded = live.js("all => Promise.all(all.map(ids => gpt2np.ask('decode', {ids})))", some)
    assert decoded == [tiny.tokenizer.decode(ids) for ids in some]


def test_half_a_surrogate_pair_becomes_the_character_for_it(live, tiny):
    found = live.js("() => gpt2np.ask('tokenize', {text: 'a\\ud800b'})")
    assert found["ids"] == tiny.tokenizer.encode("a\ufffdb")


def test_texts_that_are_empty_or_too_long_are_refused_with_both_numbers(live):
    refused = "text => gpt2np.ask('run', {text, off: {}}).catch(error => error.message)"
    assert live.js(refused, "") == "There is no text to read: type something."
    assert re.search(r"has 300 tokens; .* holds 256", live.js(refused, " the" * 300))
    assert re.search(r"more than 256 tokens", live.js(refused, "a" * 1_000_000))


# -- generations ------------------------------------------------------------------------------------------

OPTIONS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 0},
    {"temperature": 0.8, "top_k": 40, "seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "seed": 2**32 - 1},
    {"temperature": 1.3, "top_k": 5, "top_p": 0.5, "seed": 2**32},
    {"temperature": 1.0, "top_k": 1, "seed": 7},
    {"temperature": 0.9, "top_p": 0.99, "seed": 2**64 + 5},
    {"temperature": 0.5, "top_k": 2048, "seed": 12345},
    {"temperature": 2.0, "top_k": 100, "top_p": 0.95, "seed": 2**130 + 3},
    {"temperature": 0.2, "seed": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_seeded_generation_is_the_same_choice_by_choice(live, tiny, options):
    done = tiny.generate("Elizabeth was", max_new_tokens=24, ledger=True, **options).finish()
    given = {"top_k": 0, "top_p": 1, "seed": 0, "most": 24} | options | {"seed": str(options.get("seed", 0))}
    made = live.js("options => gpt2np.ask('generate', {text: 'Elizabeth was', options, off: {}})", given)
    assert not near_a_border(done.ledger), "a draw or margin is within noise: take another seed"
    assert made["ids"] == done.token_ids
    assert made["run"]["header"]["generation"]["stopped_by"] == done.stopped_by
    for found, entry in zip(made["ledger"], done.ledger, strict=True):
        expected = entry.to_json()
        for name in ("step", "token_id", "raw_rank", "survivors", "uniform"):
            assert found[name] == expected[name], name
        for name in ("probability", "raw_logit", "entropy"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
        assert found["interval"] == (
            None if entry.interval is None else pytest.approx(entry.interval, abs=1e-5)
        )
        assert len(found["top"]) == len(entry.top)
        for (_, p), (_, q) in zip(found["top"], entry.top, strict=True):
            assert p == pytest.approx(q, abs=1e-5)
        for mine, removal in zip(found["removals"], entry.removals, strict=True):
            assert (mine["name"], mine["count"]) == (removal.name, removal.count)
            assert mine["mass"] == pytest.approx(removal.mass, abs=1e-5)


def near_a_border(ledger):
    """Whether a number drawn lies so near to the end of its stretch that noise decides."""
    return any(
        entry.interval is not None and min(abs(entry.uniform - end) for end in entry.interval) < 1e-6
        for entry in ledger
    )


def test_a_generation_with_a_head_off_equals_that_of_the_edited_model(live, tiny):
    edits = {"h.0.attn.z": zero(heads=[0])}
    done = tiny.generate("Elizabeth was", max_new_tokens=12, edits=edits).finish()
    options = {"temperature": 0, "most": 12, "seed": "0"}
    made = live.js(
        "options => gpt2np.ask('generate', {text: 'Elizabeth was', options, off: {heads: [[0, 0]]}})", options
    )
    assert made["ids"] == done.token_ids
    assert made["ids"] != tiny.generate("Elizabeth was", max_new_tokens=12).finish().token_ids


def test_a_generation_ends_with_the_context(live):
    options = {"temperature": 0, "most": 50, "seed": "0"}
    ids = [i % 2000 for i in range(250)]
    made = live.js(
        "given => gpt2np.ask('generate', {...given, off: {}})"
        ".then(made => [made.ids.length, made.run.header.ids.length])",
        {"ids": ids, "options": options},
    )
    assert made == [257, 256]
