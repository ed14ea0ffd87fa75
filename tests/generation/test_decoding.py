"""Generation: the trace that decoding leaves behind, its views, and what decoding costs."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from support.differences import relative_error
from support.random_model import random_model, random_model_with_text

import gpt2np
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import TraceError
from gpt2np.generation.sampling import choose, draws
from gpt2np.tracing import spare_memory

PROMPT = [3, 14, 15, 9, 26]


@pytest.fixture(scope="module")
def model():
    return random_model()


def count_passes(model, monkeypatch) -> list[int]:
    """A list that grows with every pass: how many tokens it ran."""
    passes, run_pass = [], model.run_pass
    monkeypatch.setattr(
        model, "run_pass", lambda run, step: (passes.append(run.n_rows), run_pass(run, step))[1]
    )
    return passes


def greedy(model, ids: list[int], n: int) -> list[int]:
    """The same without a cache: one whole pass for every token."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(model(ids[-model.config.n_positions :])[-1].argmax()))
    return ids


def distinct(model, n: int) -> list[int]:
    """The prompt and n more tokens, none of them twice: each is a place to stop at."""
    return model.generate(PROMPT, max_new_tokens=n, no_repeat_ngram_size=1).finish().token_ids


def differences(found, truth, names) -> dict[str, float]:
    """The sites that differ by more than 1e-12."""
    errors = {name: relative_error(found[name], truth[name]) for name in names}
    return {name: error for name, error in errors.items() if not error <= 1e-12}


# -- the trace ----------------------------------------------------------------------------------------


def test_stitched_trace_equals_a_single_pass_for_every_split(model):
    text = greedy(model, PROMPT[:1], 11)
    whole = model.trace(text[:-1])
    names = [name for name, _, _ in SITES.expand(2)]  # stored and derived ones
    for n_prompt in range(1, len(text)):
        done = model.generate(text[:n_prompt], max_new_tokens=len(text) - n_prompt, keep="*").finish()
        assert done.token_ids == text
        assert done.trace.token_ids == text[:-1]
        assert done.trace.names() == whole.names()
        assert differences(done.trace, whole, names) == {}
        assert len(done.trace.verify().checked) == len(whole.verify().checked) > 30


KEEPS = {
    "a pattern": "attn.*",
    "a list": ["h.1.*", "logits", "embed"],
    "a predicate": lambda name: "mlp" in name,
    "no cache": ["attn.pattern", "attn.scores"],
    "derived": ["attn.heads", "ln_2.normalized", "attn.q", "probabilities", "loss", "top_k_tokens"],
    "first positions": {"positions": slice(0, 3)},
    "every second position": {"positions": slice(1, None, 2)},
    "positions of derived": {"patterns": ["attn.heads", "attn.pattern"], "positions": slice(1, None, 2)},
    "positions past the end": {"positions": slice(4, 100)},
    "float32": {"dtype": "float32"},
    "float16": {"patterns": ["attn.pattern", "mlp.out", "attn.heads"], "dtype": "float16"},
}


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS)
@pytest.mark.parametrize("stop_after", [None, 4])
def test_keep_stores_what_a_single_pass_stores(model, keep, stop_after):
    text = distinct(model, 8)
    ends = () if stop_after is None else [text[len(PROMPT) + stop_after - 1]]
    options = {"keep": keep, "stop_tokens": ends, "no_repeat_ngram_size": 1}
    done = model.generate(PROMPT, max_new_tokens=8, **options).finish()
    fed = text[: len(PROMPT) + (stop_after or 8) - 1]  # T + N - 1: the last token was chosen, not fed
    whole = model.trace(fed, keep=keep)
    assert done.trace.token_ids == fed
    assert done.trace.names() == whole.names()
    tolerance = {"float16": 1e-3, "float32": 1e-7}.get(done.trace.plan.keep.dtype, 1e-12)
    for name in whole.names():
        assert done.trace[name].dtype == whole[name].dtype
        assert relative_error(done.trace[name], whole[name]) <= tolerance, name
    plan = model.plan(len(fed), keep=keep)
    assert [(e.name, e.shape, e.dtype) for e in plan.entries] == [
        (name, done.trace[name].shape, done.trace[name].dtype) for name in done.trace.names()
    ]
    assert done.trace.plan.nbytes == plan.nbytes == done.trace.nbytes


