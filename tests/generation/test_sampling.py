"""Choosing a token: filters against HF, the draw, the ledger and its replay, edge values and bad input."""

import json
import math
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import needs

from gpt2np.errors import InputError
from gpt2np.generation import filters
from gpt2np.generation.filters import penalties, warpers
from gpt2np.generation.options import Sampling
from gpt2np.generation.sampling import choose, draws

INF = math.inf


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def processed(logits, sampling, context=(), prompt_length=0):
    """All steps of `choose` before the softmax."""
    for _, apply in penalties(sampling, np.asarray(context, np.int64), prompt_length) + warpers(sampling):
        logits = apply(logits)
    return logits


def many_logits(
    n_cases: int, sizes=(1, 2, 5, 50, 1000), seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield logits and a context: spread out or flat, with many ties or none, some tokens already at -inf."""
    rng = np.random.default_rng(seed)
    for case in range(n_cases):
        n = sizes[case % len(sizes)]
        x = rng.normal(size=n) * rng.choice([0.3, 2.0, 8.0])
        if case % 3 == 1:
            x = np.round(x)  # ties
        if case % 4 == 3:
            x[rng.random(n) < 0.3] = -INF
            x[rng.integers(n)] = 0.5
        yield x.astype(np.float32), rng.integers(0, n, size=int(rng.integers(1, 12)))


# --- goldens that need no torch -----------------------------------------------------------------------------


def test_repetition_penalty_by_hand():
    x = f32(2, -2, 0, 1, -INF)
    out = filters.penalize_repetition(x, [0, 1, 1, 2, 4], 2.0)
    assert out.tolist() == [1, -4, 0, 1, -INF]
    assert x.tolist() == [2, -2, 0, 1, -INF]  # the input is left alone


def test_presence_and_frequency_count_only_generated_tokens():
    x = f32(1, 1, 1, 1)
    assert filters.penalize_presence(x, [1, 2, 2], 0.5, 0.25).tolist() == [1, 0.25, 0, 1]
    s = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    assert processed(x, s, [0, 0, 1, 2, 2], prompt_length=2).tolist() == [1, 0.25, 0, 1]
    assert processed(x, s, [0, 0], prompt_length=2).tolist() == [1, 1, 1, 1]


def test_no_repeat_ngram_by_hand():
    x = f32(*range(8))

    def banned(context, n):
        return np.flatnonzero(np.isinf(filters.ban_repeated_ngrams(x, context, n))).tolist()

    assert banned([5, 6, 7, 5], 2) == [6]
    assert banned([5, 6, 5, 7, 5], 2) == [6, 7]
    assert banned([5, 6, 7, 5], 3) == []
    assert banned([5, 6, 7, 5, 6], 3) == [7]
    assert banned([5, 6, 7], 1) == [5, 6, 7]
    assert banned([5], 2) == banned([], 1) == banned([], 4) == []


def test_top_k_keeps_ties():
    assert filters.keep_top_k(f32(3, 1, 2, 2, 0), 2).tolist() == [3, -INF, 2, 2, -INF]
    assert filters.keep_top_k(f32(3, 1, 2), 99).tolist() == [3, 1, 2]


def test_top_p_by_hand():
    x = np.log(f32(0.5, 0.25, 0.125, 0.125))
    survivors = {
        p: np.isfinite(filters.keep_top_p(x, p)).tolist() for p in (1e-9, 0.5, 0.6, 0.75, 0.8, 0.999)
    }
    assert survivors == {
        1e-9: [True, False, False, False],
        0.5: [True, False, False, False],
        0.6: [True, True, False, False],
        0.75: [True, True, False, False],
        0.8: [True, True, False, True],  # of two equals at the border the lower id goes
        0.999: [True, True, True, True],
    }


def test_min_p_by_hand():
    x = np.log(f32(0.5, 0.26, 0.24))
    assert np.isfinite(filters.keep_min_p(x, 0.5)).tolist() == [True, True, False]
    assert np.isfinite(filters.keep_min_p(f32(1, 1, 0), 1.0)).tolist() == [True, True, False]


def test_the_order_of_the_steps():
    s = Sampling(0.7, 5, 0.9, 0.1, 1.2, 0.3, 0.4, 2)
    names = [name for name, _ in penalties(s, np.array([0]), 0) + warpers(s)]
    assert names == [
        *("repetition_penalty", "presence_and_frequency_penalty", "no_repeat_ngram_size"),
        *("temperature", "top_k", "top_p", "min_p"),
    ]


def test_golden_draws_and_choices():
    assert list(islice(draws(0), 3)) == [0.6369616873214543, 0.2697867137638703, 0.04097352393619469]
    x = np.log(f32(0.1, 0.2, 0.3, 0.4))
    s = Sampling(temperature=1)
    got = {
        u: choose(x, s, context=[0], prompt_length=1, uniform=u).token_id
        for u in (0, 0.0999, 0.1001, 0.59, 0.61)
    }
    assert got == {0: 0, 0.0999: 0, 0.1001: 1, 0.59: 2, 0.61: 3}
    assert choose(x, s, context=[0], prompt_length=1, uniform=0.2).probability == pytest.approx(0.2, rel=1e-6)


# --- against HF on the same logits --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf():
    """Yield a function: the logits after HF's own list of processors for these options."""
    torch, transformers = needs.imported("torch"), needs.imported("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(logits: np.ndarray, sampling: Sampling, context: np.ndarray) -> np.ndarray:
        g = transformers.GenerationConfig(
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or 1.0,
            top_k=sampling.top_k or 0,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            no_repeat_ngram_size=sampling.no_repeat_ngram_size,
        )
        ids = torch.tensor(np.asarray(context))[None]
        processors = model._get_logits_processor(g, input_ids_seq_length=len(context))
        return processors(ids, torch.tensor(logits)[None])[0].numpy()

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def stable_torch_sort(monkeypatch):
    """torch.sort leaves the order of equals open; HF's top-p is compared with it fixed to the stable one."""
    torch = needs.imported("torch")
    plain = torch.sort
    monkeypatch.setattr(
        torch, "sort", lambda x, descending=False: plain(x, descending=descending, stable=True)
    )


OPTIONS = {
    "repetition_penalty": [1.3, 0.5, 5.0],
    "no_repeat_ngram_size": [1, 2, 3],
    "temperature": [0.1, 0.7, 1.9],
    "top_k": [1, 3, 40, 10**6],
    "top_p": [0.05, 0.5, 0.9, 0.95, 0.999],
    "min_p": [0.0, 0.05, 0.3, 1.0],
}


def border_distance(logits: np.ndarray, p: float) -> float:
    """How near top-p's sum comes to 1 - p: within HF's own float32 error either side is right."""
    sums = np.cumsum(filters.probabilities(np.sort(logits)))
    return float(np.abs(sums - (1 - p)).min())


@pytest.mark.usefixtures("stable_torch_sort")
@pytest.mark.parametrize("option", OPTIONS)
def test_each_filter_alone_equals_hf(option, hf):
    compared = 0
    for x, context in many_logits(60):
        for value in OPTIONS[option]:
            s = Sampling(**{"temperature": 1.0, option: value})
            if option == "top_p" and border_distance(x, value) < 1e-6:
                continue
            ours, theirs = processed(x, s, context), hf(x, s, context)
            assert ours.dtype == theirs.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{s} on {x[:20]}")
            compared += 1
    assert compared > 0.9 * 60 * len(OPTIONS[option])


@pytest.mark.usefixtures("stable_torch_sort")
def test_all_filters_together_equal_hf(hf):
    rng = np.random.default_rng(1)
    compared = 0
    for x, context in many_logits(400, sizes=(20, 200, 2000), seed=2):
        values = {name: rng.choice([*choices, None]) for name, choices in OPTIONS.items()}
        for whole in ("top_k", "no_repeat_ngram_size"):
            values[whole] = values[whole] and int(values[whole])
        s = Sampling(**{"temperature": 1.0, **{k: v for k, v in values.items() if v is not None}})
        ours = processed(x, s, context)
        before_top_p = processed(x, Sampling(**{**vars(s), "top_p": None, "min_p": None}), context)
        if s.top_p is not None and border_distance(before_top_p, s.top_p) < 1e-6:
            continue
        np.testing.assert_array_equal(ours, hf(x, s, context), err_msg=str(s))
        compared += 1
    assert compared > 350


def test_top_p_keeps_as_many_as_hf_whatever_its_sort_does_with_equals(hf):
    for x, context in many_logits(200, sizes=(50, 500), seed=3):
        x = np.round(x)
        for p in (0.1, 0.5, 0.9):
            if border_distance(x, p) < 1e-6:
                continue
            s = Sampling(temperature=1, top_p=p)
            np.testing.assert_array_equal(np.sort(processed(x, s)), np.sort(hf(x, s, context)))


def test_top_p_of_equal_logits_at_exact_borders_equals_hf(hf):
    """n equal logits and p = k/n put the border exactly on a sum: float32 must round as HF's does."""
    for n in range(2, 40):
        for k in range(1, n):
            s = Sampling(temperature=1, top_p=k / n)
            x = np.zeros(n, np.float32)
            assert np.isfinite(processed(x, s)).sum() == np.isfinite(hf(x, s, [0])).sum(), (n, k)


def test_the_vocabulary_of_gpt2_equals_hf(hf):
    rng = np.random.default_rng(4)
    for s in (
        Sampling(0.8, 50, 0.95, repetition_penalty=1.2, no_repeat_ngram_size=2),
        Sampling(1.0, None, 0.9),
        Sampling(1.3, 1000, None, 0.02),
    ):
        x = (rng.normal(size=50257) * 3 - 30).astype(np.float32)
        context = rng.integers(0, 50257, size=200)
        np.testing.assert_array_equal(processed(x, s, context), hf(x, s, context))


def test_greedy_equals_hf_argmax(hf):
    for x, context in many_logits(100, seed=5):
        s = Sampling(
            repetition_penalty=1.5, top_k=3, top_p=0.5
        )  # without temperature the filters do not matter
        assert choose(x, s, context=context, prompt_length=1).token_id == int(hf(x, s, context).argmax())


# --- properties ---------------------------------------------------------------------------------------------

LOGITS = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-50, 50, width=32) | st.sampled_from([-INF, 0.0, 1.0, 2.0]),
).filter(lambda x: np.isfinite(x.max()))


