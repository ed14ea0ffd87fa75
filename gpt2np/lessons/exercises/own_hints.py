"""What the exercises of lesson 7 ask, where the catalogue asks something else, or nothing."""

from gpt2np.lessons.exercise import Hints
from gpt2np.lessons.exercises.norm_mistakes import BRACKETS, SPREAD
from gpt2np.lessons.exercises.stream import Gelu

# Of `run` and `extend`, by slug.
OF_PROGRAMS: dict[str, Hints] = {
    "gelu-erf": (
        "There are two formulas for this curve, an exact one and one that comes close: which one is yours?",
        "With which of the two was this model trained?",
    ),
    "wrong-layer-weights": (
        "Is the first layer right, and which arrays does the second one take?",
        "Which part of an array's name must change from layer to layer, and does it change in your loop?",
    ),
    "layer-order": (
        "Is the first layer right, and which arrays does the second one take?",
        "Which part of an array's name must change from layer to layer, and does it change in your loop?",
    ),
    "logits-are-probabilities": (
        "Can one of these numbers be below zero, and can one be above one?",
        "Have you gone one step further than the last one that is asked for?",
    ),
    "layers-missing": (
        "How many layers does your loop run through, and how many has the model?",
        "From which layer do the numbers come that go into the end?",
    ),
    "names-exchanged": (
        "Is the number wrong, or only the name under which you wrote it down?",
        "At which moment do you write this step down, and what does the variable hold just then?",
    ),
    "written-twice": (
        "Your dict has the steps of one layer, and the model has more: is any of them written twice?",
        "Which part of a step's name must change from layer to layer, and does it change in your loop?",
    ),
    "scores-scaled-by-d-head": (
        "Is your pattern nearly the same at all keys: are your scores too small?",
        "Does a sum grow as fast as the number of its terms, or more slowly?",
    ),
    "residual-subtracted": (
        "What does a part of the model do to the stream: does it put something in, or take it out?",
        "Which sign has what was written?",
    ),
    "norm-of-what-was-written": (
        "What goes into this LayerNorm: all that the stream holds, or what was written last?",
        "Which of your variables holds the stream at this line?",
    ),
    "softmax-two-axes": (
        "You take a maximum and a sum: over the same numbers?",
        "The numbers of one row share one hundred per cent: along which axis do they lie?",
    ),
    "layernorm-bracket": BRACKETS,
    "layernorm-root-of-spread": SPREAD,
    "cache-of-another-text": (
        "What does your program still know of the text before this one?",
        "Where do you keep your keys and values: in the dict that you were given, or in one of your own?",
    ),
    "mask-of-several-tokens": (
        "Three new tokens come at once here: which of them may see which?",
        "Where does the diagonal of your mask begin, when some tokens are in the cache already?",
    ),
}
# Of a step that has too few or too many rows.
ROWS: Hints = (
    "Is there one row for each token that was given, no more and no fewer?",
    "Did you keep the last position only, or those that came before, too?",
)
OF_PROGRAMS |= {wrong.slug: wrong.hints for wrong in Gelu.wrong if wrong.hints}
# Of a run that is right and not at its end.
NEXT_STEP: Hints = (
    "What does the model do with the last step that you have, to make the next one?",
    "Which arrays have the name of that step in theirs, and which shapes have they?",
)
# Of a run that ends behind a layer.
TOO_SOON: Hints = (
    "When does your function come to its end: after this layer, or after the last one?",
    "How far is the line indented that gives the result back?",
)
_ATTENTION: Hints = (
    "Is there a row in which a token may look at nobody at all, not even at itself?",
    "What is the sum of a row in which every exponential is zero, and what do you divide by it?",
)
_ELSEWHERE: Hints = (
    "Which operation has no result: a root of less than nothing, or nothing divided by nothing?",
    "Which numbers go into this step, and which of its operations can fail for one of them?",
)


def no_number(step: str) -> Hints:
    """What to ask about a step that holds NaN."""
    return _ATTENTION if step.endswith(("scores", "pattern", "z")) else _ELSEWHERE


# Of the examination, by dump.
OF_DUMPS: tuple[Hints, ...] = (
    (
        "How much smaller are these scores than they should be: by the same factor everywhere?",
        "Is that factor a number that you know from this model's sizes? Has something been done twice?",
    ),
    (
        "How large is the error, and at which inputs is it largest?",
        "Two curves that lie almost on each other: which function has an exact form and an approximate one?",
    ),
    (
        "Which layers are right? Is the difference the same at every position?",
        "What does a step add that does not depend on the text at all?",
    ),
    (
        "Take the token part away from both: what is left, and whose is it?",
        "Is what the first token has what another token should have?",
    ),
    (
        "The vectors are right, the products of them are not. Who meets whom?",
        "Each token sends out three vectors. Can two of them have changed their roles?",
    ),
    (
        "Which two things are added here? Is either of them missing?",
        "What was in the stream a little earlier, before attention had written anything?",
    ),
    (
        "The same small factor at every number: which one, once the bias is taken away?",
        "By what do you divide when you take the mean of 192 numbers, and by what do some people?",
    ),
    (
        "Which scores are numbers here and should not be?",
        "How far into the future does each token see?",
    ),
    (
        "What each head has found is right. Who puts the heads side by side?",
        "Which tokens have become mixed up, and in which order do numbers lie in memory?",
    ),
    (
        "From which position on is it wrong? What is different about the tokens from there on?",
        "When a new token looks at itself, whom does it see?",
    ),
)