def test_a_trace_that_stopped_early_is_saved_stacked_and_read_only(model, tmp_path):
    text = distinct(model, 3)
    options = {"keep": "*", "stop_tokens": text[-1:], "no_repeat_ngram_size": 1}
    trace = model.generate(PROMPT, max_new_tokens=20, **options).finish().trace
    trace.save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", model=model)
    assert opened.token_ids == text[:-1]
    assert opened.metadata["n_prompt"] == len(PROMPT)
    for name in trace.names():
        np.testing.assert_array_equal(opened[name], trace[name])
        assert not trace[name].flags.writeable
    layers = [trace[f"h.{i}.attn.pattern"] for i in range(2)]
    np.testing.assert_array_equal(trace.stack("attn.pattern"), np.stack(layers))


@pytest.mark.parametrize("prompt", [[7], PROMPT])
def test_a_prompt_of_one_token_and_a_response_of_one_token(model, prompt):
    done = model.generate(prompt, max_new_tokens=1, keep="*").finish()
    assert done.token_ids == greedy(model, prompt, 1)
    assert done.trace.token_ids == prompt
    assert done.response.token_ids == done.token_ids[-1:]
    assert done.response["embed"].shape == (0, 16)
    assert len(done.steps) == 1


def test_cached_equals_uncached_and_traced_equals_untraced(model):
    text = greedy(model, PROMPT, 20)
    assert model.generate(PROMPT, max_new_tokens=20).finish().token_ids == text
    assert model.generate(PROMPT, max_new_tokens=20, keep="*").finish().token_ids == text
    assert model.generate(PROMPT, max_new_tokens=20, keep="attn.z").finish().token_ids == text


@pytest.mark.parametrize("keep", [None, "*", "attn.z"])
def test_a_cache_is_free_when_the_text_is_finished(model, keep):
    gc.disable()
    try:
        running = model.generate([PROMPT, PROMPT[1:]], max_new_tokens=5, keep=keep)
        caches = [weakref.ref(row.recording.cache) for row in running._rows]
        done = running.finish()
        del running
        assert [cache() for cache in caches] == [None, None]
        assert len(done) == 2
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{}, {"keep": "*"}, {"num_beams": 3}, {"lookup": 2}], ids=str)
def test_a_generation_that_is_left_half_way_is_free(model, options):
    gc.disable()
    try:
        for prompts in (PROMPT, [PROMPT, PROMPT[1:]]):
            running = model.generate(prompts, max_new_tokens=9, eos=None, **options)
            next(running)
            next(running)
            caches = [weakref.ref(row.recording.cache) for row in running._rows]
            del running
            assert {cache() for cache in caches} == {None}
    finally:
        gc.enable()


# -- views of a finished generation -------------------------------------------------------------------


def test_text_tokens_and_phases(tiny):
    done = tiny.generate("Elizabeth was", max_new_tokens=6, keep="*", eos=None).finish()
    prompt = tiny.tokenizer.encode("Elizabeth was")
    t = len(prompt)
    assert done.token_ids[:t] == done.prompt.token_ids == prompt
    assert done.token_ids[t:] == done.response.token_ids
    assert done.tokens == tiny.tokenizer.tokens(done.token_ids) == done.prompt.tokens + done.response.tokens
    assert done.text == tiny.tokenizer.decode(done.token_ids) == done.prompt.text + done.response.text
    assert (done.prompt.text, done.n_prompt, done.stopped_by) == ("Elizabeth was", t, "length")
    assert done.trace.prompt == "Elizabeth was"
    pattern, out = done.trace["h.3.attn.pattern"], done.trace["h.3.mlp.out"]
    np.testing.assert_array_equal(done.prompt["h.3.mlp.out"], out[:t])
    np.testing.assert_array_equal(done.response["mlp.out", 3], out[t:])
    np.testing.assert_array_equal(done.prompt["blocks.3.attn.hook_pattern"], pattern[:, :t, :t])
    np.testing.assert_array_equal(done.response["h.3.attn.pattern"], pattern[:, t:])
    np.testing.assert_array_equal(done.prompt["h.0.attn.heads"], done.trace["h.0.attn.heads"][:t])