@given(
    x=LOGITS,
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(0, 50),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
    uniform=st.floats(0, 1, exclude_max=True) | st.just(1 - 2.0**-53),
)
@example(x=np.float32([0, -1e-45]), temperature=2.0, top_k=None, top_p=0.5, min_p=None, uniform=0.5)
@settings(max_examples=150, deadline=None)
def test_a_choice_is_a_survivor_whose_stretch_holds_the_draw(x, temperature, top_k, top_p, min_p, uniform):
    s = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    before = x.copy()
    choice = choose(x, s, context=[], prompt_length=0, uniform=uniform, ledger="full")
    final = processed(x, s)
    np.testing.assert_array_equal(x, before)
    assert np.isfinite(final[choice.token_id])
    shares = x / np.float32(temperature)  # in which the smallest differences can vanish
    assert shares[np.isfinite(final)].max() == shares.max()  # no filter removes the most likely
    kept = np.isfinite(final)
    np.testing.assert_array_equal(final[kept], (x / temperature if temperature != 1 else x)[kept])
    entry = choice.ledger
    assert entry.interval[0] <= uniform < entry.interval[1]
    assert entry.probability == choice.probability > 0
    assert entry.probability == pytest.approx(entry.interval[1] - entry.interval[0], abs=1e-12)
    assert 0 <= entry.entropy <= math.log(entry.survivors) + 1e-12
    assert sum(r.count for r in entry.removals) == np.isfinite(x).sum() - kept.sum()
    text = json.dumps(entry.to_json(), allow_nan=False)
    restored = [-INF if v is None else v for v in json.loads(text)["raw_logits"]]
    np.testing.assert_array_equal(np.array(restored, np.float32), x)


