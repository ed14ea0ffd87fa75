"""Writes `mutations.md`: what compare makes of every mistake, planted at random, and of runs without one.

    python tests/support/mutation_table.py

It takes half an hour of two processors.
"""

import collections
import multiprocessing
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from support import clean_runs
from support.independent import clean, grading
from support.mutations import case_of, judge, slugs
from support.torch_gpt2 import KNOWN, UNKNOWN, planted

from gpt2np.reference.comparison import compare

PAGE = Path(__file__).parents[1] / "reference" / "mutations.md"
PLACEMENTS = 20  # of each mistake
SEEDS = 6  # for each mistake of torch_gpt2.py
INDEPENDENT = 0  # the seed of those of the independent programs
CLEAN = 240  # runs without a mistake in float32, of clean_runs.py
PRECISIONS = range(1000, 1500)  # seeds of runs without a mistake in all precisions, of independent/clean.py
WHOLE, HALF, ROW = 0.99, 0.97, 0.9  # what is named at least: of all, with half of the sites, of each mistake

TEXT = """\
# How often compare is right

Written by `python tests/support/mutation_table.py`; tests run a part of it anew and hold it against this page.

Every mistake of the [catalogue](../../gpt2np/reference/MISTAKES.md) is planted {placements} times in a float32 run of a
random GPT-2, or of a random Gemma-2 where GPT-2 has not its steps: in a random one of its forms, in a random step that
it touches, in a random layer, in all heads or one, from or at a random position or everywhere. (But for `bias-added`,
which can be any bias, and is recognised where the dump has its own step and what that reads.) `gpt2np compare` has to
find the first site that the mistake takes out of its band (with its layer, first position and heads), and to name the
mistake; once with every site in the dump, and once with half of the sites left out at random, where the first one
present counts.

**{whole:.1%}** of {n_whole} placements with every site, **{half:.1%}** of {n_half} with half of them.

Wrong names: **{wrong_names}** of {n_placed}. A name is wrong if it is not that of the mistake that was planted, and the
mistake of that name does not give the same numbers.

*Same numbers* counts those of them in which another mistake is named first that gives the same numbers, which the
test verifies by planting that one too: epsilon 0 or 1e-7, a layer that is skipped or whose output is not read. *Hidden*
are placements where the mistake changes nothing beyond float32 noise in the sites of the dump, as a missing mask in
the last row; compare has to say `within noise` there, and they do not count as placements.

{matrix}

{missed}

## Planted in independent programs

[numpy_gpt2.py](../support/independent/numpy_gpt2.py) and
[torch_gpt2.py](../support/independent/torch_gpt2.py) are two GPT-2s that share nothing with gpt2np, and
record under names and in layouts of their own. {n_rows} mistakes are made in their source
([one](../support/independent/numpy_plants.py), [other](../support/independent/torch_plants.py)), each in a
random layer of a random shape with a random prompt. What compare must say of each, the first wrong site and
the mistake or that none is named, stands in [table.txt](../support/independent/table.txt), which was
written before the first run; what was changed in it afterwards stands at its top. Each is run twice: with
every tap in the dump, and with a few of them, as one prints by hand.

Of those that have a name **{named:.1%}** of {n_named} are named. Wrong names: **{independent_wrong}**.

{independent}

*Named* counts those with a name in the catalogue; *rightly without* those that have none, or for which none
is right as well. *Hidden* are mistakes that change nothing beyond noise in that run, not even in float64.

{independent_missed}

## Planted in another torch program

[torch_gpt2.py](../support/torch_gpt2.py) is a GPT-2 in torch that shares nothing with the catalogue. Of its {n_known} mistakes that
are in the catalogue compare finds site, layer and name in **{known}** of {of_known} runs (random shapes, prompts and
layers); of its {n_unknown} that are not, it finds the site and says that the mistake is unknown in **{unknown}** of {of_unknown}.
The twelve mistakes of the C program [gpt2.c](c/gpt2.c) are all named (`test_c_forward.py`).

In the catalogue: {known_names}.

Not in the catalogue: {unknown_names}.

## Runs without a mistake

Hugging Face's own GPT-2 (hooks on all modules under their paths, or its outputs; with and without a cache,
with and without a batch axis) and the two independent programs, in float32, bfloat16, float16 and with autocast, in
random shapes, parameters and prompts of 1 to 80 tokens: **{alarms}** false alarms in {n_clean} runs.

{clean}

In float32 alone, in shapes of up to 512 wide (some with parameters as Hugging Face initialises them, some tiny, some with a
huge column) and prompts of up to 100 tokens: **{wide_alarms}** false alarms in {n_wide} runs.

{wide}
"""


