"""Long prompts are computed in blocks, by several threads: the numbers must not know."""

import concurrent.futures
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
import threadpoolctl
from support.random_model import random_model

import gpt2np
from gpt2np import threads
from gpt2np.analysis.subjects import of_trace
from gpt2np.cli import main
from gpt2np.errors import InputError
from gpt2np.ops import blocks, causal_blocks, causal_mask, embedding, few_rows, products, softmax
from gpt2np.ops.causal_mask import QUERY_BLOCK
from gpt2np.reference.precision import in_precision
from gpt2np.tracing import packed_pass
from gpt2np.tracing.plan import Plan

LONG = 414  # more than three blocks of queries, and not a whole number of them
IDS = np.random.default_rng(0).integers(0, 100, LONG).tolist()
SHAPE = {"n_layer": 2, "n_head": 3, "n_embd": 48, "vocab_size": 100, "n_positions": 512}


@pytest.fixture(scope="module")
def model():
    return random_model(1, "float32", **SHAPE)


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


def with_threads(model, n):
    return gpt2np.model.Model(model.checkpoint, "float32", n)


def equal(a, b, names=None):
    for name in names or a.names():
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def near(a, b):
    for name in a.names():
        x, y = (np.nan_to_num(t[name], neginf=0.0) for t in (a, b))
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(1, np.abs(x).max()), err_msg=name)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_run_to_run_bit_for_bit_and_noise_between_numbers_of_threads(model, trace, n):
    threaded = with_threads(model, n)
    first = threaded.trace(IDS)
    for _ in range(3):
        equal(first, threaded.trace(IDS))
    near(first, trace)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("block", [1 << 12, 1 << 16, 1 << 24])
@pytest.mark.parametrize("small_kernels", [True, False])
def test_every_site_with_other_threads_and_blocks(n_threads, block, small_kernels, monkeypatch):
    """What is a piece, and who computes it, changes no number by more than noise."""
    model = random_model(1, "float32", **SHAPE)
    prompts = [IDS[:n] for n in (1, 2, 7, 20, 30, 150)]
    usual = model.trace(prompts), [model.trace(ids) for ids in prompts]
    for module in (blocks, causal_mask):
        monkeypatch.setattr(module, "BLOCK_BYTES", block)
        monkeypatch.setattr(module, "SHARE_BYTES", min(block, blocks.SHARE_BYTES))
    monkeypatch.setattr(causal_mask, "QUERY_BLOCK", block >> 10)
    monkeypatch.setattr(causal_mask, "_causal_blocks", causal_mask._causal_blocks.__wrapped__)
    monkeypatch.setattr(products, "LARGE", block >> 4)
    monkeypatch.setattr(embedding, "LARGE_TABLE", block >> 4)
    for module in (few_rows, threads):
        monkeypatch.setattr(module, "has_small_kernels", lambda: small_kernels)
    monkeypatch.setattr(threads, "MANY_ROWS", 25)
    monkeypatch.setattr(threads, "is_small", lambda config: False)
    monkeypatch.setattr(gpt2np.model, "is_small", lambda config: False)
    threaded = with_threads(model, n_threads)
    for ours, theirs in zip(usual[0] + usual[1], threaded.trace(prompts) * 2, strict=True):
        near(ours, theirs)
    for ours, ids in zip(usual[1], prompts, strict=True):
        near(ours, threaded.trace(ids))


def test_all_that_an_inside_trace_must_satisfy(trace):
    assert trace.verify()


def test_against_double_precision(trace):
    exact = random_model(1, "float64", **SHAPE).trace(IDS)
    near(exact, trace)


def test_traced_equals_untraced_and_any_choice_of_sites(model, trace):
    np.testing.assert_array_equal(model(IDS), trace["logits"])
    for keep in ("attn.pattern", "attn.scores", ["h.1.attn.z", "resid_post"]):
        equal(model.trace(IDS, keep=keep), trace)
    some = model.trace(IDS, keep={"patterns": "attn.*", "positions": slice(100, 300, 7)})
    for name in ("h.0.attn.pattern", "h.1.attn.scores"):
        np.testing.assert_array_equal(some[name], trace[name][:, 100:300:7])
    half = model.trace(IDS, keep={"patterns": "attn.scores", "dtype": "float16"})
    np.testing.assert_array_equal(half["h.1.attn.scores"], trace["h.1.attn.scores"].astype(np.float16))


def test_a_clock_and_edits_that_change_nothing_change_nothing(model, trace):
    equal(model.trace(IDS, timings=True), trace)
    same = {"attn.scores": lambda x: x, "h.1.attn.pattern": lambda x: x.copy()}
    equal(model.trace(IDS, edits=same), trace)