@given(x=LOGITS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_neutral_values_change_nothing(x, data):
    context = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=6))
    neutral = Sampling(1.0, len(x) + 5, 1.0, 0.0, 1.0, 0.0, 0.0, 0)
    np.testing.assert_array_equal(processed(x, neutral, context), x)
    assert Sampling(0.0, 0, None).top_k == 0  # off
    u = data.draw(st.floats(0, 1, exclude_max=True))
    plain = choose(x, Sampling(temperature=1), context=context, prompt_length=0, uniform=u)
    assert choose(x, neutral, context=context, prompt_length=0, uniform=u) == plain


@pytest.mark.parametrize(
    "s",
    [
        Sampling(1.0),
        Sampling(0.6, 12),
        Sampling(1.2, None, 0.8, repetition_penalty=1.4, presence_penalty=0.6),
    ],
)
def test_chi_square_of_the_draws(s):
    """20,000 draws against the distribution; fixed seed, and a bound of one chance in a million."""
    rng = np.random.default_rng(6)
    x, context, n = rng.normal(size=30).astype(np.float32), [3, 4, 5], 20_000
    expected = filters.probabilities(processed(x, s, context, 1)) * n
    uniforms = draws(11)
    ids = [choose(x, s, context=context, prompt_length=1, uniform=next(uniforms)).token_id for _ in range(n)]
    observed = np.bincount(ids, minlength=30)
    assert not observed[expected == 0].any()
    possible = expected > 0
    chi2 = float(((observed - expected)[possible] ** 2 / expected[possible]).sum())
    freedom = int(possible.sum()) - 1
    bound = (
        freedom * (1 - 2 / (9 * freedom) + 4.753 * math.sqrt(2 / (9 * freedom))) ** 3
    )  # Wilson and Hilferty
    assert chi2 < bound


