"""The search for a mistake: how long it takes, in which order, and what is said when time is over."""

import io
import re
import sys

import numpy as np
import pytest
from support.random_model import random_model

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import ComparisonError, InputError
from gpt2np.reference import search_limit
from gpt2np.reference.comparison import compare
from gpt2np.reference.diagnosis import USUAL, Diagnosis
from gpt2np.reference.mistake_replay import Replays, Scope
from gpt2np.reference.mistakes import CATALOGUE
from gpt2np.tables import strict_json
from gpt2np.viewer import packing
from gpt2np.viewer.comparison_page import comparison_page

IDS = [7, 1, 88, 150, 3, 42, 899]


@pytest.fixture(scope="module")
def model():
    shape = {"n_layer": 3, "n_head": 2, "n_embd": 12, "vocab_size": 900, "n_positions": 16}
    return random_model(3, "float32", **shape)


def logits_with(model, slug, ids=IDS):
    """The logits of a run in which the mistake is made in all layers, as a program does that has it."""
    mistake = next(mistake for mistake in CATALOGUE if mistake.slug == slug)
    variant = next(iter(mistake.variants(model.config, len(ids), [])))
    kinds = mistake.steps if mistake.together else mistake.steps[:1]
    expanded = model.config.architecture.sites.expand(model.config.n_layer)
    steps = [name for name, site, _ in expanded if site.name in kinds]
    replays = Replays(model, model.trace(ids), len(ids))
    return np.array(replays.replay(mistake, variant, steps, Scope(), "logits")["logits"])