def test_an_edit_may_show_the_future(model, trace):
    def unmask(scores):
        return np.where(np.isfinite(scores), scores, np.float32(0.5))

    found = model.trace(IDS, edits={"h.0.attn.scores": unmask})
    x = unmask(trace["h.0.attn.scores"]).astype(np.float64)
    pattern = np.exp(x - x.max(-1, keepdims=True))
    pattern /= pattern.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["h.0.attn.pattern"], pattern, atol=1e-6)
    z = np.einsum("hqk,khd->qhd", pattern, trace["h.0.attn.v"])
    np.testing.assert_allclose(found["h.0.attn.z"], z, atol=1e-5 * np.abs(z).max())
    broken = model.trace(IDS, edits={"h.0.attn.scores": lambda s: np.full_like(s, np.nan)})
    assert np.isnan(broken["h.0.attn.z"]).all()


def test_long_prompts_packed_and_continued(model, trace):
    packed = model.trace([IDS, IDS[:7], IDS[:200]])
    near(trace, packed[0])
    near(model.trace(IDS[:200]), packed[2])
    done = model.generate(IDS[:-20], max_new_tokens=5, eos=None, keep="*").finish()
    near(done.trace, model.trace(done.token_ids[:-1]))
    past = model.trace(IDS[:150], keep="attn.qkv")  # then many queries at once, behind a past
    later = model.generate(IDS, max_new_tokens=2, eos=None, keep="*", past=past).finish().trace
    again = model.trace(later.token_ids)
    for name in ("h.1.attn.pattern", "h.1.attn.scores"):
        x, y = (np.nan_to_num(t, neginf=0.0) for t in (later[name], again[name][:, 150:]))
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1, np.abs(y).max()))


def test_to_a_file(model, trace, tmp_path):
    equal(model.trace(IDS, out=tmp_path / "t.safetensors"), trace)
    assert trace.nbytes == Plan(model.config, LONG).nbytes


def test_without_threadpoolctl(model, trace, monkeypatch):
    monkeypatch.setattr(threads, "_blas", lambda: None)
    near(model.trace(IDS), trace)
    near(with_threads(model, 3).trace(IDS), trace)


def test_several_callers_at_once(model, trace):
    threaded = with_threads(model, 2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: threaded.trace(IDS), range(8)):
            near(found, trace)


def blas_threads():
    return [library.num_threads for library in threads._blas().lib_controllers]


def allowed_processors():
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


def test_callers_at_once_leave_blas_as_it_was(model):
    before, several = blas_threads(), [with_threads(model, n) for n in (1, 2, 3)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: several[i % 3](IDS if i % 2 else IDS[:20]), range(24)))
    assert blas_threads() == before


def test_an_interrupted_caller_gets_new_threads_and_right_numbers(model, trace, monkeypatch):
    threaded = with_threads(model, 2)
    equal(first := threaded.trace(IDS), threaded.trace(IDS))
    pool, done = threads._pools[2], threads._pools[2]._done

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_done", types.SimpleNamespace(get=interrupted, put=done.put))
    before = blas_threads()
    with pytest.raises(KeyboardInterrupt):
        threaded.trace(IDS)
    done.get()  # the helper came to its end
    assert blas_threads() == before
    equal(first, threaded.trace(IDS))
    assert threads._pools[2] is not pool


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_random_moments_leave_nothing_behind(model):
    threaded, before = with_threads(model, 2), blas_threads()
    expected, alive = threaded(IDS), threading.active_count()

    def interrupt(signal_number, frame):
        raise KeyboardInterrupt

    kept, allowed = signal.signal(signal.SIGALRM, interrupt), allowed_processors()
    try:
        for i in range(60):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + i * 1e-4)
                threaded(IDS)
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
    assert blas_threads() == before
    assert allowed_processors() == allowed
    np.testing.assert_array_equal(threaded(IDS), expected)
    for _ in range(100):  # helpers of given-up pools come to their end
        gc.collect()
        if threading.active_count() <= alive:
            break
        time.sleep(0.02)
    assert threading.active_count() <= alive + 2  # Python ignores what is raised in __del__: a thread is left
    assert not threads._shared._passes
    assert threads._shared._owner is None


@pytest.mark.parametrize("call", ["untraced", "last", "resid_post", "float16"])
def test_threads_that_meet_where_memory_is_placed_write_into_the_same(model, monkeypatch, call):
    threaded = with_threads(model, 2)

    def run():
        if call in ("untraced", "last"):
            return threaded(IDS, last=call == "last")
        keep = "resid_post" if call == "resid_post" else {"patterns": "resid_post", "dtype": "float16"}
        return threaded.trace(IDS, keep=keep)["h.1.resid_post"]

    expected, array = run(), packed_pass.Scratch.array

    def slow(self, name, *arguments, **options):
        found = array(self, name, *arguments, **options)
        if name == "attn.z":
            time.sleep(0.01)
        return found

    monkeypatch.setattr(packed_pass.Scratch, "array", slow)
    np.testing.assert_array_equal(run(), expected)