def main() -> None:
    with multiprocessing.Pool(2) as pool:
        placements = [(slug, k) for slug in slugs() for k in range(PLACEMENTS)]
        outcomes = pool.map(_judged, placements, chunksize=PLACEMENTS)
        seeds = [(name, seed) for name in (*KNOWN, *UNKNOWN) for seed in range(SEEDS)]
        programs = pool.map(_other_program, seeds, chunksize=20)
        table = [
            (i, few)
            for few in (False, True)
            for i, row in enumerate(grading.rows())
            if not few or row.site_of_few != "-"
        ]
        independent = pool.map(_graded, table, chunksize=8)
        precisions = pool.map(_in_precisions, PRECISIONS, chunksize=10)
        wide = pool.map(_clean, range(CLEAN), chunksize=10)
    text = page(outcomes, programs, independent, precisions, wide)
    PAGE.write_text(text, "utf-8")
    print(text)


def _judged(of):
    """Slug, number, and (outcome, what compare said, where, wrong name) with all sites and with half of them."""
    case = case_of(*of)
    judged = judge(case), judge(case.half())
    outcomes = [(o.kind, o.said, o.case.where, o.wrong_name) for o in judged]
    return *of, *outcomes


def _other_program(of):
    name, seed = of
    return name, planted(name, seed).right()


def _graded(of):
    """Program, whether with a few taps, what was right, and what compare said."""
    i, few = of
    grade = grading.graded(grading.rows()[i], INDEPENDENT, few)
    return grade.planted.row.program, few, grade.outcome, str(grade)


def _clean(seed):
    with tempfile.TemporaryDirectory() as folder:
        run = clean_runs.clean_run(seed, folder)
        found = compare(run.dump, run.model, run.ids)
    return run.way, found.verdict, max(report.measure.ratio for report in found.sites), str(run)


def _in_precisions(seed):
    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as folder:
        run = clean.clean_run(seed, folder)
        found = compare(run.dump, run.model, run.ids, names=run.names, prefill=run.prefill)
    return run.way, found.verdict, max(report.measure.ratio for report in found.sites), str(run)


def page(outcomes, programs, independent, precisions, wide) -> str:
    """The whole page."""
    scores = [score(outcome[2 + i][0] for outcome in outcomes) for i in range(2)]
    known = [right for name, right in programs if name in KNOWN]
    unknown = [right for name, right in programs if name in UNKNOWN]
    kinds = collections.Counter(outcome for _, _, outcome, _ in independent)
    n_named = kinds["named"] + kinds["not named"]
    return TEXT.format(
        placements=PLACEMENTS,
        whole=scores[0][0] / scores[0][1],
        n_whole=scores[0][1],
        half=scores[1][0] / scores[1][1],
        n_half=scores[1][1],
        wrong_names=sum(outcome[2 + i][3] for outcome in outcomes for i in range(2)),
        n_placed=2 * len(outcomes),
        matrix=matrix(outcomes),
        missed=missed(outcomes),
        n_rows=len(grading.rows()),
        named=kinds["named"] / max(n_named, 1),
        n_named=n_named,
        independent_wrong=kinds["wrong name"],
        independent=independent_score(independent),
        independent_missed=independent_missed(independent),
        n_known=len(KNOWN),
        known=sum(known),
        of_known=len(known),
        n_unknown=len(UNKNOWN),
        unknown=sum(unknown),
        of_unknown=len(unknown),
        known_names=", ".join(KNOWN),
        unknown_names=", ".join(UNKNOWN),
        alarms=sum(verdict != "within-noise" for _, verdict, *_ in precisions),
        n_clean=len(precisions),
        clean=ways(precisions, clean.WAYS),
        wide_alarms=sum(verdict != "within-noise" for _, verdict, *_ in wide),
        n_wide=len(wide),
        wide=ways(wide, clean_runs.WAYS),
    )


