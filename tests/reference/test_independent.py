"""Mistakes planted in two GPT-2s that share nothing with gpt2np: does compare see where, and what?

`support/independent/table.txt` was written before the first run. A part of it runs here, all of it with
`--slow`; the whole result is in `mutations.md`, written by `support/mutation_table.py`.
"""

import pytest
from support import needs

needs.module("torch")

from support.independent import grading, numpy_plants, torch_plants
from support.independent.grading import departure, graded, planted, rows

from gpt2np.reference.comparison import compare

SEED = 100  # the page has those below
EVERY = 36  # of the table runs in the suite
FEW = [row for row in rows() if row.site_of_few != "-"]
TOKENS_MOVED = {
    "end token in front, its row cut off",
    "first three tokens cut off",
}  # rows of other positions


def test_the_table_is_of_these_programs():
    for program, plants in (("numpy", numpy_plants.PLANTS), ("torch", torch_plants.PLANTS)):
        assert [row.plant for row in rows() if row.program == program] == list(plants)
    assert len(rows()) >= 120
    assert {row.place for row in rows()} == set(grading.PLACES)


@pytest.mark.parametrize("few", [False, True])
def test_the_table_says_where_the_programs_depart_from_themselves(few):
    """Sites of the table follow from the programs alone: two float64 runs, one with the mistake."""
    for row in (FEW if few else rows())[few::3]:
        if row.plant not in TOKENS_MOVED:
            assert departure(row, SEED, few) == planted(row, SEED, few).site, row


@pytest.mark.parametrize("program", ["numpy", "torch"])
@pytest.mark.parametrize("few", [False, True])
def test_without_a_mistake_they_are_right(program, few):
    row = next(row for row in rows() if row.program == program)
    p = planted(row, SEED)
    dump, names = grading.run(program, None, None, p.model, p.ids, few=few)
    found = compare(dump, p.model, p.ids, names=names)
    assert (found.verdict, len(found.sites), found.unknown, found.refused) == (
        "within-noise", len(dump), (), ()
    )  # fmt: skip


def check(grades):
    """No wrong name, no other site than the table's, nine of ten that have one named (of few all but one)."""
    wrong = [str(grade) for grade in grades if grade.wrong_name or not grade.site_right]
    assert not wrong, "\n".join(wrong)
    named = [grade for grade in grades if grade.has_a_name]
    unnamed = [str(grade) for grade in named if not grade.name_right]
    assert len(unnamed) <= max(1, 0.1 * len(named)), "\n".join(unnamed)


@pytest.mark.parametrize("few", [False, True])
def test_a_part_of_the_table(few):
    check([graded(row, SEED + few, few) for row in (FEW if few else rows())[few::EVERY]])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("few", [False, True])
def test_the_whole_table(few):
    check([graded(row, SEED + 2, few) for row in (FEW if few else rows())])