def test_the_memory_of_a_dropped_long_trace_is_taken_over(model):
    threaded = with_threads(model, 2)
    address = threaded.trace(IDS)["h.0.attn.qkv"].ctypes.data
    assert threaded.trace(IDS)["h.0.attn.qkv"].ctypes.data == address


def test_a_run_inside_an_edit_gives_the_pool_back(model):
    threaded, seen = with_threads(model, 2), []

    def edit(x):
        seen.append(threads.shares())
        threaded(IDS)
        threaded(IDS[:5])
        seen.append(threads.shares())
        return x

    threaded.trace(IDS, edits={"h.0.mlp.out": edit})
    assert seen == [2, 2]


WIDE = {"n_layer": 1, "n_head": 8, "n_embd": 512, "vocab_size": 100, "n_positions": 32}


@pytest.mark.parametrize(
    ("shape", "n_rows", "threads_asked", "wanted"),
    [
        (SHAPE, 5, None, 1),
        (SHAPE, threads.MANY_ROWS_OF_SMALL - 1, None, 1),
        (SHAPE, 5, 2, 2),
        (WIDE, 5, None, 2),
        (WIDE, 5, 1, 1),
    ],
    ids=["small", "small, many rows", "small, but asked for two", "large", "large, asked for one"],
)
def test_a_small_model_computes_on_one_thread(shape, n_rows, threads_asked, wanted):
    small, seen = with_threads(random_model(1, "float32", **shape), threads_asked), []

    def edit(x):
        seen.append(max(*blas_threads(), threads.shares()))  # BLAS' own, or ours with BLAS at one
        return x

    with threadpoolctl.threadpool_limits(2, "blas"):
        if blas_threads() != [2]:
            pytest.skip("this BLAS has one thread")
        trace = small.trace(IDS[:n_rows], edits={"h.0.mlp.out": edit})
        interpreted = of_trace(lambda trace: blas_threads())(trace)
        assert blas_threads() == [2]
    assert seen == [wanted]
    assert interpreted == ([1] if shape is SHAPE else [2])  # a trace says nothing of threads


def test_another_precision_decodes_with_its_own_weights(model):
    model.generate(IDS[:5], max_new_tokens=3, eos=None).finish()
    exact = in_precision(model, "float64")
    done = exact.generate(IDS[:5], max_new_tokens=3, eos=None, keep="*").finish()
    assert done.trace["logits"].dtype == np.float64


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", 257, 2**70, float("nan"), [2]])
def test_numbers_of_threads_that_nobody_has(value):
    with pytest.raises(InputError, match=r"threads=.*: must be a whole number"):
        threads.checked(value)


def test_numpy_integers_are_numbers_of_threads():
    assert threads.checked(np.int64(2)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_threads_of_its_own(model):
    threaded = with_threads(model, 2)
    threaded(IDS)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if np.isfinite(threaded(IDS)).all() else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_errors_of_a_piece_reach_the_caller_and_leave_the_pool_usable():
    def broken(piece):
        if piece == 3:
            raise KeyError(piece)

    with threads.using(2, threads.MANY_ROWS):
        for _ in range(3):
            with pytest.raises(KeyError):
                threads.each(broken, list(range(9)))
        done = []
        threads.each(done.append, list(range(50)))
    assert sorted(done) == list(range(50))
    assert threads.shares() == 1


def test_blocks_cover_every_query_once_with_the_keys_that_it_sees():
    for shape in ((12, 1024, 1024), (3, 1, 700), (2, 300, 500), (1, QUERY_BLOCK, QUERY_BLOCK), (5, 129, 129)):
        seen = np.zeros(shape[:2], int)
        for heads, queries, keys in causal_blocks(shape, np.dtype("float32")):
            seen[heads, queries] += 1
            assert keys == slice(0, shape[2] - shape[1] + queries.stop)
        assert (seen == 1).all()


def test_softmax_of_other_shapes():
    rng = np.random.default_rng(0)
    for shape in ((7,), (3, 5), (4, 9, 3), (2, 3, 4, 5), (2, 300, 40)):
        x = rng.standard_normal(shape).astype(np.float32)
        out = np.empty_like(x)
        softmax(x, out=out)
        expected = np.exp(x.astype(np.float64))
        np.testing.assert_allclose(out, expected / expected.sum(-1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
def test_wrong_numbers_of_threads(wrong):
    with pytest.raises(InputError, match=r"threads=.*: must be a whole number"):
        gpt2np.load("tiny", threads=wrong)


def test_on_the_command_line(capsys):
    assert main(["trace", "Elizabeth was", "--threads", "1"]) == 0
    with pytest.raises(SystemExit) as caught:
        main(["trace", "Elizabeth was", "--threads", "0"])
    assert caught.value.code == 2
    assert "whole number" in capsys.readouterr().err