SAMPLED = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
SAMPLED |= {"presence_penalty": 0.3, "frequency_penalty": 0.2, "no_repeat_ngram_size": 2}


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.4}, {"temperature": 1.0}, SAMPLED], ids=len)
def test_steps_say_what_was_chosen_and_from_what(model, options):
    done = model.generate(PROMPT, max_new_tokens=10, keep="*", ledger="full", seed=4, **options).finish()
    numbers, t = draws(4), len(PROMPT)
    assert [s.positions for s in done.steps] == [range(0, t), *(range(t + i, t + i + 1) for i in range(9))]
    for i, step in enumerate(done.steps):
        assert step.token_id == done.token_ids[t + i]
        assert step.token == done.tokens[t + i]
        assert step.token_ids == done.token_ids[step.positions.start : step.positions.stop]
        row = done.trace["logits"][t + i - 1]
        again = choose(
            row,
            step.sampling,
            context=done.token_ids[: t + i],
            prompt_length=t,
            uniform=next(numbers) if "temperature" in options else None,
            ledger="full",
        )
        assert (step.token_id, step.probability) == (again.token_id, again.probability)
        assert step.ledger == again.ledger == done.ledger[i]
        np.testing.assert_array_equal(step.ledger.raw_logits, row.astype(np.float32))
        chances = step.distribution
        assert chances[step.token_id] == step.probability == done.probabilities[i]
        assert [(i, chances[i]) for i, _ in step.ledger.top] == list(step.ledger.top)
        assert chances.max() == step.ledger.top[0][1]
        assert np.count_nonzero(chances) == step.ledger.survivors
        np.testing.assert_array_equal(step["logits"][-1], row)
        assert step["h.0.attn.scores"].shape == (2, len(step.positions), t + i)


def test_views_of_some_positions_are_those_positions(model):
    whole = model.generate(PROMPT, max_new_tokens=6, keep="*").finish()
    some = model.generate(PROMPT, max_new_tokens=6, keep={"positions": slice(2, None, 3)}).finish()
    kept = [2, 5, 8]
    assert list(some.trace.positions) == kept
    for view in ("prompt", "response"):
        ours, full = getattr(some, view), getattr(whole, view)
        rows = [p - full.positions.start for p in kept if p in full.positions]
        np.testing.assert_array_equal(ours["h.0.mlp.out"], full["h.0.mlp.out"][rows])
        np.testing.assert_array_equal(ours["h.0.attn.pattern"], full["h.0.attn.pattern"][:, rows])
    np.testing.assert_array_equal(some.steps[1].distribution, whole.steps[1].distribution)
    with pytest.raises(TraceError, match="position 6"):
        _ = some.steps[2].distribution
    for shapes in ("attentions", "hidden_states", "past_key_values"):
        with pytest.raises(TraceError, match="every position"):
            getattr(some, shapes)


def test_hf_shapes_are_views(model):
    done = model.generate(PROMPT, max_new_tokens=4, keep="*").finish()
    for array, base in (
        (done.attentions[2][1], done.trace["h.1.attn.pattern"]),
        (done.hidden_states[3][0], done.trace["embed"]),
        (done.past_key_values[0][1], done.trace["h.0.attn.qkv"]),
    ):
        assert np.shares_memory(array, base)


def test_what_was_not_kept_is_named(model):
    plain = model.generate(PROMPT, max_new_tokens=2).finish()
    assert plain.trace is None
    for view in ("attentions", "hidden_states", "past_key_values"):
        with pytest.raises(TraceError, match="keep="):
            getattr(plain, view)
    with pytest.raises(TraceError, match="keep="):
        plain.prompt["embed"]
    part = model.generate(PROMPT, max_new_tokens=2, keep="attn.out").finish()
    with pytest.raises(TraceError, match="logits"):
        _ = part.steps[0].distribution
    with pytest.raises(TraceError, match=r"h\.0\.attn\.pattern"):
        _ = part.attentions
    assert "2 tokens" in repr(plain)


# -- prompt lookup ------------------------------------------------------------------------------------

