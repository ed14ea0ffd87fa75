"""Mistakes that explain a dump, and which of them explains it best."""

from dataclasses import dataclass
from typing import Any

from gpt2np.reference.mistakes import KNOWN

SLUGS = [mistake.slug for mistake in KNOWN]
CONTRADICTED = 0.05  # of what a mistake changes, what may look right
_NOTHING = 1e-4  # of an error: so little that is unexplained is noise


@dataclass(frozen=True)
class Candidate:
    """A mistake that fits: the layers, and the heads and positions, in which it explains the dump."""

    slug: str
    explanation: str
    cure: str
    detail: str
    layer: int | None
    heads: tuple[int, ...] | None
    rows: slice
    contradicted: float  # share of what the mistake changes that looks right in the dump
    unexplained: float  # share of the error that the replay leaves
    denied: float = 0.0  # share of what it changes that looks right in a site that is wrong

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "mistake": self.slug,
            "detail": self.detail,
            "layer": self.layer,
            "heads": None if self.heads is None else list(self.heads),
            "explanation": self.explanation,
            "cure": self.cure,
            "unexplained": self.unexplained,
        }


def ranked(candidates: list[Candidate]) -> list[Candidate]:
    """The best of each slug: what the dump does not contradict, then what leaves the least unexplained.

    Of those that leave as little as each other the first in the catalogue is taken for the simplest.
    """

    def badness(c: Candidate) -> tuple[float, float]:
        return (round(c.contradicted, 2), max(c.unexplained, _NOTHING))

    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=badness):
        best.setdefault(candidate.slug, candidate)
    least = min(map(badness, best.values()), default=(0.0, 0.0))
    alike = [c for c in best.values() if badness(c) <= (least[0], 2 * least[1])]
    return [*sorted(alike, key=lambda c: SLUGS.index(c.slug)), *(c for c in best.values() if c not in alike)]
