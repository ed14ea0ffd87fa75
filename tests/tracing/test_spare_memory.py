"""Memory that is used again: never while anybody holds any of it."""

import numpy as np
import pytest
from support.random_model import random_model

from gpt2np.tracing import spare_memory

MB = 1 << 20


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(spare_memory, "_blocks", [])


def address(array):
    return array.__array_interface__["data"][0]


def test_a_block_is_used_again_when_nobody_holds_it():
    first = spare_memory.block(4 * MB)
    at = address(first)
    view = first[MB : 2 * MB].view(np.float32).reshape(-1, 8)[3]
    del first
    second = spare_memory.block(4 * MB)
    assert address(second) != at  # the view is of the first one
    del view
    assert address(spare_memory.block(int(3.8 * MB))) == at
    assert address(spare_memory.block(int(3.5 * MB))) != at  # that would waste too much
    assert spare_memory.block(4 * MB).nbytes >= 4 * MB


def test_who_holds_one_while_the_next_is_made_has_two_in_turn():
    seen, held = [], None
    for _ in range(6):
        held = spare_memory.block(4 * MB)
        seen.append(address(held))
    assert len(set(seen)) == 2
    assert seen[:2] * 3 == seen


def test_sizes_in_turn_have_a_block_each():
    seen = [address(spare_memory.block(n * MB)) for n in (4, 9, 4, 9, 4, 9)]
    assert len(set(seen)) == 2


def test_large_ones_never_exist_together(monkeypatch):
    monkeypatch.setattr(spare_memory, "_TOGETHER", 10 * MB)
    spare_memory.block(6 * MB)
    made, empty = [], np.empty

    def counted(n, *rest):
        if n:
            made.append([block.nbytes for block in spare_memory._blocks])
        return empty(n, *rest)

    monkeypatch.setattr(spare_memory.np, "empty", counted)
    spare_memory.block(5 * MB)
    assert made == [[]]


def test_logits_are_the_callers():
    model = random_model(vocab_size=70_000, n_positions=64, n_embd=8)  # 35 MB of logits
    one, other = np.arange(64) % 60, np.arange(64) % 50
    held = model(one)
    before = held.copy()
    places = {address(model(other)) for _ in range(3)}
    assert address(held) not in places
    assert len(places) == 1
    np.testing.assert_array_equal(held, before)
    held[0, 0] = 0  # and may be written to
    last = model(other)[-1]
    expected = last.copy()
    for _ in range(3):
        model(one)
    np.testing.assert_array_equal(last, expected)
    np.testing.assert_allclose(model(one)[5], before[5], rtol=1e-12)