REPETITIVE = "She was very happy, and he was very happy, and she was very"


@pytest.mark.every(2)
@pytest.mark.parametrize("lookup", [1, 3, 10])
@pytest.mark.parametrize("prompt", [REPETITIVE, "Elizabeth was", "a", "one two one two one two " * 3])
def test_lookup_changes_nothing(tiny64, prompt, lookup):
    plain = tiny64.generate(prompt, max_new_tokens=40).finish()
    fast = tiny64.generate(prompt, max_new_tokens=40, lookup=lookup, keep="*", ledger=True).finish()
    assert fast.token_ids == plain.token_ids
    assert fast.text == plain.text
    assert fast.probabilities == pytest.approx(plain.probabilities, rel=1e-4)
    assert [entry.token_id for entry in fast.ledger] == fast.response.token_ids
    whole = tiny64.trace(plain.token_ids[:-1])
    assert differences(fast.trace, whole, whole.names()) == {}


def test_lookup_takes_fewer_passes(monkeypatch):
    model = random_model_with_text()
    cycle = [5, 6, 7, 8]
    monkeypatch.setattr("gpt2np.generation.decoding.choose", follow(cycle * 20))
    passes = count_passes(model, monkeypatch)
    done = model.generate(cycle * 2, max_new_tokens=40, lookup=3).finish()
    assert done.token_ids == cycle * 12
    assert passes == [8 + 3, *[1 + 3] * 9]  # the last token and three guesses, all of them right
    model.generate([1], max_new_tokens=40).finish()
    assert passes[10:] == [1] * 40


def follow(ids):
    """Instead of `choose`: the token that stands next in `ids`, counted from the prompt's end."""

    def choose(logits, sampling, *, context, prompt_length, **_):
        return gpt2np.generation.sampling.Choice(ids[len(context) - prompt_length], 1.0)

    return choose


def test_lookup_next_to_the_end_of_the_context_and_with_a_stop():
    model = random_model(n_positions=32)
    text = greedy(model, PROMPT * 3, 18)  # 15 + 18 - 1 = 32 = n_positions
    for lookup in (1, 2, 7, 31, 100):
        done = model.generate(PROMPT * 3, max_new_tokens=18, lookup=lookup, keep="*").finish()
        assert done.token_ids == text
        end = text[20]
        stopped = model.generate(PROMPT * 3, max_new_tokens=18, lookup=lookup, eos=end).finish()
        assert stopped.token_ids == text[: text.index(end, 15) + 1]


# -- memory -------------------------------------------------------------------------------------------


@pytest.fixture
def allocated():
    """A function: bytes that Python and NumPy hold now."""
    random_model(n_positions=8).generate(PROMPT, max_new_tokens=2, keep="*").finish()
    spare_memory._blocks.clear()
    tracemalloc.start()

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    yield held
    tracemalloc.stop()


@pytest.mark.parametrize("keep", ["*", ["attn.qkv", "attn.pattern"], "logits"])
def test_a_traced_generation_takes_what_its_plan_says(keep, allocated):
    model = random_model(n_positions=128, vocab_size=500)
    plan = model.plan(128, keep=keep, generating=True)
    cache = plan.cache_nbytes
    assert cache == 2 * 2 * 128 * 16 * 8  # keys and values of both layers, kept or not
    before = allocated()
    generation = model.generate(list(range(60)), max_new_tokens=69, keep=keep)
    planned = allocated() - before
    assert abs(planned - plan.nbytes - cache) < 32_000 < plan.nbytes
    trace = generation.finish().trace
    assert sum(trace[name].nbytes for name in trace.names()) == plan.nbytes
    assert allocated() - before - planned < 150_000  # scratch, logits of one pass included


def test_untraced_decoding_holds_no_more_at_step_1000_than_at_step_10(allocated):
    model = random_model(n_layer=1, n_positions=1100, dtype="float32")
    generation = model.generate(PROMPT, max_new_tokens=1000, temperature=1.0, seed=0)
    held = {}
    for step, _ in enumerate(generation):
        if step in (10, 999):
            held[step] = allocated()
    assert held[999] - held[10] < 64_000, held  # the list of probabilities is 32 kB of it