def on_the_page(found):
    """What the page of a comparison is made of."""
    return packing.unpack(re.search(r'id="data">([^<]*)<', comparison_page(found.to_dict()))[1])[0]


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second each time it is looked at."""
    seconds = iter(range(1, 1_000_000))
    monkeypatch.setattr(search_limit.time, "thread_time", lambda: float(next(seconds)))


@pytest.mark.parametrize(
    "slug", ["gelu-erf", "mask-missing", "scores-unscaled", "missing-ln-f", "missing-bias"]
)
def test_usual_mistakes_are_found_among_the_first_forms(clock, model, slug):
    found = compare({"logits": logits_with(model, slug)}, model, IDS, search=60)
    assert slug in [candidate.slug for candidate in found.candidates]
    assert found.searched == 60


def test_what_people_do_most_is_in_the_catalogue():
    assert {mistake.slug for mistake in CATALOGUE} >= set(USUAL)


@pytest.mark.parametrize("slug", ["mask-off-by-one", "residual-missing"])
def test_quick_replays_reject_nothing_that_explains(monkeypatch, model, slug):
    dump = {"logits": logits_with(model, slug)}
    quick = compare(dump, model, IDS, search=0)
    monkeypatch.setattr(Diagnosis, "_is_out", lambda self, hypothesis: False)
    whole = compare(dump, model, IDS, search=0)
    assert quick.mistake == slug
    assert [c.slug for c in quick.candidates] == [c.slug for c in whole.candidates]
    assert quick.searched is None


def test_the_verdict_does_not_depend_on_the_time(clock, model):
    rng = np.random.default_rng(0)
    right = model.trace(IDS)
    dump = {name: right[name] for name in ("embed", "h.0.resid_post")}
    dump["h.2.resid_post"] = right["h.2.resid_post"] + rng.normal(0, 0.01, right["embed"].shape)
    short, longer = (compare(dump, model, IDS, search=seconds) for seconds in (1, 50))
    for found, seconds in ((short, 1), (longer, 50)):
        assert (found.verdict, found.site, found.position) == ("wrong", "h.2.resid_post", 0)
        assert (found.mistake, found.searched) == (None, seconds)
        assert f"no mistake found in {seconds} s (--search 0" in str(found)
        assert f'"search_ended_after": {seconds}' in strict_json(found.to_dict())
    assert short.sites == longer.sites
    assert on_the_page(short)["ended"] == 1


def test_a_search_that_came_to_its_end_says_so(model, tiny):
    found = compare({"embed": tiny.trace("A")["embed"] * 1.1}, tiny, "A")
    assert found.to_dict()["search_ended_after"] is None
    assert on_the_page(found)["ended"] is None


def test_a_name_that_was_found_in_time_is_said_with_care(clock, model):
    found = compare({"logits": logits_with(model, "gelu-erf")}, model, IDS, search=60)
    assert "ended after 60 s" in str(found)
    found = compare({"logits": model.trace(IDS)["logits"]}, model, IDS, search=1)
    assert found.searched is None  # nothing to look for


def test_progress_is_told(model):
    told = []
    found = compare(
        {"logits": logits_with(model, "gelu-erf")},
        model,
        IDS,
        search=0,
        progress=lambda tried, seconds: told.append((tried, seconds)),
    )
    assert found.mistake == "gelu-erf"
    assert told == sorted(told)
    assert all(tried > 0 and seconds > 0 for tried, seconds in told)


@pytest.mark.parametrize("search", [-1, float("nan"), float("inf"), "10", None, True])
def test_what_is_no_time_is_refused(model, search):
    with pytest.raises(InputError, match=r"search=.*: must be a number of seconds, 0 for no limit"):
        compare({"logits": np.zeros((7, 900))}, model, IDS, search=search)


# -- the command line -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def wrong_dump(tmp_path, tiny):
    values = np.array(tiny.trace("Elizabeth was")["h.2.resid_post"])
    values += np.random.default_rng(0).normal(0, 0.1, values.shape)
    np.savez(tmp_path / "theirs.npz", **{"h.2.resid_post": values})
    return str(tmp_path / "theirs.npz")


def test_on_a_terminal_a_line_says_what_it_does(capsys, monkeypatch, wrong_dump):
    monkeypatch.setattr(search_limit, "_TELL_EVERY", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["compare", wrong_dump, "--prompt", "Elizabeth was", "--search", "0.5"]) == 1
    said = terminal.getvalue()
    assert re.search(r"\rgpt2np: looking for the mistake: \d+ forms tried in 0 s\r", said)
    assert re.search(r"\r +\r$", said)  # and the line is gone
    assert "mistake        no" in capsys.readouterr().out


def test_into_a_file_nothing_is_said_meanwhile(capsys, wrong_dump):
    assert main(["compare", wrong_dump, "--prompt", "Elizabeth was", "--search", "0.001"]) == 1
    captured = capsys.readouterr()
    assert "no mistake found in 0.001 s" in captured.out
    assert "looking" not in captured.err


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
def test_no_time_on_the_command_line(capsys, wrong_dump, seconds):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", wrong_dump, "--prompt", "Elizabeth was", f"--search={seconds}"])
    assert "is not a number of at least 0" in capsys.readouterr().err


# -- in a test suite --------------------------------------------------------------------------------------


def test_check_is_silent_within_noise(tiny):
    assert compare(tiny.trace("Elizabeth was"), tiny).check() is None


def test_check_raises_the_report(tiny):
    trace = tiny.trace("Elizabeth was")
    dump = {"embed": trace["embed"], "h.0.ln_1": trace["h.0.ln_1"] * 2, "\x1b[31mred\x1b[0m": trace["embed"]}
    found = compare(dump, tiny, "Elizabeth was")
    with pytest.raises(ComparisonError) as caught:
        found.check()
    text = str(caught.value)
    assert text.startswith(
        "wrong: 2 of 3 arrays, 1 unknown name; 3 tokens against tiny\n\nfirst outside  h.0.ln_1"
    )
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    assert isinstance(caught.value, gpt2np.Gpt2npError)
    assert isinstance(caught.value, AssertionError)  # a failure of a test suite, not an error in it


def test_check_raises_where_what_was_named_is_not_compared(tiny):
    trace = tiny.trace("Elizabeth was")
    dump = {"embed": trace["embed"], "mine": trace["h.0.ln_1"][:, :7]}
    found = compare(dump, tiny, "Elizabeth was", names={"mine": "h.0.ln_1"})
    with pytest.raises(ComparisonError, match="1 not usable"):
        found.check()


@pytest.mark.every(2)
@pytest.mark.parametrize("bos", [899, 0])
@pytest.mark.parametrize("rows", [slice(None), slice(1, None), slice(0, -1)], ids=str)
def test_other_tokens_show_in_logits_alone(model, bos, rows):
    logits = model.trace([bos, *IDS[:-1]])["logits"][rows]
    assert compare({"logits": logits}, model, IDS[:-1], search=0).mistake == "bos-prepended"


def test_other_orders_of_tokens_show_in_logits_alone(model):
    for ran, slug in ((IDS[2:], "context-truncated"), (IDS[::-1], "wrong-token-ids")):
        assert compare({"logits": model.trace(ran)["logits"]}, model, IDS, search=0).mistake == slug
