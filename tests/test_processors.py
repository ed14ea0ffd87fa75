"""Threads of a pass run on processors of their own, and nobody keeps to them afterwards."""

import os
import sys
import threading

import numpy as np
import pytest
from support.random_model import random_model

import gpt2np
from gpt2np import processors, threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says where a thread may run")
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "vocab_size": 50, "n_positions": 512}
IDS = [1, 2, 3] * 150


def allowed():
    return os.sched_getaffinity(0)


@pytest.fixture
def two_or_more():
    if len(allowed()) < 2:
        pytest.skip("there is one processor")


def seen_in_a_pass(n, apart=True):
    """Where each of n threads may run during a pass; every one has to come, as all wait for each other."""
    together, seen = threading.Barrier(n, timeout=60), []

    def piece(i):
        together.wait()
        seen.append(allowed())

    with threads.using(n, threads.MANY_ROWS, apart=apart):
        threads.each(piece, list(range(n)))
    return seen


def test_each_thread_has_processors_of_its_own(two_or_more):
    before = allowed()
    a, b = seen_in_a_pass(2)
    assert not a & b
    assert a | b == allowed() == before
    assert seen_in_a_pass(2, apart=False) == [before, before]


def test_with_more_threads_than_processors_they_are_left_alone():
    assert seen_in_a_pass(len(allowed()) + 1) == [allowed()] * (len(allowed()) + 1)


def test_an_error_in_a_pass_leaves_nobody_behind(two_or_more):
    before = allowed()
    with pytest.raises(ZeroDivisionError), threads.using(2, threads.MANY_ROWS, apart=True):
        threads.each(lambda i: 1 / i, [1, 0])
    assert allowed() == before
    assert seen_in_a_pass(2, apart=False) == [before, before]


def test_what_a_caller_may_use_is_kept_to(two_or_more):
    before, one = allowed(), {min(allowed())}
    try:
        os.sched_setaffinity(0, one)
        assert one in seen_in_a_pass(2)
        assert allowed() == one
    finally:
        os.sched_setaffinity(0, before)


def test_functions_of_a_caller_run_where_they_like(two_or_more, monkeypatch):
    model, before, seen = random_model(1, "float32", **SHAPE), allowed(), []
    threaded = gpt2np.model.Model(model.checkpoint, "float32", 2)

    def edit(x):
        seen.append(allowed())
        return x

    edited = threaded.trace(IDS, edits={"h.0.mlp.out": edit})
    assert seen == [before]
    spread = []
    monkeypatch.setattr(threads.Pool, "spread", lambda pool, found: spread.append(found))
    np.testing.assert_array_equal(threaded.trace(IDS)["logits"], edited["logits"])
    assert [set(found) for found in spread] == [before]


def test_a_system_that_says_nothing_or_refuses(monkeypatch):
    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    assert seen_in_a_pass(2) == [allowed(), allowed()]
    monkeypatch.setattr(os, "sched_getaffinity", refused)
    assert processors.of_this_thread() == []
    monkeypatch.undo()
    monkeypatch.setattr(processors, "_current", lambda: None)
    assert processors.of_this_thread() == []
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processors.of_this_thread() == []
    processors.keep(0, [0])


def test_they_begin_where_this_thread_runs():
    before = allowed()
    found = processors.of_this_thread()
    i = found.index(min(found))
    assert found[i:] + found[:i] == sorted(before)
    try:
        for one in before:
            os.sched_setaffinity(0, {one})
            assert processors.of_this_thread() == [one]
    finally:
        os.sched_setaffinity(0, before)
