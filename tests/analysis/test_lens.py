"""The lenses: the last site is the model itself, and every number by another way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.differences import relative_error
from support.random_model import random_model

import gpt2np
from gpt2np.analysis.attribution import attribution, head_grid
from gpt2np.analysis.lens import (
    KEEP,
    KEEP_HEADS,
    attention_lens,
    lens_logits,
    likelier,
    logit_lens,
    nearest_rows,
    predictions,
    spread_of,
)
from gpt2np.errors import InputError, TraceError
from gpt2np.tables import strict_json

IDS = [3, 17, 17, 30, 0, 8, 3]
EXACT = 1e-10


@pytest.fixture(scope="module", params=["untied", "inverse layer"])
def trace(request):
    return random_model(4, scale_attn_by_inverse_layer_idx=request.param == "inverse layer").trace(IDS)


@pytest.fixture(scope="module")
def lens(trace):
    return logit_lens(trace, 7, k=3)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(trace, site):
    """Probabilities at a site, in three lines: [pos, vocab]."""
    x, p = trace[site], trace.model.parameters
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + p.ln_f.epsilon)
    return softmax((x * p.ln_f.weight + p.ln_f.bias) @ p.lm_head.T)


def test_sites_in_the_order_of_execution(lens):
    sites = ["embed", "h.0.resid_mid", "h.0.resid_post", "h.1.resid_mid", "h.1.resid_post"]
    assert lens.kl.labels["site"] == sites
    assert lens.kl.axes == ("site", "pos")
    assert lens.top_ids.axes == ("site", "pos", "k")
    assert lens.top_ids.array.shape == lens.top_probabilities.array.shape == (5, len(IDS), 3)


def test_the_last_site_is_the_model_itself(trace, lens):
    p = trace["probabilities"]
    assert relative_error(lens.probability.array[-1], p[:, 7]) < EXACT
    np.testing.assert_array_equal(lens.top_ids.array[-1], trace["top_k_tokens"][:, :3])
    expected = np.take_along_axis(p, lens.top_ids.array[-1], 1)
    assert relative_error(lens.top_probabilities.array[-1], expected) < EXACT
    np.testing.assert_array_equal(lens.kl.array[-1], 0)
    own = logit_lens(trace)
    np.testing.assert_array_equal(own.rank.array[-1], 1)
    assert own.chosen == trace["logits"].argmax(-1).tolist()
    np.testing.assert_array_equal(own.probability.array[-1], own.top_probabilities.array[-1, :, 0])


def test_every_number_by_hand(trace, lens):
    final = by_hand(trace, "h.1.resid_post")
    for i, site in enumerate(lens.kl.labels["site"]):
        p = by_hand(trace, site)
        assert relative_error(lens.probability.array[i], p[:, 7]) < EXACT
        np.testing.assert_array_equal(lens.rank.array[i], 1 + (p > p[:, 7:8]).sum(1))
        assert relative_error(lens.entropy.array[i], -(p * np.log(p)).sum(1)) < EXACT
        assert relative_error(lens.kl.array[i], (final * np.log(final / p)).sum(1)) < EXACT
        order = np.argsort(-p, axis=1)[:, :3]
        np.testing.assert_array_equal(lens.top_ids.array[i], order)
        assert relative_error(lens.top_probabilities.array[i], np.take_along_axis(p, order, 1)) < EXACT
    assert (lens.kl.array >= -1e-12).all()
    assert (lens.entropy.array <= np.log(60)).all()


@pytest.mark.needs("torch", "transformers")
def test_against_torch(tmp_path):
    import torch
    from support import hf

    shape = {"n_layer": 3, "n_head": 4, "n_embd": 24, "n_positions": 16, "vocab_size": 50}
    theirs = hf.random_model(9, **shape, tie_word_embeddings=False)
    trace = gpt2np.load(hf.save(theirs, tmp_path), dtype="float64").trace(IDS)
    ours, heads = logit_lens(trace, 11), attention_lens(trace, pos=4, k=50)
    theirs, seen = theirs.double(), {}
    theirs.transformer.drop.register_forward_hook(lambda _, x, y: seen.update(embed=y[0]))
    for i, block in enumerate(theirs.transformer.h):
        mid, post = f"h.{i}.resid_mid", f"h.{i}.resid_post"
        block.ln_2.register_forward_pre_hook(lambda _, x, name=mid: seen.update({name: x[0][0]}))
        block.register_forward_hook(
            lambda _, x, y, name=post: seen.update({name: (y[0] if isinstance(y, tuple) else y[None])[0]})
        )
        block.attn.c_proj.register_forward_pre_hook(lambda _, x, i=i: seen.update({i: x[0][0, 4]}))
    with torch.no_grad():
        theirs(torch.tensor([IDS]))
        seen = {k: v.reshape(len(IDS), 24) if isinstance(k, str) else v for k, v in seen.items()}
        final = theirs.lm_head(theirs.transformer.ln_f(seen["h.2.resid_post"])).log_softmax(-1)
        for i, site in enumerate(ours.kl.labels["site"]):
            logits = theirs.lm_head(theirs.transformer.ln_f(seen[site]))
            here = torch.distributions.Categorical(logits=logits)
            assert relative_error(ours.probability.array[i], here.probs[:, 11].numpy()) < EXACT
            assert relative_error(ours.entropy.array[i], here.entropy().numpy()) < EXACT
            kl = torch.nn.functional.kl_div(logits.log_softmax(-1), final, log_target=True, reduction="none")
            assert relative_error(ours.kl.array[i], kl.sum(-1).numpy()) < EXACT
            rank = (logits.argsort(-1, descending=True) == 11).int().argmax(-1)
            np.testing.assert_array_equal(ours.rank.array[i], 1 + rank.numpy())
        norm = theirs.transformer.ln_f
        scale = (seen["h.2.resid_post"][4].var(correction=0) + norm.eps).sqrt()
        for i, block in enumerate(theirs.transformer.h):
            for head in range(4):
                columns = slice(6 * head, 6 * head + 6)
                out = seen[i][columns] @ block.attn.c_proj.weight[columns]
                pushed, ids = theirs.lm_head((out - out.mean()) / scale * norm.weight).sort(descending=True)
                np.testing.assert_array_equal(heads.raised_ids.array[i, head], ids.numpy())
                assert relative_error(heads.raised.array[i, head], pushed.numpy()) < EXACT


def test_one_position_is_a_column_of_all(trace, lens):
    one = logit_lens(trace, 7, k=3, pos=-2)
    for name in ("top_ids", "top_probabilities", "probability", "rank", "entropy", "kl"):
        np.testing.assert_array_equal(getattr(one, name).array[:, 0], getattr(lens, name).array[:, -2])
    assert one.chosen == [7]


def test_equals_are_ranked_as_they_are_listed():
    twins = random_model(4)
    head = twins.weights["lm_head.weight"]
    twins = twins.with_weights({"lm_head.weight": head[:1].repeat(len(head), 0)})  # every logit is the same
    trace = twins.trace(IDS)
    assert set(logit_lens(trace, 5).rank.array.ravel().tolist()) == {6}
    np.testing.assert_array_equal(logit_lens(trace, k=4).top_ids.array, np.arange(4) + np.zeros((5, 7, 1)))


def test_the_attention_lens_is_the_attribution_to_every_token(trace):
    lens = attention_lens(trace, pos=3, k=60)
    assert lens.raised.axes == ("layer", "head", "k")
    grids = np.stack([head_grid(attribution(trace, t, 3)).array for t in range(60)], -1)  # layer head vocab
    assert relative_error(np.take_along_axis(grids, lens.raised_ids.array, -1), lens.raised.array) < EXACT
    assert relative_error(-np.sort(-grids, -1), lens.raised.array) < EXACT
    assert relative_error(np.sort(grids, -1), lens.lowered.array) < EXACT
    assert relative_error(np.take_along_axis(grids, lens.lowered_ids.array, -1), lens.lowered.array) < EXACT


def test_the_attention_lens_of_one_layer(trace):
    one, every = attention_lens(trace, layer=1, k=2), attention_lens(trace, k=2)
    np.testing.assert_array_equal(one.raised_ids.array[0], every.raised_ids.array[1])
    assert one.raised.labels["layer"] == ["1"]


def test_tiny(tiny, tiny64):
    text = "Elizabeth was not"
    trace = tiny.trace(text)
    single, double = (logit_lens(model.trace(text), " a") for model in (tiny, tiny64))
    for name in ("probability", "entropy", "kl"):
        assert relative_error(getattr(single, name).array, getattr(double, name).array) < 1e-4
    assert relative_error(single.probability.array[-1], trace["probabilities"][:, 258]) < 1e-4
    by_site = dict(predictions(trace))
    lens = logit_lens(trace)
    for i, site in enumerate(lens.kl.labels["site"]):
        if site in by_site:
            ((_, token, probability),) = by_site[site]
            assert token == lens.top_ids.array[i, -1, 0]
            assert probability == pytest.approx(lens.top_probabilities.array[i, -1, 0], abs=1e-5)


def test_they_print_themselves(tiny):
    trace = tiny.trace("Elizabeth was not at all")
    for lens in (logit_lens(trace, " a", k=3), attention_lens(trace)):
        assert max(map(len, str(lens).splitlines())) <= 80
        strict_json(lens.to_json())
    assert "rank of | a| (258)" in str(logit_lens(trace, " a"))


def test_what_must_have_been_kept(tiny, tmp_path):
    for call, keep in ((logit_lens, KEEP), (attention_lens, KEEP_HEADS)):
        call(tiny.trace("Elizabeth was", keep=keep))
        for site in keep:
            trace = tiny.trace("Elizabeth was", keep=[other for other in keep if other != site])
            with pytest.raises(TraceError, match=rf"{site.replace('.', '[.]')} is not in this trace"):
                call(trace)
        with pytest.raises(TraceError, match="the run stopped before"):
            call(tiny.trace("Elizabeth was", stop_at_layer=1))
        path = tmp_path / "t.safetensors"
        tiny.trace("Elizabeth was", out=path)
        call(gpt2np.Trace.open(path, tiny))
        with pytest.raises(TraceError, match="needs the model's weights"):
            call(gpt2np.Trace.open(path))


def test_half_precision(tiny):
    half, whole = (tiny.trace("Elizabeth was", keep={"dtype": d}) for d in ("float16", "float32"))
    np.testing.assert_allclose(logit_lens(half).kl.array, logit_lens(whole).kl.array, rtol=0.05, atol=0.02)
    np.testing.assert_allclose(
        attention_lens(half).raised.array, attention_lens(whole).raised.array, atol=0.02
    )
    for (_, half_top), (_, whole_top) in zip(predictions(half), predictions(whole), strict=True):
        assert half_top[0][:2] == whole_top[0][:2]
        assert half_top[0][2] == pytest.approx(whole_top[0][2], rel=0.02)
    # in float16 a logit of 9.4 has steps of 0.008, which would be seen here
    logits = lens_logits(half["h.3.resid_post"].astype(np.float32)[-1], tiny.parameters, tiny.config)
    p = np.exp(logits - logits.max())
    assert predictions(half)[-1][1][0][2] == pytest.approx(p.max() / p.sum(), rel=1e-5)


def test_predictions_are_of_the_last_position(tiny):
    part = tiny.trace("Elizabeth was", keep={"positions": slice(0, 2)})
    with pytest.raises(TraceError, match="position 2 was not kept"):
        predictions(part)
    last = tiny.trace("Elizabeth was", keep={"positions": slice(-1, None)})
    assert predictions(last) == predictions(tiny.trace("Elizabeth was"))
    with pytest.raises(InputError, match="must be a whole number of at least 1"):
        predictions(last, k=0)


@pytest.mark.parametrize(
    ("call", "options", "says"),
    [
        (logit_lens, {"token": "not sure"}, "is several"),
        (logit_lens, {"token": 2048}, "token id 2048"),
        (logit_lens, {"k": 0}, "k=0: must be"),
        (logit_lens, {"k": 1.5}, "k=1.5: must be"),
        (logit_lens, {"pos": 3}, "position 3 is not one of the 3"),
        (attention_lens, {"layer": 4}, "layer=4: must be a whole number from 0 to 3"),
        (attention_lens, {"layer": True}, "layer=True: must be"),
        (attention_lens, {"pos": -4}, "position -4"),
        (attention_lens, {"k": -1}, "k=-1: must be"),
    ],
)
def test_wrong_calls(tiny, call, options, says):
    with pytest.raises(InputError, match=says):
        call(tiny.trace("Elizabeth was"), **options)


def test_more_tokens_than_the_vocabulary_has(trace):
    assert logit_lens(trace, k=1000).top_ids.array.shape[-1] == 60
    assert attention_lens(trace, k=1000).raised.array.shape[-1] == 60


def test_an_edited_end_is_refused(tiny):
    for site in ("ln_f", "logits"):
        trace = tiny.trace("Elizabeth was", edits={site: lambda x: x * 0.5})
        for lens in (logit_lens, attention_lens, predictions):
            with pytest.raises(TraceError, match=f"{site} was edited"):
                lens(trace)


@pytest.mark.parametrize("pos", [-1, 2])
def test_a_logit_is_a_cosine_times_two_lengths(trace, pos):
    found = nearest_rows(trace, pos, 4)
    logits, final = trace["logits"][pos], trace["ln_f"][pos]
    best = np.argsort(-logits, kind="stable")[:4]
    assert found.labels["token"] == [trace.token(int(i)) for i in best]
    dot, length, cosine = found.array.T
    np.testing.assert_allclose(dot, logits[best], rtol=1e-9)
    rows = trace.model.parameters.lm_head[best]
    np.testing.assert_allclose(length, np.sqrt((rows**2).sum(1)), rtol=1e-12)
    np.testing.assert_allclose(cosine * length * np.sqrt((final**2).sum()), dot, rtol=1e-9)
    assert found.array.shape == (4, 3)
    with pytest.raises(InputError, match="position 7"):
        nearest_rows(trace, 7)


# -- how probability is spread ------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(points=st.integers(1, 5), vocab=st.integers(1, 300), seed=st.integers(0, 99))
def test_spread_by_its_definition(points, vocab, seed):
    logits = np.random.default_rng(seed).normal(0, 5, (points, vocab)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    found, ids = spread_of(logits), np.zeros((points, 1), int)
    np.testing.assert_allclose(found.probabilities(logits, ids), p[:, :1], rtol=1e-12)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.kl, (p[-1] * np.log(p[-1] / p)).sum(axis=1), atol=1e-11)
    assert found.kl[-1] == 0


def test_of_equally_likely_tokens_the_lower_id_stands_first():
    logits = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert [likelier(logits, i).tolist() for i in range(4)] == [[3, 0], [0, 1], [1, 2], [2, 3]]
