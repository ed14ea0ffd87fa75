"""Exercises whose function may go through the tokens in a loop, and come back from it too early."""

from dataclasses import replace

from gpt2np.lessons.by_site import AtSite, Run
from gpt2np.lessons.exercise import Case, Finding
from gpt2np.lessons.same import is_same
from gpt2np.ops import Array

SLUG = "first-token-only"
RETURNED_TOO_EARLY = (
    "Only the first token is right: what does your program do with the second one?",
    "If you have a loop, does the line that returns the result stand in it, or after it?",
)


class TokenByToken(AtSite):
    """An exercise at a site whose rows are tokens, of which it may be that only the first is right."""

    def own(self, site: str, array: Array, run: Run, case: Case) -> Finding:
        """A right first row alone is told where none of the exercise's mistakes gives the others."""
        found, truth = super().own(site, array, run, case), run[site]
        if found.state != "wrong" or found.mistake is not None:
            return found
        if is_same(array[0], truth[0]) and not any(map(is_same, array[1:], truth[1:])):
            return replace(found, mistake=SLUG, hints=self.hints_of(SLUG, RETURNED_TOO_EARLY))
        return found