def test_draws_repeat_with_their_seed():
    assert list(islice(draws(7), 5)) == list(islice(draws(7), 5)) != list(islice(draws(8), 5))
    assert next(draws()) != next(draws())
    generator = np.random.Generator(np.random.PCG64(7))
    assert list(islice(draws(7), 5)) == [generator.random() for _ in range(5)]


def test_rounding_never_picks_a_removed_token():
    x = np.append(np.zeros(49999), -INF).astype(np.float32)  # the sum of 49,999 equal parts is not 1
    u = 1 - 2.0**-53
    assert choose(x, Sampling(1.0), context=[], prompt_length=0, uniform=u).token_id == 49998
    x[:2] = -2000, -INF  # a probability that underflows to 0 is never drawn, not even by u = 0
    assert choose(x, Sampling(1.0), context=[], prompt_length=0, uniform=0.0).token_id == 2


def test_greedy_takes_the_first_of_equals_and_ignores_the_draw():
    x = f32(0, 2, 2, 1)
    choice = choose(x, Sampling(), context=[0], prompt_length=1, uniform=0.99, ledger=True)
    assert choice.token_id == 1
    assert choice.ledger.uniform is choice.ledger.interval is None
    assert choose(x.astype(np.float64), Sampling(), context=[0], prompt_length=1).token_id == 1


# --- the ledger ---------------------------------------------------------------------------------------------


def test_what_the_ledger_says():
    x = np.log(f32(0.4, 0.3, 0.2, 0.1))
    s = Sampling(temperature=1, top_k=3, top_p=0.6, no_repeat_ngram_size=1)
    choice = choose(x, s, context=[0, 1], prompt_length=1, uniform=0.5, ledger=True)
    entry = choice.ledger
    assert [(r.name, r.count, r.most_likely) for r in entry.removals] == [
        ("no_repeat_ngram_size", 2, (0, 1)),
        ("top_k", 0, ()),
        ("top_p", 1, (3,)),
    ]
    assert [r.mass for r in entry.removals] == pytest.approx([0.7, 0, 1 / 3])
    assert (entry.step, entry.token_id, entry.raw_rank, entry.survivors) == (1, 2, 2, 1)
    assert entry.raw_logit == float(x[2])
    assert (entry.entropy, entry.top, entry.interval) == (0, ((2, 1.0),), (0.0, 1.0))
    assert entry.raw_logits is entry.prompt_ids is None
    entry = choose(x, Sampling(1.0), context=[0, 1], prompt_length=1, uniform=0.5, ledger="full").ledger
    assert entry.prompt_ids == (0,)
    assert [i for i, _ in entry.top] == [0, 1, 2, 3]
    assert entry.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.4, 0.3, 0.2, 0.1)), rel=1e-6)
    assert entry.interval == pytest.approx((0.4, 0.7))
    x[:] = 0
    assert entry.raw_logits.tolist() != x.tolist()  # a copy


REPLAYED = {
    "greedy": Sampling(
        repetition_penalty=1.3, no_repeat_ngram_size=2, presence_penalty=0.5, frequency_penalty=0.2
    ),
    "plain": Sampling(1.0),
    "all": Sampling(0.9, 40, 0.9, 0.02, 1.3, 0.4, -0.3, 3),
    "top_p": Sampling(1.3, None, 0.95),
    "hot": Sampling(3.0, None, 0.9, 0.001, 0.7),
}


@pytest.mark.needs("node")
@pytest.mark.parametrize("name", REPLAYED)
def test_a_program_without_numpy_replays_the_ledger(name):
    rng, uniforms, s = np.random.default_rng(9), draws(10), REPLAYED[name]
    lines, chosen, context, prompt = [], [], [5, 6, 5], 3
    for step in range(200):
        x = rng.normal(size=120).astype(np.float32) * 2
        if step % 3 == 0:
            x = np.round(x)
        if step % 5 == 0:
            x[rng.random(120) < 0.2] = -INF
        u = next(uniforms) if s.temperature else None
        choice = choose(x, s, context=context, prompt_length=prompt, uniform=u, ledger="full")
        entry = choice.ledger.to_json()
        lines.append(
            json.dumps({k: entry[k] for k in ("step", "sampling", "uniform", "prompt_ids", "raw_logits")})
        )
        chosen.append(choice.token_id)
        context = [*context, choice.token_id]
    program = Path(__file__).parents[1] / "support" / "replay.js"
    done = subprocess.run(
        ["node", str(program)], input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60
    )
    assert [int(i) for i in done.stdout.split()] == chosen
    assert len(set(chosen)) > 20


