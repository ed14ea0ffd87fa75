"""The operations against their formulas: precision, memory layouts, blocks, inputs left alone."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.differences import relative_error

from gpt2np import ops
from gpt2np.ops import LayerNorm, Linear, blocks, causal_mask

HEADS, D_HEAD, D, D_MLP = 3, 4, 12, 20
DTYPES = ("float32", "float64")
NOISE = {"float32": 2e-6, "float64": 1e-14}


def normal(*shape, seed=0, dtype="float64", scale=1.0):
    return (np.random.default_rng(seed).normal(0, scale, shape)).astype(dtype)


def cases(n, dtype):
    """Each operation with inputs of n rows, and the shape of its result."""
    wide, square = normal(n, D, dtype=dtype), normal(HEADS, n, n, dtype=dtype)
    q, k = (normal(n, HEADS, D_HEAD, seed=s, dtype=dtype) for s in (1, 2))
    norm = LayerNorm(normal(D, seed=3, dtype=dtype), normal(D, seed=4, dtype=dtype), 1e-5)
    weights = Linear(normal(D, D_MLP, seed=5, dtype=dtype), normal(D_MLP, seed=6, dtype=dtype))
    table, ids = normal(50, D, seed=7, dtype=dtype), np.arange(n) % 50
    pattern = np.abs(square)
    return {
        "lookup": (ops.lookup, (ids, table), (n, D)),
        "add": (ops.add, (wide, wide + 1), (n, D)),
        "linear": (ops.linear, (wide, weights), (n, D_MLP)),
        "layer_norm": (ops.layer_norm, (wide, norm), (n, D)),
        "scaled_scores": (ops.scaled_scores, (q, k, 0.5), (HEADS, n, n)),
        "softmax": (ops.softmax, (square,), (HEADS, n, n)),
        "mix": (ops.mix, (pattern, q), (n, HEADS, D_HEAD)),
        "unembedding": (ops.unembedding, (wide, table), (n, 50)),
    } | {name: (op, (3 * wide,), (n, D)) for name, op in ops.ACTIVATIONS.items()}


NAMES = sorted(cases(1, "float32"))


def run(op, *inputs, like=None, shape=None):
    """The operation's result in an array of its own, filled with NaN before."""
    out = np.full(like.shape if shape is None else shape, np.nan, (inputs[0] if like is None else like).dtype)
    op(*inputs, out=out)
    return out


def apply(op, x):
    return run(op, x, like=x)


def arrays_in(inputs):
    for value in inputs:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, tuple):
            yield from arrays_in(value)


# -- what holds for all of them -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_alone_and_out_is_filled(name, dtype):
    op, inputs, shape = cases(9, dtype)[name]
    before = [array.copy() for array in arrays_in(inputs)]
    for array in arrays_in(inputs):
        array.flags.writeable = False
    out = np.full(shape, np.nan, dtype)
    assert op(*inputs, out=out) is None
    assert not np.isnan(out).any()
    for array, copy in zip(arrays_in(inputs), before, strict=True):
        np.testing.assert_array_equal(array, copy)


