"""The likeliest tokens, found without sorting all: those of a stable sort, whatever the numbers are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2np.tracing.derived import top_k_tokens

FEW = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, np.inf, -np.inf, np.nan])  # so that many are equal


def sorted_whole(logits, k):
    return np.argsort(-logits, axis=-1, kind="stable")[..., :k]


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(FEW, min_size=1, max_size=40),
    times=st.integers(1, 30),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_of_equals_the_lower_id_comes_first(values, times, k, seed):
    row = np.random.default_rng(seed).permutation(np.array(values * times))
    np.testing.assert_array_equal(top_k_tokens(row, k), sorted_whole(row, min(k, len(row))))


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 3000),
    rows=st.integers(1, 3),
    k=st.sampled_from([1, 2, 5, 50, 3000]),
    kind=st.sampled_from(["float32", "float64", "float16"]),
    seed=st.integers(0, 99),
)
def test_rows_of_any_length(n, rows, k, kind, seed):
    logits = np.random.default_rng(seed).normal(size=(rows, 2, n)).astype(kind)
    found = top_k_tokens(logits, k)
    assert found.shape == (rows, 2, min(k, n))
    np.testing.assert_array_equal(found, sorted_whole(logits, k))


def test_what_was_filtered_out_comes_last():
    row = np.full(5000, -np.inf, np.float32)
    row[[17, 4000]] = 1, 2
    assert top_k_tokens(row, 4).tolist() == [4000, 17, 0, 1]
