"""Circuits of heads: low rank against full, weights against a run, and the heads that `tiny` is known for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_model import random_model, random_model_with_text

import gpt2np
from gpt2np.analysis import circuits, heads
from gpt2np.analysis.circuits import LowRank, folded_weights, head_weights
from gpt2np.errors import InputError, TraceError
from gpt2np.model import Model

EXACT = 1e-10
SHAPE = {"n_layer": 3, "n_head": 2, "n_embd": 16, "vocab_size": 60}
INDUCTION = ["1.0", "1.3", "1.1", "2.2"]  # weights/README.md


@pytest.fixture(scope="module")
def model():
    return random_model(3, **SHAPE)


def changed(model, **weights):
    """The same model with some weights replaced; `__` in a name stands for a dot."""
    given = {name.replace("__", "."): array for name, array in weights.items()}
    checkpoint = type(model.checkpoint)(**{**vars(model.checkpoint), "weights": {**model.weights, **given}})
    return Model(checkpoint, model.dtype.name)


def close(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() <= EXACT * max(1.0, float(np.abs(b).max()))


# -- low rank ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 12), rank=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 99))
def test_low_rank_is_the_full_product(n, rank, m, seed):
    rng = np.random.default_rng(seed)
    low = LowRank(rng.normal(size=(n, rank)), rng.normal(size=(rank, m)))
    full, x = low.full(), rng.normal(size=(m, 3))
    assert low.shape == full.shape
    assert close(low.norm(), np.linalg.norm(full))
    assert close(low @ x, full @ x)
    assert close(x.T @ low.T, x.T @ full.T)
    assert close(low.T.full(), full.T)
    u, s, v = low.svd()
    assert close((u * s) @ v, full)
    assert (np.diff(s) <= EXACT).all()


def test_low_rank_from_the_left_and_times_low_rank():
    rng = np.random.default_rng(0)
    a = LowRank(rng.normal(size=(7, 2)), rng.normal(size=(2, 7)))
    b = LowRank(rng.normal(size=(7, 3)), rng.normal(size=(3, 7)))
    x = rng.normal(size=(4, 7))
    assert close(x @ a, x @ a.full())
    assert close((a @ b).full(), a.full() @ b.full())


def test_eigenvalues_are_those_of_the_full_product():
    rng = np.random.default_rng(1)
    low = LowRank(rng.normal(size=(12, 4)), rng.normal(size=(4, 12)))
    full = np.linalg.eigvals(low.full())
    kept = full[np.argsort(-np.abs(full))][:4]
    assert close(np.sort_complex(low.eigenvalues()), np.sort_complex(kept))


# -- weights of a head ------------------------------------------------------------------------------


def test_head_weights_are_views_and_make_what_a_run_records(model):
    trace = model.trace([5, 9, 2, 5, 30])
    for layer, head in np.ndindex(3, 2):
        w = head_weights(model, layer, head)
        assert [part.shape for part in w] == [(16, 8)] * 3 + [(8, 16)] + [(8,)] * 3
        assert all(np.shares_memory(part, model.weights[f"h.{layer}.attn.c_attn.weight"]) for part in w[:3])
        assert np.shares_memory(w.W_O, model.weights[f"h.{layer}.attn.c_proj.weight"])
        x = trace[f"h.{layer}.ln_1"]
        for name, matrix, bias in zip("qkv", w[:3], w[4:], strict=True):
            assert close(x @ matrix + bias, trace[f"h.{layer}.attn.{name}"][:, head])
        assert close(trace[f"h.{layer}.attn.z"][:, head] @ w.W_O, trace[f"h.{layer}.attn.heads"][:, head])


def test_folded_weights_read_the_residual_stream_itself(model):
    trace = model.trace([5, 9, 2, 5, 30])
    for layer, head in np.ndindex(3, 2):
        w = folded_weights(model, layer, head)
        x = trace[f"h.{layer}.ln_1.rstd"][:, None] * trace[f"h.{layer}.resid_pre"]
        for name, matrix, bias in zip("qkv", w[:3], w[4:], strict=True):
            assert close(x @ matrix + bias, trace[f"h.{layer}.attn.{name}"][:, head])


def test_scores_of_a_run_are_x_qk_y(model):
    """With the biases of queries and keys at 0, nothing but W_QK decides where a head looks."""
    biases = {f"h__{i}__attn__c_attn__bias": np.zeros(48) for i in range(3)}
    model = changed(model, **biases)
    trace = model.trace([5, 9, 2, 5, 30])
    past = np.tril_indices(5)
    for layer, head in np.ndindex(3, 2):
        x = trace[f"h.{layer}.ln_1"]
        scores = x @ head_weights(model, layer, head).qk @ x.T * 8**-0.5
        assert close(scores[past], trace[f"h.{layer}.attn.scores"][head][past])


def test_token_scores_are_those_of_layer_0_without_positions(model):
    """Biases, ln_1 and scale are in: only wpe has to be 0."""
    model = changed(model, wpe__weight=np.zeros((64, 16)))
    ids = [5, 9, 2, 5, 30]
    trace, past = model.trace(ids), np.tril_indices(5)
    for head in range(2):
        found = circuits.token_scores(model, 0, head, ids)
        assert found.axes == ("query", "key")
        assert close(found.array[past], trace["h.0.attn.scores"][head][past])


def test_token_effects_are_what_a_run_would_write(model):
    """One token without a position: the head attends to it wholly, and its output goes to the logits."""
    model = changed(model, wpe__weight=np.zeros((64, 16)), h__0__attn__c_attn__bias=np.zeros(48),
                    h__0__ln_1__bias=np.zeros(16))  # fmt: skip
    ids = [5, 9, 2]
    found = circuits.token_effects(model, 0, 1, ids).array
    for row, token in enumerate(ids):
        out = model.trace([token])["h.0.attn.heads"][0, 1]
        through = model.parameters.ln_f.weight * (out - out.mean())
        assert close(found[row], model.parameters.lm_head[ids] @ through)


def turned(model, layer, head, queries, keys):
    """The model with one head's queries and keys multiplied by matrices [d_head, d_head], biases too."""
    weight, bias = (model.weights[f"h.{layer}.attn.c_attn.{p}"].copy() for p in ("weight", "bias"))
    d, n = model.config.d_head, model.config.n_embd
    for start, matrix in ((0, queries), (n, keys)):
        part = slice(start + head * d, start + (head + 1) * d)
        weight[:, part], bias[part] = weight[:, part] @ matrix, bias[part] @ matrix
    name = f"h__{layer}__attn__c_attn__"
    return changed(model, **{name + "weight": weight, name + "bias": bias})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), layer=st.integers(0, 2), head=st.integers(0, 1))