def score(kinds) -> tuple[int, int]:
    """How many of the placements that show are found, and how many show."""
    counts = collections.Counter(kinds)
    return counts["found"] + counts["twin"], counts["found"] + counts["twin"] + counts["missed"]


def matrix(outcomes) -> str:
    """A row for each mistake."""
    rows = [
        "| mistake | found | of | same numbers | hidden | half of the sites: found | of | same numbers | hidden |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for slug in slugs():
        cells = []
        for i in range(2):
            kinds = [outcome[2 + i][0] for outcome in outcomes if outcome[0] == slug]
            cells += [*score(kinds), kinds.count("twin") or "", kinds.count("hidden") or ""]
        rows.append(f"| `{slug}` | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def missed(outcomes) -> str:
    """What was not found, or was given another name."""
    lines = [
        f"- `{slug}` {k}{', half of the sites' if half else ''}: {where}; compare said: {said}"
        for slug, k, *both in outcomes
        for half, (kind, said, where, wrong_name) in enumerate(both)
        if kind == "missed" or wrong_name
    ]
    return "\n".join([f"Missed ({len(lines)}):", "", *lines]) if lines else "None is missed."


def independent_score(outcomes) -> str:
    """A row for each program and each kind of dump, and one for all."""
    kinds = ("named", "not named", "rightly without", "wrong name", "wrong site", "hidden")
    lines = [
        "| program | dump | runs | " + " | ".join(kinds) + " | share named |",
        "| --- | --- |" + " --: |" * (len(kinds) + 2),
    ]
    groups = [(p, few) for p in ("numpy", "torch") for few in (False, True)] + [("both", None)]
    for program, few in groups:
        own = [o for p, f, o, _ in outcomes if program == "both" or (p, f) == (program, few)]
        count = collections.Counter(own)
        share = count["named"] / max(1, count["named"] + count["not named"])
        what = {None: "all", False: "every tap", True: "a few taps"}[few]
        cells = " | ".join(str(count[kind]) for kind in kinds)
        lines.append(f"| {program} | {what} | {len(own)} | {cells} | {share:.1%} |")
    return "\n".join(lines)


def independent_missed(outcomes) -> str:
    """What was wrong, and what should have a name and has none."""
    lines = [
        f"- {kind}, {'a few taps' if few else 'every tap'}: {said}"
        for kind in ("wrong name", "wrong site", "not named")
        for _, few, other, said in outcomes
        if other == kind
    ]
    return "\n".join([f"Not as it should be ({len(lines)}):", "", *lines]) if lines else "All are right."


def ways(runs, names) -> str:
    """A row for each way of running, and a line for each false alarm."""
    lines = ["| way | runs | false alarms | largest share of a band |", "| --- | --: | --: | --: |"]
    for way in names:
        own = [(verdict, ratio) for other, verdict, ratio, _ in runs if other == way]
        alarms = sum(verdict != "within-noise" for verdict, _ in own)
        lines.append(f"| {way} | {len(own)} | {alarms} | {max((r for _, r in own), default=0):.0%} |")
    alarms = [f"- {run}: {verdict}" for _, verdict, _, run in runs if verdict != "within-noise"]
    return "\n".join([*lines, *(["", *alarms] if alarms else [])])


if __name__ == "__main__":
    main()