class Float32Only(np.ndarray):
    """An array that refuses to meet, or to become, float64 in any elementwise operation or product."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        for array in (*inputs, *(out or ())):
            assert not isinstance(array, np.ndarray | np.floating) or array.dtype == np.float32, ufunc
        plain = [np.asarray(i) if isinstance(i, np.ndarray) else i for i in inputs]
        if out:
            options["out"] = tuple(np.asarray(o) for o in out)
        result = getattr(ufunc, method)(*plain, **options)
        assert result.dtype == np.float32, ufunc
        return out[0] if out else result.view(Float32Only)


def guarded(value):
    if isinstance(value, tuple):
        return type(value)(*map(guarded, value))
    is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.view(Float32Only) if is_float else value


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gelu"}))  # erf is computed in float64 on purpose
def test_float32_stays_float32_all_the_way(name):
    op, inputs, shape = cases(9, "float32")[name]
    out = np.empty(shape, np.float32)
    op(*map(guarded, inputs), out=out.view(Float32Only))
    np.testing.assert_array_equal(out, run(op, *inputs, like=out))


def test_the_guard_sees_a_promotion():
    x = normal(3, 4, dtype="float32").view(Float32Only)
    with pytest.raises(AssertionError):
        x * np.sqrt(768)  # the classic: np.sqrt(768) is a float64
    with pytest.raises(AssertionError):
        x + np.arange(4.0)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64(name):
    (op, single, shape), (_, double, _) = (cases(9, dtype)[name] for dtype in DTYPES)
    found = run(op, *single, shape=shape, like=np.empty(0, np.float32))
    truth = run(op, *double, shape=shape, like=np.empty(0, np.float64))
    assert relative_error(found, truth) < NOISE["float32"]


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_of_memory_gives_the_same(name):
    """Inputs and results that are windows of larger arrays, or transposed ones."""
    op, inputs, shape = cases(9, "float64")[name]
    plain = run(op, *inputs, shape=shape, like=np.empty(0))

    def scattered(value):
        if isinstance(value, tuple):
            return type(value)(*map(scattered, value))
        if not isinstance(value, np.ndarray):
            return value
        large = np.full([2 * n + 1 for n in value.shape], 77, value.dtype)
        view = large[tuple(slice(1, None, 2) for _ in value.shape)]
        view[...] = value
        return view

    large = np.full([n + 3 for n in shape], np.nan)
    window = large[tuple(slice(1, n + 1) for n in shape)]
    op(*map(scattered, inputs), out=window)
    assert relative_error(window, plain) < NOISE["float64"]
    assert np.isnan(large).sum() == large.size - window.size  # nothing is written beside the window

    columns = np.full(shape[::-1], np.nan).T
    op(*inputs, out=columns)
    assert relative_error(columns, plain) < NOISE["float64"]


# -- blocks of rows -------------------------------------------------------------------------------------

BLOCKED = {name: op for name, op in ops.ACTIVATIONS.items() if name not in ("relu", "tanh")}
BLOCKED |= {"softmax": ops.softmax, "layer_norm": ops.layer_norm}
SHAPES = [(7,), (5, 8), (64, 8), (65, 8), (3, 5, 8), (3, 1, 200), (2, 3, 4, 8), (1, 1000), (1000,), (0, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_of_rows_change_nothing(name, shape, monkeypatch):
    def set_block(n_bytes):
        for module in (blocks, causal_mask):
            monkeypatch.setattr(module, "BLOCK_BYTES", n_bytes)

    op, x = BLOCKED[name], normal(*shape, dtype="float32", scale=2.0)
    p = (LayerNorm(normal(shape[-1], dtype="float32"), normal(shape[-1], dtype="float32"), 1e-5),)
    p = p if name == "layer_norm" else ()
    set_block(1 << 40)
    whole = run(op, x, *p, like=x)
    for limit in (1, 100, 64 * 8 * 4, 64 * 8 * 4 - 1):
        set_block(limit)
        np.testing.assert_array_equal(run(op, x, *p, like=x), whole)


def test_the_limit_as_it_is():
    rows = blocks.BLOCK_BYTES // (50 * 4)
    for n in (rows - 1, rows, rows + 1, 3 * rows + 1):
        x = normal(n, 50, dtype="float32")
        np.testing.assert_array_equal(apply(ops.softmax, x)[-1], apply(ops.softmax, x[-1:])[0])
        assert relative_error(apply(ops.gelu_tanh, x), gelu_tanh(x)) < NOISE["float32"]


def test_one_row_longer_than_a_block():
    x = normal(150_000)
    assert x.nbytes > blocks.BLOCK_BYTES
    np.testing.assert_array_equal(apply(ops.softmax, x), apply(ops.softmax, x[None])[0])


# -- activations ----------------------------------------------------------------------------------------


def gelu_tanh(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.ravel().tolist()]).reshape(x.shape)


FORMULAS = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu_erf,
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: np.array([math.tanh(v) for v in x.tolist()]),
}
LINE = np.concatenate([np.linspace(-12, 12, 9001), [-700, -100, -1e-8, -1e-300, -0.0, 0.0, 1e-300, 100, 700]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_are_their_formulas(name, dtype):
    x = LINE.astype(dtype)
    found, truth = apply(ops.ACTIVATIONS[name], x), FORMULAS[name](x.astype(np.float64))
    allowed = {"float32": 3e-7, "float64": 1e-15}[dtype]  # of x: 1 + tanh(x) cancels where x is negative
    assert (np.abs(found - truth) <= allowed * np.maximum(1, np.abs(x))).all()


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_of_huge_numbers_do_not_warn(name):
    largest = {"gelu_new": 1e12, "gelu_pytorch_tanh": 1e12}.get(name, 1e38)  # these have a cube inside
    x = np.array([-largest, -300.0, 300.0, largest], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = apply(ops.ACTIVATIONS[name], x)
    np.testing.assert_array_equal(found, [-1, -1, 1, 1] if name == "tanh" else np.maximum(x, 0))


def test_the_two_gelus_differ_as_published():
    x = np.linspace(-6, 6, 100_001)
    difference = np.abs(apply(ops.gelu_erf, x) - apply(ops.gelu_tanh, x)).max()
    assert difference == pytest.approx(4.73e-4, rel=2e-3)  # computed for FACTS.md, "Further notes"


def test_erf_against_the_c_library():
    x = np.concatenate([np.linspace(-7, 7, 200_001), [-1e300, -30, -1e-300, -0.0, 0.0, 1e-20, 30, 1e300]])
    truth = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(ops.erf(x) - truth).max() < 1e-15
    small = np.abs(x) < 1
    assert (np.abs(ops.erf(x) - truth)[small] <= 1e-15 + 1e-15 * np.abs(truth[small])).all()
    single = x[np.abs(x) < 1e38].astype(np.float32)
    truth = np.array([math.erf(v) for v in single.tolist()])
    assert np.abs(ops.erf(single) - truth).max() < 1e-15  # float32 in, still float64 out
    np.testing.assert_array_equal(ops.erf(-x), -ops.erf(x))


def test_erf_at_the_ends():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ops.erf(np.array([-np.inf, np.inf, np.nan]))
    np.testing.assert_array_equal(found, [-1, 1, np.nan])


@given(st.floats(-50, 50))
def test_erf_anywhere(x):
    assert abs(ops.erf(np.array([x]))[0] - math.erf(x)) < 1e-15


# -- softmax --------------------------------------------------------------------------------------------

ROWS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(ROWS, st.floats(-1e4, 1e4))
@settings(deadline=None)
def test_softmax_is_a_distribution_and_does_not_see_a_shift(x, shift):
    y = apply(ops.softmax, x)
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-14)
    np.testing.assert_allclose(apply(ops.softmax, x + shift), y, atol=1e-11)
    assert (np.take_along_axis(y, x.argmax(-1)[..., None], -1) == y.max(-1, keepdims=True)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_is_its_formula(dtype):
    x = normal(4, 9, dtype=dtype, scale=3)
    truth = np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True)
    assert relative_error(apply(ops.softmax, x), truth) < {"float32": 2e-7, "float64": 1e-15}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_infinities_and_huge_numbers(dtype):
    largest = float(np.finfo(dtype).max)
    x = np.array([[0, -np.inf, 0], [largest, 0, largest], [-largest, -largest, -np.inf]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = apply(ops.softmax, x)
    np.testing.assert_array_equal(y, np.array([[0.5, 0, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype))


def test_softmax_into_the_corner_of_a_larger_array():
    big, t = np.full((HEADS, 20, 20), -1.0), 7
    x = normal(HEADS, t, t)
    ops.softmax(x, out=big[:, :t, :t])
    np.testing.assert_allclose(big[:, :t, :t], apply(ops.softmax, x), rtol=1e-15)
    assert (big == -1).sum() == big.size - HEADS * t * t


# -- layer norm -----------------------------------------------------------------------------------------


def norm_formula(x, p):
    x = x.astype(np.float64)
    variance = x.var(-1, ddof=0, keepdims=True)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + p.epsilon) * p.weight + p.bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_layer_norm_is_its_formula(dtype, offset):
    x = normal(6, 40, dtype=dtype) + offset
    p = LayerNorm(normal(40, seed=1, dtype=dtype), normal(40, seed=2, dtype=dtype), 1e-5)
    allowed = NOISE[dtype] * max(1, offset)  # x itself is rounded at its own size
    assert relative_error(run(ops.layer_norm, x, p, like=x), norm_formula(x, p)) < allowed


def test_layer_norm_divides_by_n_and_adds_epsilon_inside_the_root():
    one, zero = np.ones(2), np.zeros(2)
    x = np.array([[1.0, -1.0]])  # variance 1 with ddof 0, 2 with ddof 1
    np.testing.assert_array_equal(run(ops.layer_norm, x, LayerNorm(one, zero, 0.0), like=x), x)
    np.testing.assert_array_equal(run(ops.layer_norm, x, LayerNorm(one, zero, 3.0), like=x), x / 2)


def test_layer_norm_of_a_constant_row_is_its_bias():
    x, p = np.full((2, 8), 5.0, np.float32), LayerNorm(*normal(2, 8, dtype="float32"), 1e-5)
    np.testing.assert_array_equal(run(ops.layer_norm, x, p, like=x), np.tile(p.bias, (2, 1)))


def test_layer_norm_statistics():
    x = normal(5, 16)
    mean, rstd = ops.layer_norm_statistics(x, 1e-5)
    assert mean.shape == rstd.shape == (5, 1)
    np.testing.assert_allclose(mean[:, 0], x.mean(-1), rtol=1e-13)
    np.testing.assert_allclose(rstd[:, 0], (x.var(-1) + 1e-5) ** -0.5, rtol=1e-13)


# -- attention ------------------------------------------------------------------------------------------


def scores(q, k, scale=0.5):
    return run(ops.scaled_scores, q, k, scale, shape=(q.shape[1], len(q), len(k)))


def test_scores_are_their_formula():
    q, k = normal(2, 6, HEADS, D_HEAD)
    found = scores(q, k, 0.25)
    for head in range(HEADS):
        for i in range(6):
            for j in range(6):
                expected = 0.25 * sum(q[i, head] * k[j, head]) if j <= i else -np.inf
                assert found[head, i, j] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_fewer_queries_than_keys_are_the_last_rows(n):
    q, k = normal(2, 8, HEADS, D_HEAD)
    np.testing.assert_allclose(scores(q[-n:], k), scores(q, k)[:, -n:], rtol=1e-13)


@given(st.integers(1, 6), st.integers(0, 6))
def test_the_future_and_nothing_else_is_minus_infinity(n, past):
    found = scores(normal(n, 2, 3), normal(n + past, 2, 3, seed=1))
    future = np.arange(n + past) > np.arange(past, past + n)[:, None]
    np.testing.assert_array_equal(np.isneginf(found), np.broadcast_to(future, found.shape))
    pattern = apply(ops.softmax, found)
    assert (pattern[:, future] == 0).all()


@given(st.integers(0, 2**32 - 1))
def test_turning_queries_and_keys_together_leaves_scores_alone(seed):
    q, k = normal(2, 5, HEADS, D_HEAD, seed=seed)
    turn, _ = np.linalg.qr(normal(D_HEAD, D_HEAD, seed=seed + 1))
    turned = q.copy(), k.copy()
    for array in turned:
        array[:, 1] = array[:, 1] @ turn  # of one head
    assert relative_error(scores(*turned), scores(q, k)) < NOISE["float64"]


def test_scores_into_the_corner_of_a_larger_array():
    q, k = normal(2, 7, HEADS, D_HEAD)
    big = np.full((HEADS, 20, 20), 5.0)
    ops.scaled_scores(q, k, 0.5, out=big[:, :7, :7])
    assert relative_error(big[:, :7, :7], scores(q, k)) < NOISE["float64"]
    assert (big == 5).sum() == big.size - HEADS * 49


def test_mix_is_its_formula():
    pattern, v = np.abs(normal(HEADS, 4, 6)), normal(6, HEADS, D_HEAD)
    found = run(ops.mix, pattern, v, shape=(4, HEADS, D_HEAD))
    np.testing.assert_allclose(found, np.einsum("hqk,khd->qhd", pattern, v), rtol=1e-13)


def test_linear_and_unembedding_are_their_formulas():
    x, p, table = normal(4, D), Linear(normal(D, D_MLP), normal(D_MLP)), normal(50, D)
    np.testing.assert_allclose(run(ops.linear, x, p, shape=(4, D_MLP)), x @ p.weight + p.bias, rtol=1e-13)
    np.testing.assert_allclose(run(ops.unembedding, x, table, shape=(4, 50)), x @ table.T, rtol=1e-13)
