"""The catalogue itself: what every mistake says, and hints that ask without giving anything away."""

import re

import pytest

from gpt2np.architectures import gemma2, gpt2, gpt_neo
from gpt2np.reference.mistakes import CATALOGUE, KNOWN, PROMPT_MISTAKES
from gpt2np.reference.mistakes.recorded import EVERY_SITE

# Words that any question may have.
EVERYDAY = set(
    """a about add after afterward all alone already also am an and another any anybody anything are as at
    away back be become before behind beside between both but by can come count did do does done
    down each else end enough ever every everybody everything far few first for found from further
    get give go had half happen has have he her here him his how if in into is it its know large
    larger last late later lay learn least leave left let lie like long longer look lot make many
    may me mean more most much must my near nearly need never new next no nobody none not nothing
    now number of off old on once one only or other our out over own part people put read right row
    run same see seem she should show side small smaller so some somebody something stand still such
    take text than that the their them then there these they thing this those time to together too
    turn two under until up us use very want was way we well were what when where which while who
    token whole whom whose why will with without word would write wrong yet you your zero""".split()
)
ENDINGS = ("ings", "ing", "edly", "ed", "ers", "er", "es", "s", "ly", "e")


def stem(word: str) -> str:
    """A word without its ending, roughly."""
    word = word.lower()
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def stems(text: str) -> set[str]:
    """Of all words that say something."""
    everyday = {stem(word) for word in EVERYDAY}
    return {stem(word) for word in re.findall(r"[A-Za-z]+", text)} - everyday


@pytest.mark.every(2)
@pytest.mark.parametrize("mistake", KNOWN, ids=lambda m: m.slug)
def test_hints_ask_and_give_nothing_away(mistake):
    first, second = mistake.hints
    assert first != second
    for hint in mistake.hints:
        assert hint.endswith("?")
        assert hint.isprintable()
        assert 15 < len(hint) < 120
        assert not re.search(r"[=@()\[\]{}`*+/<>_\\|]|\d", hint), hint  # no code, no formula
        assert stems(hint).isdisjoint(stems(mistake.cure)), (hint, stems(hint) & stems(mistake.cure))
        assert stems(hint).isdisjoint(stems(mistake.slug)), (hint, stems(hint) & stems(mistake.slug))


def test_slugs_are_names_of_their_own():
    slugs = [mistake.slug for mistake in KNOWN]
    assert len(slugs) == len(set(slugs)) >= 80
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) for slug in slugs)
    assert tuple(KNOWN) == (*CATALOGUE, *PROMPT_MISTAKES)
    assert len({mistake.explanation for mistake in KNOWN}) == len(KNOWN)


@pytest.mark.every(2)
@pytest.mark.parametrize("mistake", KNOWN, ids=lambda m: m.slug)
def test_what_a_mistake_says(mistake):
    for text in (mistake.explanation, mistake.cure):
        assert text.endswith((".", ")"))
        assert text.isprintable()
        assert len(text) <= 130
    known = {site.name for model in (gpt2, gpt_neo, gemma2) for site in model.ARCHITECTURE.sites}
    assert mistake.steps == EVERY_SITE or set(mistake.steps) <= known
    assert set(getattr(mistake, "unseen", ())) <= known


def test_the_rare_ones_are_tried_last():
    rare = [mistake.rare for mistake in CATALOGUE]
    assert rare == sorted(rare)
