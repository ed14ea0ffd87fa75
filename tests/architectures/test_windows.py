"""Cached in uneven pieces, packed, looked up, with beams: the same as one pass, across the window's edge."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.differences import relative_error

import gpt2np
from gpt2np.kv.extraction import extract_to_file
from gpt2np.kv.reading import read_kv

IDS = np.random.default_rng(0).integers(0, 300, 60).tolist()
NOISE = 1e-12
WINDOWS = [1, 2, 7, 19, 64]


class Windowed(NamedTuple):
    """An architecture with windows: how to write one, and what is different about it."""

    write: Callable
    kinds: str  # the letters of a layer that sees all keys, and of one that has a window
    window: str  # its size, in config.json
    out: str  # the matrix behind the heads
    products: str  # the site of queries times keys, before anything bends them
    n_axes: int  # of the products of queries and keys

    def write_model(self, folder, layers, window, **numbers):
        """`layers` has F for a layer that sees all, W for one with a window."""
        kinds = layers.translate(str.maketrans("FW", self.kinds))
        return self.write(folder, kinds, **{self.window: window}, **numbers)


ARCHITECTURES = {
    "gpt_neo": Windowed(gpt_neo_checkpoint.write, "GL", "window_size", ".out_proj.", "attn.scores", 3),
    "gemma2": Windowed(gemma2_checkpoint.write, "FS", "sliding_window", ".o_proj.", "attn.scores_raw", 4),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def windowed(request):
    return ARCHITECTURES[request.param]


@pytest.fixture(scope="module")
def models(windowed, tmp_path_factory):
    """A model by its window; the unembedding is its own, so that texts do not repeat their last token."""
    made = {}

    def make(window):
        if window not in made:
            folder = tmp_path_factory.mktemp("windowed") / "m"
            windowed.write_model(folder, "FWW", window, tie_word_embeddings=False)
            made[window] = gpt2np.load(folder, dtype="float64")
        return made[window]

    return make


def same(found, truth, rows=slice(None)):
    for name in found.names():
        site = truth.plan.by_name[name].site
        expected = truth[name][:, rows] if site.quadratic else truth[name][rows]
        array = found[name][..., : expected.shape[-1]] if site.quadratic else found[name]
        assert relative_error(array, expected) < NOISE, name


@pytest.mark.parametrize("window", WINDOWS)
def test_uneven_pieces(models, window):
    """Each piece runs on what the one before it left: prompts that grow, generations of one token."""
    model = models(window)
    whole, past, start = model.trace(IDS), None, 0
    for end in (3, 4, 5, 13, 14, 40, 60):
        run = model.generate(IDS[:end], max_new_tokens=1, keep="*", past=past).finish().trace
        assert list(run.positions) == list(range(start, end))
        for name in run.names():
            if not run.plan.by_name[name].site.quadratic:
                assert relative_error(run[name], whole[name][start:end]) < NOISE, name
        past, start = model.trace(IDS[:end]), end - (end == 60)


@pytest.mark.parametrize("window", WINDOWS)
def test_packed(models, window):
    model = models(window)
    prompts = [IDS[:1], IDS, IDS[5:17], IDS[10:31]]
    for trace, ids in zip(model.trace(prompts), prompts, strict=True):
        same(trace, model.trace(ids))


WAYS = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "top_k": 50, "seed": 3},
    "beams": {"num_beams": 3},
    "lookup": {"lookup": 5},
    "penalty": {"repetition_penalty": 10.0},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_generation_leaves_the_trace_of_one_pass(models, window, way):
    model = models(window)
    ids = IDS[:6] * 3 if way == "lookup" else IDS[:12]
    done = model.generate(ids, max_new_tokens=25, keep="*", **WAYS[way]).finish()
    once = model.trace(done.token_ids[:-1])
    assert done.trace.names() == once.names()
    same(done.trace, once)
    if way in ("greedy", "lookup"):
        text = list(ids)
        for _ in range(25):
            text.append(int(model(text)[-1].argmax()))
        assert done.token_ids == text
    keys, values = done.past_key_values[1]
    rows = len(done.token_ids) - 1  # the window drops none
    assert keys.shape == values.shape == (1, 2, rows, model.config.d_head)


def test_looked_up_tokens_are_taken_across_the_edge(windowed, models):
    """A text that does repeat itself, so that several tokens are run at once on a past beyond the window."""
    model = models(7)
    weights = {name: np.zeros_like(a) for name, a in model.weights.items() if windowed.out in name}
    looping = model.with_weights(weights)
    plain = looping.generate(IDS[:20], max_new_tokens=30, keep="*").finish()
    looked = looping.generate(IDS[:20], max_new_tokens=30, keep="*", lookup=6).finish()
    assert looked.token_ids == plain.token_ids
    same(looked.trace, looping.trace(plain.token_ids[:-1]))


def test_beyond_the_context(models):
    """on_overflow="slide" runs the last positions anew: every token is that of one pass over them."""
    model = models(7)
    done = model.generate(IDS, max_new_tokens=10, on_overflow="slide").finish()
    text = list(IDS)
    for _ in range(10):
        text.append(int(model(text[-64:])[-1].argmax()))
    assert done.token_ids == text


@pytest.mark.parametrize("window", WINDOWS)
def test_some_of_it_kept(models, window, tmp_path):
    """Some positions, half precision, some sites, a file: all are parts of the whole trace."""
    model = models(window)
    whole = model.trace(IDS)
    some = model.trace(IDS, keep={"patterns": ["attn.*"], "positions": slice(3, 50, 4)})
    same(some, whole, slice(3, 50, 4))
    model.trace(IDS, out=tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", model=model)
    for name in whole.names():
        np.testing.assert_array_equal(opened[name], whole[name])
    half = model.trace(IDS, keep={"patterns": ["attn.pattern"], "dtype": "float16"})
    assert half["h.1.attn.pattern"].dtype == np.float16
    np.testing.assert_allclose(half["h.1.attn.pattern"], whole["h.1.attn.pattern"], atol=1e-3)
    assert not some.verify().skipped or some.verify().checked


@pytest.mark.parametrize("window", WINDOWS)
def test_a_kv_file_goes_on(models, window, tmp_path):
    model = models(window)
    whole = model.generate(IDS[:30], max_new_tokens=12).finish()
    for name in ("kv.json", "kv.safetensors"):
        extract_to_file(model, IDS[:25], tmp_path / name)
        past = read_kv(tmp_path / name)
        resumed = model.generate(IDS[:30], max_new_tokens=12, past=past).finish()
        assert resumed.token_ids == whole.token_ids


@pytest.mark.parametrize("window", [5, 127, 128, 129])
def test_a_past_and_blocks_of_queries(windowed, tmp_path, window):
    """150 known positions and 150 new ones, in blocks of 128 queries, some with windows across their edge."""
    windowed.write_model(tmp_path / "m", "WF", window, max_position_embeddings=310)
    model = gpt2np.load(tmp_path / "m", dtype="float64")
    ids = np.random.default_rng(1).integers(0, 300, 300).tolist()
    whole = model.trace(ids)
    run = model.generate(ids, max_new_tokens=1, keep="*", past=model.trace(ids[:150])).finish().trace
    for name in run.names():
        quadratic = run.plan.by_name[name].site.quadratic
        expected = whole[name][:, 150:] if quadratic else whole[name][150:]
        assert relative_error(run[name], expected) < NOISE, name
    assert relative_error(model(ids, last=True), whole["logits"][-1]) < NOISE


def test_edits_see_and_are_seen_through_the_window(windowed, models):
    """Scores edited to see beyond the window are believed, by a generation too; other layers are not."""

    def open_up(scores, at):
        return np.where(np.isneginf(scores) & (np.arange(scores.shape[-1]) == 0), 1.0, scores)

    model = models(7)
    edits = {"h.1.attn.scores": open_up}
    traced = model.trace(IDS, edits=edits)
    assert (traced["h.1.attn.pattern"][:, 30, 0] > 0).all()
    assert (traced["h.2.attn.pattern"][:, 30, 0] == 0).all()
    pattern, v = traced["h.1.attn.pattern"], traced["h.1.attn.v"]
    shared = model.config.n_head // model.config.n_kv_head  # by so many heads, each value
    expected = np.einsum("hqk,khd->qhd", pattern, v.repeat(shared, axis=1))
    assert relative_error(traced["h.1.attn.z"], expected) < NOISE
    done = model.generate(IDS[:20], max_new_tokens=12, keep="*", edits=edits).finish()
    same(done.trace, model.trace(done.token_ids[:-1], edits=edits))
    doubled = {"h.1.attn.k": lambda k: 2 * k}
    plain, edited = model.trace(IDS), model.trace(IDS, edits=doubled)
    seen = plain["h.1.attn.pattern"] > 0
    products = f"h.1.{windowed.products}"
    assert relative_error(edited[products][seen], 2 * plain[products][seen]) < NOISE
    assert np.isneginf(edited["h.1.attn.scores"][~seen]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_edit_that_changes_nothing_gives_the_same_bits(windowed, tmp_path, dtype):
    """What is edited is computed all at once, and not in blocks with the keys of their windows."""
    windowed.write_model(tmp_path / "m", "FWW", 9, max_position_embeddings=310)
    model = gpt2np.load(tmp_path / "m", dtype=dtype)
    ids = np.random.default_rng(1).integers(0, 300, 300).tolist()
    plain = model.trace(ids)
    for site in ("h.1.attn.scores", "h.1.attn.pattern"):
        edited = model.trace(ids, edits={site: lambda x: x})
        for name in plain.names():
            np.testing.assert_array_equal(edited[name], plain[name], name)
    assert np.array_equal(model(ids), plain["logits"])


@pytest.mark.parametrize("window", WINDOWS)
def test_scoring_in_windows(models, window):
    model = models(window)
    logits = model(IDS)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert model.score(IDS).loss == pytest.approx(-chances[np.arange(59), IDS[1:]].mean(), rel=1e-12)


def test_layers_with_a_window_multiply_no_keys_outside_it(windowed, models, monkeypatch):
    """Their products grow with the window, those of other layers with the text."""
    model, sizes = models(7), []
    real = np.matmul

    def matmul(a, b, *args, **kwargs):
        if a.ndim == b.ndim == windowed.n_axes:
            sizes.append(max(b.shape[-1], b.shape[-2]))
        return real(a, b, *args, **kwargs)

    monkeypatch.setattr("gpt2np.ops.attention.np.matmul", matmul)
    model.generate(IDS, max_new_tokens=2).finish()
    single = sizes[-6:]  # scores and mix of three layers, of one query
    assert single == [61, 61, 7, 7, 7, 7]