def test_turning_queries_and_keys_together_changes_nothing(seed, layer, head):
    """A head's queries and keys mean nothing by themselves: what they are turned by cancels in W_Q W_K^T.

    So a single number inside a query cannot be "the plural feature"; only where a head looks is real.
    """
    model = random_model(3, **SHAPE)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))
    same = turned(model, layer, head, rotation, rotation)
    ids = [5, 9, 2, 5, 30]
    before, after = model.trace(ids), same.trace(ids)
    assert not close(after[f"h.{layer}.attn.q"], before[f"h.{layer}.attn.q"])  # every query is another
    past = np.tril_indices(5)
    found, expected = (t[f"h.{layer}.attn.scores"][:, past[0], past[1]] for t in (after, before))
    assert close(found, expected)
    assert close(after["logits"], before["logits"])
    assert close(head_weights(same, layer, head).qk.full(), head_weights(model, layer, head).qk.full())


def test_doubling_queries_and_halving_keys_changes_nothing(model):
    same = turned(model, 1, 0, 2 * np.eye(8), np.eye(8) / 2)
    assert close(same([5, 9, 2]), model([5, 9, 2]))
    other = turned(model, 1, 0, 2 * np.eye(8), np.eye(8))
    assert not close(other([5, 9, 2]), model([5, 9, 2]))


# -- numbers of every head, against full products ---------------------------------------------------


def full_folded(model, layer, head):
    """W_QK and W_OV [n_embd, n_embd] by the definition: centring and ln_1's weight as matrices."""
    n = model.config.n_embd
    read = (np.eye(n) - 1 / n) @ np.diag(model.parameters.h[layer].ln_1.weight)
    w = head_weights(model, layer, head)
    return read @ w.W_Q @ w.W_K.T @ read.T, read @ w.W_V @ w.W_O


