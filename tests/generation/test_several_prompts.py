"""Several prompts at once, seeds, stopping by hand, and the ledger replayed by another program."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.differences import relative_error
from support.random_model import random_model, random_model_with_text

import gpt2np
from gpt2np.errors import InputError
from gpt2np.generation.options import Sampling

WRITTEN = {"gpt_neo": gpt_neo_checkpoint, "gemma2": gemma2_checkpoint}
PROMPTS = [[3, 14, 15, 9, 26], [7], [5, 35, 8, 9, 7, 9, 3, 2, 3]]


@pytest.fixture(scope="module")
def model():
    return random_model()


# -- alone and in company -----------------------------------------------------------------------------


def assert_same(found, expected):
    """Two results of the same prompt: everything but the last bits of the numbers."""
    assert found.token_ids == expected.token_ids
    assert (found.text, found.stopped_by) == (expected.text, expected.stopped_by)
    assert found.probabilities == pytest.approx(expected.probabilities, rel=1e-5)
    assert (found.trace is None) == (expected.trace is None)
    if expected.trace is not None:
        assert found.trace.token_ids == expected.trace.token_ids
        for name in expected.trace.names():
            assert relative_error(found.trace[name], expected.trace[name]) <= 1e-12, name


@pytest.mark.parametrize("keep", [None, "*", {"patterns": ["logits", "mlp.out"], "positions": slice(2, 9)}])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 7}, {"lookup": 3}], ids=str)
def test_same_text_alone_and_in_company(model, options, keep):
    options = {"max_new_tokens": 20, "keep": keep, **options}
    free = model.generate(PROMPTS, **options).finish()
    # stops at different times: after 3 tokens, never, and after 10, unless the same id comes earlier
    ends = [free[0].response.token_ids[2], free[2].response.token_ids[9]]
    together = model.generate(PROMPTS, stop_tokens=ends, **options).finish()
    for prompt, found, unstopped in zip(PROMPTS, together, free, strict=True):
        assert_same(found, model.generate(prompt, stop_tokens=ends, **options).finish())
        assert_same(unstopped, model.generate(prompt, **options).finish())
    assert len({len(found.response.token_ids) for found in together}) > 1
    assert [found.prompt.token_ids for found in together] == PROMPTS


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "gemma2"])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=len)
def test_what_is_kept_changes_no_bit(kind, prompts, tmp_path):
    model = random_model() if kind == "gpt2" else gpt2np.load(WRITTEN[kind].write(tmp_path))
    whole = model.generate(prompts, max_new_tokens=8, eos=None, keep="*").finish()
    unchanged = {"attn.scores": lambda scores: scores}
    for keep in (["attn.z", "logits"], "resid_post", "attn.pattern"):
        for edits in (None, unchanged):
            some = model.generate(prompts, max_new_tokens=8, eos=None, keep=keep, edits=edits).finish()
            for found, expected in zip(some, whole, strict=True):
                assert found.token_ids == expected.token_ids
                for name in found.trace.names():
                    np.testing.assert_array_equal(found.trace[name], expected.trace[name], name)


def test_a_finished_prompt_leaves_the_batch(model, monkeypatch):
    sizes, run_pass = [], model.run_pass
    monkeypatch.setattr(
        model, "run_pass", lambda run, step: (sizes.append(len(run.sequences)), run_pass(run, step))[1]
    )
    ends = {(0, 2), (1, 0)}  # prompt 0 ends with its third token, prompt 1 with its first

    def choose(logits, sampling, *, context, prompt_length, **_):
        which = [list(context[:prompt_length]) == p for p in PROMPTS].index(True)
        from gpt2np.generation.sampling import Choice

        return Choice(59 if (which, len(context) - prompt_length) in ends else 1, 1.0)

    monkeypatch.setattr("gpt2np.generation.decoding.choose", choose)
    tokens = list(model.generate(PROMPTS, max_new_tokens=5, eos=59))
    assert sizes == [3, 2, 2, 1, 1]
    steps = [(token.step, token.prompt) for token in tokens]
    assert steps == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (3, 2), (4, 2)]


def test_texts_come_back_in_the_order_of_the_prompts(tiny):
    prompts = ["The house", "Elizabeth was not", "It"]
    done = tiny.generate(iter(prompts), max_new_tokens=5).finish()
    assert [d.prompt.text for d in done] == prompts
    assert [d.text for d in done] == [tiny.generate(p, max_new_tokens=5).finish().text for p in prompts]
    assert [d.text for d in tiny.generate(prompts[:1], max_new_tokens=5).finish()] == [done[0].text]


def test_empty_and_mixed_lists_of_prompts_are_refused(model):
    for prompts in ([], [[]], [[1], []], [[1], 2], np.zeros((0, 2), int)):
        with pytest.raises(InputError, match=r"empty|a list of prompts holds"):
            model.generate(prompts)


# -- seeds --------------------------------------------------------------------------------------------

HOT = {"temperature": 2.0, "max_new_tokens": 20}


def test_a_seed_repeats_a_run_and_is_used_by_every_prompt(model):
    first, second = (model.generate([PROMPTS[0]] * 2, seed=5, **HOT).finish() for _ in range(2))
    assert first[0].token_ids == first[1].token_ids == second[0].token_ids == second[1].token_ids
    assert model.generate(PROMPTS[0], seed=6, **HOT).finish().token_ids != first[0].token_ids


def test_a_list_of_seeds_gives_one_to_each_prompt(model):
    found = model.generate([PROMPTS[0]] * 3, seed=[5, 6, 5], **HOT).finish()
    alone = [model.generate(PROMPTS[0], seed=seed, **HOT).finish().token_ids for seed in (5, 6, 5)]
    assert [d.token_ids for d in found] == alone
    assert model.generate(PROMPTS[0], seed=[5], **HOT).finish().token_ids == alone[0]
    assert model.generate([PROMPTS[0]] * 2, seed=(5, None), **HOT).finish()[0].token_ids == alone[0]


def test_without_a_seed_runs_vary(model):
    found = model.generate([PROMPTS[0]] * 4, **HOT).finish()
    assert len({tuple(d.token_ids) for d in found}) == 4


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3", [-1], [None, 1.0]])
def test_wrong_seeds_are_refused(model, seed):
    prompts = PROMPTS[0] if not isinstance(seed, list) else PROMPTS[: len(seed)]
    with pytest.raises(InputError, match="seed="):
        model.generate(prompts, seed=seed)


@pytest.mark.parametrize(("seeds", "n"), [([1, 2], 3), ([], 3), ([1, 2], 1)])
def test_as_many_seeds_as_prompts(model, seeds, n):
    with pytest.raises(InputError, match=f"{len(seeds)} seeds for {n} prompts"):
        model.generate(PROMPTS[:n], seed=seeds)


# -- stopping by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", [0, 4])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_stop_in_the_middle_leaves_what_there_is(model, n, lookup):
    whole = model.generate(PROMPTS[0], max_new_tokens=10, lookup=lookup).finish()
    generation = model.generate(PROMPTS[0], max_new_tokens=10, keep="*", lookup=lookup)
    chosen = [next(generation).id for _ in range(n)]
    generation.stop()
    done = generation.finish()
    assert done.token_ids == whole.token_ids[: 5 + n] == PROMPTS[0] + chosen
    assert done.stopped_by == "interrupt"
    assert done.trace.token_ids == done.token_ids[:-1]
    single = model.trace(done.token_ids[:-1])
    for name in single.names():
        assert relative_error(done.trace[name], single[name]) <= 1e-12
    assert generation.finish().token_ids == done.token_ids
    assert list(generation) == []


def test_stop_before_anything_was_chosen(model):
    generation = model.generate(PROMPTS[0], keep="*")
    generation.stop()
    done = generation.finish()
    assert (done.token_ids, done.steps, done.trace) == (PROMPTS[0], [], None)
    assert done.response.token_ids == []
    assert done.text == done.prompt.text


def test_stop_between_two_prompts_of_a_batch(model):
    generation = model.generate(PROMPTS, max_new_tokens=10, keep="*")
    for _ in range(4):  # one of each, and a second of the first
        next(generation)
    generation.stop()
    done = generation.finish()
    assert [len(d.response.token_ids) for d in done] == [2, 1, 1]
    for d in done:
        single = model.trace(d.token_ids[:-1])
        assert d.trace.token_ids == single.token_ids
        for name in single.names():
            assert relative_error(d.trace[name], single[name]) <= 1e-12


def test_an_interrupt_during_a_pass_leaves_what_there_is(model, monkeypatch):
    """Ctrl-C: KeyboardInterrupt comes out of the loop, and `finish` still works."""
    generation = model.generate(PROMPTS[0], max_new_tokens=10, keep="*")
    next(generation)
    run_pass = model.run_pass

    def interrupted(run, step):
        run_pass(run, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "run_pass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(generation)
    monkeypatch.undo()
    done = generation.finish()
    assert (len(done.token_ids), done.stopped_by) == (6, "interrupt")
    assert done.trace.token_ids == PROMPTS[0]
    done.trace.verify()


# -- the ledger ---------------------------------------------------------------------------------------


def test_a_token_carries_its_ledger_entry_only_on_request(model):
    tokens = list(model.generate(PROMPTS[0], max_new_tokens=4, ledger=True))
    assert [t.ledger.token_id for t in tokens] == [t.id for t in tokens]
    assert [t.ledger.step for t in tokens] == [t.step for t in tokens] == [0, 1, 2, 3]
    assert tokens[0].ledger.raw_logits is None
    assert next(model.generate(PROMPTS[0])).ledger is None
    assert model.generate(PROMPTS[0], max_new_tokens=2).finish().ledger == []


REPLAYED = {
    "greedy": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "frequency_penalty": 0.5},
    "plain": {"temperature": 1.0},
    "all": {
        **{"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3},
        **{"presence_penalty": 0.4, "frequency_penalty": -0.3, "no_repeat_ngram_size": 3},
    },
}


@pytest.mark.needs("node")
@pytest.mark.parametrize("options", REPLAYED.values(), ids=REPLAYED)
def test_a_program_without_numpy_replays_a_generation(options):
    """From raw logits, options and uniform draws alone; two prompts side by side, each with its own text."""
    model = random_model_with_text(n_layer=1)
    generation = model.generate(PROMPTS, max_new_tokens=40, seed=[1, 2, 1], ledger="full", **options)
    given = ("step", "sampling", "uniform", "prompt_ids", "raw_logits")
    lines, chosen = [], []
    for token in generation:
        entry = token.ledger.to_json()
        assert Sampling(**entry["sampling"]) == Sampling(**options)
        lines.append(json.dumps({"prompt": token.prompt} | {key: entry[key] for key in given}))
        chosen.append(token.id)
    assert len(chosen) == 120
    done = subprocess.run(
        ["node", str(Path(__file__).parents[1] / "support" / "replay.js")],
        input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert [int(i) for i in done.stdout.split()] == chosen