# --- edge and wrong values ----------------------------------------------------------------------------------

WRONG = {
    "temperature": [-1, math.nan, INF, "1", True, None, 1e-40, 1e40, [1], 1j],
    "top_k": [-1, 1.5, 2.0, True, "3", math.nan, np.float32(3)],
    "top_p": [0, -0.1, 1.0001, math.nan, INF, True, "0.9"],
    "min_p": [-0.01, 1.01, math.nan, False, "0"],
    "repetition_penalty": [0, -1, math.nan, INF, None, True],
    "presence_penalty": [-2.1, 2.1, math.nan, INF, None, "0"],
    "frequency_penalty": [-2.1, 2.1, math.nan, -INF, None, True],
    "no_repeat_ngram_size": [-1, 2.0, None, True, math.nan],
    "num_beams": [0, -3, 1.0, True, None],
    "length_penalty": [math.nan, INF, 11, None, "1"],
    "early_stopping": [None, 1, 0, "Never", "always", math.nan],
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in WRONG.items() for v in values])
def test_wrong_options_are_refused_by_name_value_and_range(option, value):
    with pytest.raises(InputError) as caught:
        Sampling(**{option: value})
    assert str(caught.value).startswith(f"{option}={value!r}: must be ")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "top_k": 0, "min_p": 0, "no_repeat_ngram_size": 0},
        {"temperature": np.float32(0.5), "top_k": np.int64(4), "top_p": 1, "min_p": 1},
        {"temperature": 1e-30, "top_k": 10**20, "top_p": 1e-300, "repetition_penalty": 1e-30},
        {"presence_penalty": -2, "frequency_penalty": 2, "length_penalty": -1, "early_stopping": "never"},
    ],
)
def test_edge_options_are_taken_and_work(options):
    s = Sampling(**options)
    assert all(type(v) in (int, float, bool, str, type(None)) for v in vars(s).values())
    choice = choose(f32(1, -3, 2), s, context=[1], prompt_length=1, uniform=0.5)
    assert choice.token_id in (0, 1, 2)


def test_beams_and_chance_do_not_mix():
    with pytest.raises(InputError, match=r"num_beams=4 with temperature=0.7: .* not supported"):
        Sampling(num_beams=4, temperature=0.7)
    with pytest.raises(InputError, match="num_beams=4"):
        choose(f32(1, 2), Sampling(num_beams=4), context=[], prompt_length=0)


@pytest.mark.parametrize("seed", [-1, True, 1.5, "3"])
def test_wrong_seeds(seed):
    with pytest.raises(InputError, match="seed="):
        draws(seed)


@pytest.mark.parametrize("uniform", [None, 1.0, -0.1, math.nan])
def test_sampling_needs_a_draw(uniform):
    with pytest.raises(InputError, match=f"uniform={uniform}"):
        choose(f32(1, 2), Sampling(1.0), context=[], prompt_length=0, uniform=uniform)


@pytest.mark.parametrize(
    ("logits", "options", "context", "says"),
    [
        (f32(1, math.nan), {}, [], "the model gave a logit that is nan"),
        (f32(1, INF), {}, [], "the model gave a logit that is inf"),
        (f32(-INF, -INF), {}, [], "the model leaves no token"),
        (f32(1, 2), {"no_repeat_ngram_size": 1}, [0, 1], "no_repeat_ngram_size leaves no token"),
        (f32(1e30, 2), {"temperature": 1e-30}, [0, 1], "temperature gave a logit that is inf"),
        (f32(1e30, 2), {"repetition_penalty": 1e-30}, [0, 1], "repetition_penalty gave a logit that is inf"),
        (f32(), {}, [], "logits: must be one row"),
        (np.zeros((1, 2)), {}, [], "logits: must be one row"),
        (f32(1, 2), {}, [0, 2], "ids run from 0 to 2; the vocabulary from 0 to 1"),
        (f32(1, 2), {}, [-1], "ids run from -1"),
        (f32(1, 2), {}, [0.5], "context: must be one row of whole numbers"),
        (f32(1, 2), {}, [[0]], "context: must be one row of whole numbers"),
    ],
)
def test_logits_and_contexts_that_cannot_be_used(logits, options, context, says):
    with pytest.raises(InputError, match=says):
        choose(logits, Sampling(**options), context=context, prompt_length=0, uniform=0.5)


def test_a_prompt_longer_than_the_context_is_refused():
    with pytest.raises(InputError, match="prompt_length=3"):
        choose(f32(1, 2), Sampling(), context=[0], prompt_length=3)