def test_norms(model):
    found = circuits.circuit_norms(model)
    assert found.axes == ("circuit", "layer", "head")
    for layer, head in np.ndindex(3, 2):
        for i, matrix in enumerate(full_folded(model, layer, head)):
            assert close(found.array[i, layer, head], np.linalg.norm(matrix))


@pytest.mark.parametrize("after_mlp", [False, True])
def test_copying_scores(model, after_mlp):
    n, p = model.config.n_embd, model.parameters
    write = (np.eye(n) - 1 / n) @ np.diag(p.ln_f.weight) @ p.lm_head.T  # [n_embd, vocab]
    table = circuits.effective_embedding(model) if after_mlp else p.wte
    found = circuits.copying_scores(model, table if after_mlp else None).array
    for layer, head in np.ndindex(3, 2):
        values = np.linalg.eigvals(table @ full_folded(model, layer, head)[1] @ write)
        values = values[np.argsort(-np.abs(values))][
            : model.config.d_head
        ]  # the others are 0, but for rounding
        assert close(found[layer, head], values.sum().real / np.abs(values).sum())


def test_a_head_that_copies_has_score_1():
    """W_V W_O is the identity, and the same table is read and written: a token attended to is copied."""
    model = random_model(0, n_layer=1, n_head=1)
    norms = {f"{n}__weight": np.ones(16) for n in ("h__0__ln_1", "ln_f")}
    c_attn = model.weights["h.0.attn.c_attn.weight"].copy()
    c_attn[:, 32:] = np.eye(16)
    tied = {"lm_head__weight": model.weights["wte.weight"]}
    for sign in (1, -1):
        c_proj = {"h__0__attn__c_proj__weight": sign * np.eye(16)}
        copier = changed(model, h__0__attn__c_attn__weight=c_attn, **c_proj, **norms, **tied)
        assert close(circuits.copying_scores(copier).array, [[sign]])


def test_the_effective_embedding_is_the_residual_of_a_run_whose_attention_is_silent(model):
    zero = changed(model, wpe__weight=np.zeros((64, 16)), h__0__attn__c_proj__weight=np.zeros((16, 16)),
                   h__0__attn__c_proj__bias=np.zeros(16))  # fmt: skip
    found = circuits.effective_embedding(zero)
    assert close(found[[7, 8]], zero.trace([7, 8])["h.0.resid_post"])


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition(model, kind):
    found = circuits.composition_scores(model, kind)
    assert found.axes == ("writer", "reader")
    assert found.labels["writer"] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    for i, writer in enumerate(np.ndindex(3, 2)):
        for j, reader in enumerate(np.ndindex(3, 2)):
            if writer[0] >= reader[0]:
                assert np.isnan(found.array[i, j])
                continue
            written = full_folded(model, *writer)[1]
            qk, ov = full_folded(model, *reader)
            read = {"q": qk, "k": qk.T, "v": ov}[kind]
            expected = np.linalg.norm(written @ read) / np.linalg.norm(written) / np.linalg.norm(read)
            assert close(found.array[i, j], expected)


@pytest.mark.needs("torch")
def test_composition_is_that_of_torch(model):
    import torch

    ov = torch.tensor(folded_weights(model, 0, 1).ov.full())
    qk = torch.tensor(folded_weights(model, 2, 0).qk.full())
    expected = (
        torch.linalg.matrix_norm(qk.T @ ov.T) / torch.linalg.matrix_norm(ov) / torch.linalg.matrix_norm(qk)
    )
    assert close(circuits.composition_scores(model, "q").array[1, 4], expected.item())


def test_independent_heads_compose_as_the_title_says():
    model = random_model(0, "float32", n_layer=2, n_head=8, n_embd=128)
    for kind in "qkv":
        found = circuits.composition_scores(model, kind).array
        assert np.nanmean(found) == pytest.approx(128**-0.5, rel=0.1)


# -- heads ------------------------------------------------------------------------------------------


