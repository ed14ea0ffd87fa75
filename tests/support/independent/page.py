"""Writes `reference/independent.md`: what compare makes of two programs' mistakes, and of runs without one.

    python tests/support/independent/page.py

It takes half an hour.
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
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.independent.clean import WAYS, clean_run
from support.independent.grading import graded, rows

from gpt2np.reference.comparison import compare

PAGE = Path(__file__).parents[2] / "reference" / "independent.md"
SEED = 0
CLEAN = range(1000, 1500)

TEXT = """\
# Independent programs, and runs without a mistake

Written by `python tests/support/independent/page.py`; tests run a part of it anew.

[numpy_gpt2.py](../support/independent/numpy_gpt2.py) and
[torch_gpt2.py](../support/independent/torch_gpt2.py) are two GPT-2s that share nothing with gpt2np, and
record under names and in layouts of their own. {n_rows} mistakes are made in their source
([one](../support/independent/numpy_plants.py), [other](../support/independent/torch_plants.py)), each in a
random layer of a random shape with a random prompt. What compare must say of each, the first wrong site and
the mistake or that none is named, stands in [table.txt](../support/independent/table.txt), which was
written before the first run; what was changed in it afterwards stands at its top. Each is run twice: with
every tap in the dump, and with a few of them, as one prints by hand.

{score}

*Named* counts those with a name in the catalogue; *rightly without* those that have none, or for which none
is right as well. *Hidden* are mistakes that change nothing beyond noise in that run, not even in float64.

{missed}

## Runs without a mistake

Hugging Face's own GPT-2 (hooks on all modules under their paths, or its outputs; with and without a cache,
with and without a batch axis) and the two programs, in random shapes, parameters and prompts of 1 to 80
tokens: **{alarms}** false alarms in {n_clean} runs.

{clean}
"""


def main() -> None:
    with multiprocessing.Pool(2) as pool:
        todo = [
            (i, few)
            for few in (False, True)
            for i, row in enumerate(rows())
            if not few or row.site_of_few != "-"
        ]
        outcomes = pool.map(_graded, todo, chunksize=8)
        clean = pool.map(_clean, CLEAN, chunksize=10)
    PAGE.write_text(page(outcomes, clean), "utf-8")
    print(PAGE.read_text("utf-8"))


def _graded(of):
    """Program, whether with a few taps, what was right, and what compare said."""
    i, few = of
    grade = graded(rows()[i], SEED, few)
    return rows()[i].program, few, outcome(grade), str(grade)


def outcome(grade) -> str:
    """In one word."""
    if grade.hidden:
        return "hidden"
    if grade.wrong_name:
        return "wrong name"
    if not grade.site_right:
        return "wrong site"
    if not grade.name_right:
        return "not named"
    return "named" if grade.has_a_name else "rightly without"


def _clean(seed):
    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as folder:
        run = clean_run(seed, folder)
        found = compare(run.dump, run.model, run.ids, names=run.names, prefill=run.prefill)
    return run.way, found.verdict, max(report.measure.ratio for report in found.sites), str(run)


def page(outcomes, clean) -> str:
    """The whole page."""
    alarms = [one for one in clean if one[1] != "within-noise"]
    return TEXT.format(
        n_rows=len(rows()),
        score=score(outcomes),
        missed=missed(outcomes),
        alarms=len(alarms),
        n_clean=len(clean),
        clean=ways(clean) + "".join(f"\n- {run}: {verdict}" for _, verdict, _, run in alarms),
    )


def score(outcomes) -> str:
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


def missed(outcomes) -> str:
    """What was wrong, and what should have a name and has none."""
    lines = [
        f"- {kind}, {'a few taps' if few else 'every tap'}: {said}"
        for kind in ("wrong name", "wrong site", "not named")
        for _, few, other, said in outcomes
        if other == kind
    ]
    return "\n".join([f"Not as it should be ({len(lines)}):", "", *lines]) if lines else "All are right."


def ways(clean) -> str:
    """A row for each way of running."""
    lines = ["| way | runs | false alarms | largest share of a band |", "| --- | --: | --: | --: |"]
    for way in WAYS:
        own = [(verdict, ratio) for other, verdict, ratio, _ in clean if other == way]
        alarms = sum(verdict != "within-noise" for verdict, _ in own)
        lines.append(f"| {way} | {len(own)} | {alarms} | {max((r for _, r in own), default=0):.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
