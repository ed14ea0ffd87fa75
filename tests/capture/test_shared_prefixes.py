"""Which prompts share a beginning: by every property, and beside all beginnings that could be shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2np.capture.shard_plan import kept_of_each, parse_positions, positions_text, schedule
from gpt2np.capture.shared_prefixes import shared_beginnings
from gpt2np.errors import InputError

ids = st.lists(st.integers(0, 2), min_size=1, max_size=9)
prompts_of = st.lists(ids, min_size=1, max_size=7).map(lambda lists: [np.array(x, np.int32) for x in lists])
slices = st.builds(slice, st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none(), st.integers(1, 4))


def saved_by(groups):
    return sum((len(group.prompts) - 1) * group.length for group in groups if group.length)


def saved_by_one_group(prompts, least):
    """The most that one group saves: all that share a beginning which has a token behind it in each."""
    best = 0
    for prompt in prompts:
        for length in range(least, len(prompt)):
            sharing = [p for p in prompts if len(p) > length and (p[:length] == prompt[:length]).all()]
            best = max(best, (len(sharing) - 1) * length)
    return best


@given(prompts_of, st.integers(1, 4))
@settings(deadline=None, max_examples=150)
def test_groups_share_what_they_say_and_save_as_much_as_any_one_group(prompts, least):
    groups = shared_beginnings(prompts, least)
    assert sorted(i for group in groups for i in group.prompts) == list(range(len(prompts)))
    for length, members in groups:
        assert length == 0 or (length >= least and len(members) >= 2)
        assert list(members) == sorted(members)
        for i in members:
            assert len(prompts[i]) > length
            np.testing.assert_array_equal(prompts[i][:length], prompts[members[0]][:length])
    assert saved_by(groups) >= saved_by_one_group(prompts, least)


def test_few_shot_examples_are_shared_beyond_a_text_that_all_share():
    system, shots = list(range(20)), [list(range(100, 150)), list(range(200, 250))]
    prompts = [np.array(system + shots[i % 2] + [300 + i]) for i in range(10)]
    assert [group.length for group in shared_beginnings(prompts)] == [70, 70]
    alone = [np.array([*system, 400 + i]) for i in range(3)]
    assert shared_beginnings(prompts + alone)[-1] == (20, (10, 11, 12))


@given(prompts_of, slices, st.integers(1, 12), st.booleans())
@settings(deadline=None, max_examples=150)
def test_packs_run_every_token_that_is_needed_once(prompts, kept, pack_tokens, share):
    positions = kept_of_each(np.array([len(p) for p in prompts]), kept)
    plan = schedule(prompts, positions, pack_tokens, share)
    needed = [k[-1] + 1 if k else 0 for k in positions]
    run, known, total = {}, set(), 0
    for pack in plan.packs:
        assert bool(pack.groups) != bool(pack.prompts)
        if pack.groups:
            known = set(pack.groups)
            sizes = [plan.groups[g].length for g in pack.groups]
        else:
            of = {i: g for g, group in enumerate(plan.groups) if group.length for i in group.prompts}
            assert all(of[i] in known for i in pack.prompts if i in of)
            before = [plan.groups[of[i]].length if i in of else 0 for i in pack.prompts]
            sizes = [needed[i] - b for i, b in zip(pack.prompts, before, strict=True)]
            run.update(zip(pack.prompts, sizes, strict=True))
            assert min(sizes) > 0
        assert sum(sizes) <= pack_tokens or len(sizes) == 1
        total += sum(sizes)
    assert sorted(run) == [i for i, n in enumerate(needed) if n]
    assert total == plan.tokens_run <= sum(needed)
    if not share:
        assert total == sum(needed)


@given(slices, st.integers(1, 12))
def test_positions_mean_the_same_written_as_text(kept, n):
    assert range(n)[parse_positions(positions_text(kept))] == range(n)[kept]
    assert positions_text(positions_text(kept)) == positions_text(kept)


@pytest.mark.parametrize(
    ("given_", "text"),
    [("first", "first"), ("0:1", "first"), (slice(-1, None), "last"), (":", "all"), ("::1", "all"),
     (slice(None, 8, 2), "0:8:2"), ("4:", "4:"), ("-3:-1", "-3:-1")],
)  # fmt: skip
def test_the_same_positions_have_one_text(given_, text):
    assert positions_text(given_) == text


@pytest.mark.parametrize(
    "wrong", ["", "middle", "3", "1:2:0", "1:2:-1", "a:b", "1.5:", None, 3, slice(0, 1.5)]
)
def test_what_are_no_positions_is_refused(wrong):
    with pytest.raises(InputError, match="positions"):
        positions_text(wrong)