def test_the_heads_of_the_model_card_are_found(tiny):
    found = heads.head_scores(tiny)
    assert found.axes == ("score", "layer", "head")
    of = dict(zip(found.labels["score"], found.array.reshape(4, 16), strict=True))
    names = circuits.head_labels(tiny.config)
    assert names[int(of["previous"].argmax())] == "0.0"
    assert [names[i] for i in np.argsort(-of["induction"])[:4]] == INDUCTION
    assert of["induction"][np.argsort(-of["induction"])[:4]].round(2).tolist() == [0.85, 0.83, 0.80, 0.45]
    assert of["duplicate"].max() < 0.1  # it has none


def test_the_previous_token_head_is_read_by_the_induction_heads_keys(tiny):
    """Olsson et al.: an induction head finds the token *after* the last occurrence by K-composition."""
    found = circuits.composition_scores(tiny, "k")
    reader = dict(zip(found.labels["reader"], found.array[0], strict=True))
    assert min(reader[head] for head in ("1.0", "1.1", "1.3")) > 1.5 * tiny.config.n_embd**-0.5
    assert reader["1.2"] < tiny.config.n_embd**-0.5  # no induction head


def test_head_scores_by_the_definition():
    model, n = random_model(2), 6
    found = heads.head_scores(model, n=n, repeats=1, seed=4).array
    half = np.random.default_rng(4).integers(0, 60, n).tolist()
    trace = model.trace(half + half)
    for layer, head in np.ndindex(2, 2):
        pattern = trace[f"h.{layer}.attn.pattern"][head]
        rows = range(n, 2 * n)
        expected = [
            np.mean([pattern[q, q - 1] for q in range(1, 2 * n)]),
            np.mean([pattern[q, q - n] for q in rows]),
            np.mean([pattern[q, q - n + 1] for q in rows]),
            np.mean([pattern[q, 0] for q in range(1, 2 * n)]),
        ]
        assert close(found[:, layer, head], expected)


@pytest.mark.needs("torch", "transformers")
def test_head_scores_are_those_of_hugging_face(tmp_path):
    import torch
    from support import hf

    n, theirs = 9, hf.random_model(3, n_layer=3, n_head=4, n_embd=24, n_positions=20, vocab_size=50)
    ours = gpt2np.load(hf.save(theirs, tmp_path / "model"), dtype="float64")
    found = heads.head_scores(ours, n=n, repeats=1, seed=4).array
    half = np.random.default_rng(4).integers(0, 50, n).tolist()
    with torch.no_grad():
        attentions = torch.cat(
            theirs.double()(torch.tensor([half + half]), output_attentions=True).attentions
        )
    again = attentions[:, :, n:]
    expected = [
        attentions.diagonal(-1, 2, 3).mean(-1),
        again.diagonal(0, 2, 3).mean(-1),
        again.diagonal(1, 2, 3).mean(-1),
        attentions[:, :, 1:, 0].mean(-1),
    ]
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=EXACT)


def test_head_scores_never_use_the_token_that_ends_a_text():
    model = random_model(0, vocab_size=3, eos_token_id=0)
    seen = []
    record = model.trace
    model.trace = lambda draws, **kw: seen.extend(i for ids in draws for i in ids) or record(draws, **kw)
    heads.head_scores(model, n=20, repeats=2)
    assert set(seen) == {1, 2}


def test_attention_scores_of_a_text(tiny):
    trace = tiny.trace("Elizabeth was not in the room.")
    found = heads.attention_scores(trace)
    assert found.labels["score"] == ("previous", "first")
    assert found.array[0, 0, 0] > 0.9  # the previous-token head
    pattern = trace["h.2.attn.pattern"][1]
    assert found.array[1, 2, 1] == pytest.approx(pattern[1:, 0].mean(), rel=1e-5)
    assert found.array[0, 2, 1] == pytest.approx(np.mean([pattern[q, q - 1] for q in range(1, len(pattern))]))


def test_nearest_tokens(tiny):
    table = tiny.parameters.lm_head
    near = heads.nearest_tokens(tiny, table[315], k=3, by="cosine")
    assert (near[0].token, near[0].id) == (" not", 315)
    assert near[0].cosine == pytest.approx(1, abs=1e-5)
    assert near[0].dot == pytest.approx(float(table[315] @ table[315]), rel=1e-5)
    trace = tiny.trace("Elizabeth was")
    dots = [(t.token, t.id) for t in heads.nearest_tokens(tiny, trace["ln_f"][-1], k=5)]
    assert dots == [(token, i) for token, i, _ in trace.top(5)]


