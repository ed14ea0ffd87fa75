"""Mistakes planted at random, runs without one, and errors just above noise: is compare right about them?

The whole matrix is in `mutations.md`, written by `mutation_table.py`; here a part of it runs anew.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from support import needs

needs.module("torch", "transformers")

from support import hf
from support.clean_runs import WAYS, clean_run, of_hf
from support.mutation_table import CLEAN, HALF, PLACEMENTS, PRECISIONS, ROW, SEEDS, WHOLE, score
from support.mutations import case_of, judge, slugs
from support.torch_gpt2 import KNOWN, UNKNOWN, planted

import gpt2np
from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes import KNOWN as CATALOGUE

PARTS = 4
PAGE = (Path(__file__).parent / "mutations.md").read_text("utf-8")


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_the_planted_mistake_is_found_and_named(part):
    """Every mistake once, with every site in the dump or with half of them."""
    cases = [case_of(slug, PLACEMENTS) for slug in slugs()[part::PARTS]]  # none of the page's
    outcomes = [judge(case.half() if (part + i) % 2 else case) for i, case in enumerate(cases)]
    found, shown = score(outcome.kind for outcome in outcomes)
    assert shown >= 15
    assert shown - found <= 1, [
        f"{o.case.slug}, {o.case.where}: {o.said}" for o in outcomes if o.kind == "missed"
    ]
    assert [f"{o.case.slug}, {o.case.where}: {o.said}" for o in outcomes if o.wrong_name] == []


@pytest.mark.parametrize("every", [6, pytest.param(2, marks=pytest.mark.slow)])
def test_mistakes_of_another_program(every):
    wrong = [name for name in list(KNOWN)[::every] if not planted(name, SEEDS).right()]
    assert len(wrong) <= 1, wrong
    assert len(KNOWN) >= 12
    unknown = [name for name in list(UNKNOWN)[::every] if not planted(name, SEEDS).right()]
    assert unknown == []  # located, and honestly called unknown


@pytest.mark.parametrize("seed", range(CLEAN, CLEAN + 2 * len(WAYS)))
def test_no_false_alarm(tmp_path, seed):
    run = clean_run(seed, tmp_path)
    found = compare(run.dump, run.model, run.ids)
    assert found.verdict == "within-noise", f"{run}: {found.site}"


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_hundred_times_the_error_of_hf_is_never_noise(tmp_path, seed):
    theirs = hf.random_model(seed, n_layer=2, n_head=3, n_embd=24, vocab_size=60, n_positions=32)
    folder = hf.save(theirs, tmp_path)
    ids = np.random.default_rng(seed).integers(0, 60, 11).tolist()
    dump = of_hf(theirs, ids)
    model, truth = gpt2np.load(folder), gpt2np.load(folder, dtype="float64").trace(ids)
    tried = 0
    for name, array in dump.items():
        exact = truth[name]
        with np.errstate(invalid="ignore"):
            error = np.nan_to_num(np.abs(array - exact), nan=0.0, posinf=0.0)
        error[~np.isfinite(exact)] = 0.0
        if error.max() == 0.0:  # looked up, not computed
            continue
        changed = np.array(array)
        worst = np.unravel_index(error.argmax(), error.shape)
        changed[worst] = exact[worst] + 100 * error.max()
        found = compare(dump | {name: changed}, model, ids, search=1e-3)  # which only the name depends on
        assert found.verdict != "within-noise", name
        tried += 1
    assert tried >= 30


def test_the_page_is_of_this_catalogue():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \| (\d+) \|.*?\|.*?\| (\d+) \| (\d+) \|", PAGE, re.M)
    assert [slug for slug, *_ in rows] == slugs()
    assert {mistake.slug for mistake in CATALOGUE} - set(slugs()) == {"bias-added"}
    assert len(rows) >= 80
    counts = np.array([list(map(int, row[1:])) for row in rows])
    for found, shown in (counts[:, :2].T, counts[:, 2:].T):
        assert (shown >= 5).all()
        assert (found >= ROW * shown).all(), [rows[i][0] for i in np.flatnonzero(found < ROW * shown)]
    found, shown, found_of_half, shown_of_half = counts.sum(axis=0)
    assert (found >= WHOLE * shown, found_of_half >= HALF * shown_of_half) == (True, True)
    shares = [f"{100 * found / shown:.1f}", f"{100 * found_of_half / shown_of_half:.1f}"]
    said = re.search(r"\*\*([\d.]+)%\*\* of (\d+) .* every site, \*\*([\d.]+)%\*\* of (\d+) ", PAGE).groups()
    assert said == (shares[0], str(shown), shares[1], str(shown_of_half))
    assert all(name in PAGE for name in (*KNOWN, *UNKNOWN))


def test_the_page_has_no_wrong_name_and_no_false_alarm():
    assert re.search(r"^Wrong names: \*\*0\*\* of \d+\.", PAGE, re.M)
    named, runs = re.search(
        r"name \*\*([\d.]+)%\*\* of (\d+) are named\. Wrong names: \*\*0\*\*", PAGE
    ).groups()
    assert (float(named) >= 90, int(runs) >= 120) == (True, True)
    alarms = re.findall(r"\*\*(\d+)\*\* false alarms in (\d+) runs", PAGE)
    assert alarms == [("0", str(len(PRECISIONS))), ("0", str(CLEAN))]
    assert len(PRECISIONS) >= 500
