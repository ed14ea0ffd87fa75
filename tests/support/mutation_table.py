"""Writes `mutations.md`: what compare makes of every mistake, planted at random, and of runs without one.

    python tests/support/mutation_table.py

It takes a quarter of an hour of two processors.
"""

import collections
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.clean_runs import WAYS, clean_run
from support.mutations import case_of, judge, slugs
from support.torch_gpt2 import KNOWN, UNKNOWN, planted

from gpt2np.reference.comparison import compare
from gpt2np.reference.mistakes import KNOWN as CATALOGUE

PAGE = Path(__file__).parents[1] / "reference" / "mutations.md"
PLACEMENTS = 8  # of each mistake
SEEDS = 3  # for each mistake of torch_gpt2.py
CLEAN = 240  # runs without a mistake
LEAST = 0.95

TEXT = """\
# How often compare is right

Written by `python tests/support/mutation_table.py`; tests run a part of it anew and hold it against this page.

Every mistake of the [catalogue](../../gpt2np/reference/MISTAKES.md) is planted {placements} times in a float32 run of a
random GPT-2: in a random one of its forms, in a random step that it touches, in a random layer, in all heads or
one, from or at a random position or everywhere. `gpt2np compare` has to find the first site that the mistake takes
out of its band (with its layer, first position and heads), and to name the mistake; once with every site in the
dump, and once with half of the sites left out at random, where the first one present counts.

**{whole:.1%}** of {n_whole} placements with every site, **{half:.1%}** of {n_half} with half of them.

Wrong names: **{wrong_names}** of {n_placed}. A name is wrong if it is not that of the mistake that was planted, and the
mistake of that name does not give the same numbers.

*Same numbers* counts those of them in which another mistake is named first that gives the same numbers, which the
test verifies by planting that one too: epsilon 0 or 1e-7, a layer that is skipped or whose output is not read. *Hidden*
are placements where the mistake changes nothing beyond float32 noise in the sites of the dump, as a missing mask in
the last row; compare has to say `within noise` there, and they do not count as placements.

{matrix}

{missed}

## Planted by other programs

[torch_gpt2.py](../support/torch_gpt2.py) is a GPT-2 in torch that shares nothing with the catalogue. Of its {n_known} mistakes that
are in the catalogue compare finds site, layer and name in **{known}** of {of_known} runs (random shapes, prompts and
layers); of its {n_unknown} that are not, it finds the site and says that the mistake is unknown in **{unknown}** of {of_unknown}.
The twelve mistakes of the C program [gpt2.c](c/gpt2.c) are all named (`test_c_forward.py`).

In the catalogue: {known_names}.

Not in the catalogue: {unknown_names}.

## Runs without a mistake

Random shapes (1 to 6 layers, 1 to 8 heads, up to 512 wide), parameters (some as Hugging Face initialises them, some
tiny, some with a huge column) and prompts (1 to 100 tokens): **{alarms}** false alarms in {n_clean} runs.

{clean}
"""


def main() -> None:
    with multiprocessing.Pool(2) as pool:
        outcomes = pool.map(
            _judged, [(slug, k) for slug in slugs() for k in range(PLACEMENTS)], chunksize=PLACEMENTS
        )
        programs = pool.map(
            _other_program,
            [(name, seed) for name in (*KNOWN, *UNKNOWN) for seed in range(SEEDS)],
            chunksize=20,
        )
        clean = pool.map(_clean, range(CLEAN), chunksize=10)
    text = page(outcomes, programs, clean)
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


def _clean(seed):
    with tempfile.TemporaryDirectory() as folder:
        run = clean_run(seed, folder)
        found = compare(run.dump, run.model, run.ids)
    return run.way, found.verdict, max(report.measure.ratio for report in found.sites)


def page(outcomes, programs, clean) -> str:
    """The whole page."""
    scores = [score(outcome[2 + i][0] for outcome in outcomes) for i in range(2)]
    known = [right for name, right in programs if name in KNOWN]
    unknown = [right for name, right in programs if name in UNKNOWN]
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
        n_known=len(KNOWN),
        known=sum(known),
        of_known=len(known),
        n_unknown=len(UNKNOWN),
        unknown=sum(unknown),
        of_unknown=len(unknown),
        known_names=", ".join(KNOWN),
        unknown_names=", ".join(UNKNOWN),
        alarms=sum(verdict != "within-noise" for _, verdict, _ in clean),
        n_clean=len(clean),
        clean=ways(clean),
    )


def score(kinds) -> tuple[int, int]:
    """How many of the placements that show are found, and how many show."""
    counts = collections.Counter(kinds)
    return counts["found"] + counts["twin"], counts["found"] + counts["twin"] + counts["missed"]


def matrix(outcomes) -> str:
    rows = [
        "| mistake | found | of | same numbers | hidden | half of the sites: found | of | same numbers | hidden |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for mistake in CATALOGUE:
        cells = []
        for i in range(2):
            kinds = [outcome[2 + i][0] for outcome in outcomes if outcome[0] == mistake.slug]
            cells += [*score(kinds), kinds.count("twin") or "", kinds.count("hidden") or ""]
        rows.append(f"| `{mistake.slug}` | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def missed(outcomes) -> str:
    lines = [
        f"- `{slug}` {k}{', half of the sites' if half else ''}: {where}; compare said: {said}"
        for slug, k, *both in outcomes
        for half, (kind, said, where, wrong_name) in enumerate(both)
        if kind == "missed" or wrong_name
    ]
    return "\n".join([f"Missed ({len(lines)}):", "", *lines]) if lines else "None is missed."


def ways(clean) -> str:
    rows = ["| way | runs | false alarms | largest share of a band |", "| --- | --: | --: | --: |"]
    for way in WAYS:
        own = [(verdict, ratio) for other, verdict, ratio in clean if other == way]
        alarms = sum(verdict != "within-noise" for verdict, _ in own)
        rows.append(f"| {way} | {len(own)} | {alarms} | {max(ratio for _, ratio in own):.0%} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