def test_reads_and_writes_are_the_singular_directions(model):
    found = heads.reads_and_writes(model, 1, 0, directions=2, k=4)
    assert [d.circuit for d in found] == ["QK", "QK", "OV", "OV"]
    for circuit, matrix in zip(("QK", "OV"), full_folded(model, 1, 0), strict=True):
        u, s, v = np.linalg.svd(matrix)
        for i, d in enumerate(d for d in found if d.circuit == circuit):
            assert close(d.strength, s[i])
            p, out = model.parameters, v[i]
            if circuit == "OV":
                out = (out - out.mean()) * p.ln_f.weight
            reads, writes = p.wte @ u[:, i], (p.wte if circuit == "QK" else p.lm_head) @ out
            sign = np.sign(reads[d.reads[0].id])  # numpy's signs are as arbitrary as ours
            assert [t.id for t in d.reads] == np.argsort(-sign * reads)[:4].tolist()
            assert [t.id for t in d.writes] == np.argsort(-sign * writes)[:4].tolist()


def test_float32_gives_nearly_the_same(tiny, tiny64):
    for numbers in (
        circuits.copying_scores,
        circuits.circuit_norms,
        lambda m: circuits.composition_scores(m, "v"),
    ):
        single, double = numbers(tiny).array, numbers(tiny64).array
        assert np.nanmax(np.abs(single - double)) < 1e-4 * np.nanmax(np.abs(double))


def test_a_model_without_layers_that_compose():
    assert np.isnan(circuits.composition_scores(random_model(0, n_layer=1), "q").array).all()


def test_a_head_of_zeros_is_no_error():
    model = random_model(0)
    dead = changed(model, h__0__attn__c_attn__weight=np.zeros((16, 48)))
    assert circuits.copying_scores(dead).array[0].tolist() == [0, 0]
    assert circuits.composition_scores(dead, "v").array[0, 2] == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: head_weights(m, 3, 0), "layer 3 is not one of 0 to 2"),
        (lambda m: head_weights(m, 0, -1), "head -1 is not one of 0 to 1"),
        (lambda m: folded_weights(m, "1", 0), "layer must be a whole number, not '1'"),
        (lambda m: head_weights(m, True, 0), "layer must be a whole number, not True"),
        (lambda m: circuits.composition_scores(m, "o"), "composition is of q, k or v, not 'o'"),
        (lambda m: circuits.copying_scores(m, np.ones((3, 3))), r"embedding must be \[vocab, n_embd\]"),
        (lambda m: circuits.token_scores(m, 0, 0, [99]), "token id 99"),
        (lambda m: circuits.token_effects(m, 0, 2, [1]), "head 2"),
        (lambda m: heads.head_scores(m, n=1), "n=1: must be a whole number of at least 2"),
        (lambda m: heads.head_scores(m, n=40), "40 tokens said twice: the context of this model holds 64"),
        (lambda m: heads.head_scores(m, n=4, repeats=0), "repeats=0: must be"),
        (lambda m: heads.nearest_tokens(m, np.ones(3)), r"is \[16\], not \[3\]"),
        (lambda m: heads.nearest_tokens(m, np.ones(16), by="angle"), "'angle'"),
        (lambda m: heads.nearest_tokens(m, np.ones(16), k=0), "k=0: must be"),
        (lambda m: heads.reads_and_writes(m, 0, 0, directions=0), "directions=0: must be"),
        (lambda m: heads.attention_scores(m.trace([1])), "at least two positions"),
    ],
)  # fmt: skip
def test_wrong_calls(model, call, says):
    with pytest.raises(InputError, match=says):
        call(model)


def test_attention_scores_need_every_pattern(model):
    with pytest.raises(TraceError):
        heads.attention_scores(model.trace([1, 2], keep="h.0.attn.pattern"))


def test_with_a_vocabulary_tokens_have_names():
    model = random_model_with_text()
    found = circuits.token_scores(model, 0, 0, "Elizabeth was")
    assert found.labels["key"] == ["E", "lizabeth", " was"]
