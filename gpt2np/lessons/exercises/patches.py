"""Edits that give a head what it had in another run: the right ones, and wrong ones, by name."""

from collections.abc import Callable
from typing import Any

from gpt2np.analysis.interventions import patch, zero
from gpt2np.lessons.exercise import Function, Wrong
from gpt2np.ops import Array
from gpt2np.tracing.trace import Trace


def of_head(site: str, take: Callable[[Trace, Trace], Trace] = lambda clean, corrupt: clean) -> Function:
    """A head's part of a site, from one of the two runs."""
    return lambda clean, corrupt, layer, head: {f"h.{layer}.{site}": patch(take(clean, corrupt), heads=head)}


def _edited(change: Callable[[Array, Array, int], Any]) -> Function:
    """An edit of z, by a function that changes it, of the clean one and of the head."""

    def function(clean: Trace, corrupt: Trace, layer: int, head: int) -> dict[str, Any]:
        site = f"h.{layer}.attn.z"

        def edit(z: Array) -> Array:
            change(z := z.copy(), clean[site], head)
            return z

        return {site: edit}

    return function


def _last_only(z: Array, clean: Array, head: int) -> None:
    z[-1, head] = clean[-1, head]


def _second_only(z: Array, clean: Array, head: int) -> None:
    z[1, head] = clean[1, head]


def _added(z: Array, clean: Array, head: int) -> None:
    z[:, head] += clean[:, head]


def _averaged(z: Array, clean: Array, head: int) -> None:
    z[:, head] = (z[:, head] + clean[:, head]) / 2


def _difference(z: Array, clean: Array, head: int) -> None:
    z[:, head] = clean[:, head] - z[:, head]


def _position(z: Array, clean: Array, head: int) -> None:
    z[head] = clean[head]


def _all_but(clean: Trace, corrupt: Trace, layer: int, head: int) -> dict[str, Any]:
    others = [i for i in range(clean.config.n_head) if i != head]
    return {f"h.{layer}.attn.z": patch(clean, heads=others)}


def _from_layer(clean: Trace, corrupt: Trace, layer: int, head: int) -> dict[str, Any]:
    layers = range(layer, clean.config.n_layer)
    return {f"h.{i}.attn.z": patch(clean, heads=head) for i in layers}


_ONE_POSITION = (
    "At how many positions has the head what it had in the other run?",
    "Could the head have done its work at other positions, too?",
)
_EVERY_LAYER = (
    "In how many layers does a head get what it had in the other run?",
    "Which part of a head's name have you not used?",
)
_HEADS = (
    "How many heads of this layer have read the other text now?",
    "At which site do the heads still lie side by side, and which of them is meant?",
)
_KEPT = (
    "What has become of what the head wrote before?",
    "Should the head write both things, or only what it wrote in the other run?",
)
_TWO_THINGS = "Which two things make up what a head gathers, and have you taken both from the first run?"

WRONG = (
    Wrong(
        "nothing-patched",
        of_head("attn.z", lambda clean, corrupt: corrupt),
        (
            "From which of the two runs do you take values, and into which do you put them?",
            "Your edits are for a run of the second text. Does anything change there?",
        ),
    ),
    Wrong(
        "nothing-patched",
        lambda clean, corrupt, layer, head: {},
        (
            "How many entries has the dict that you return?",
            "Your edits are for a run of the second text. Does anything change there?",
        ),
    ),
    *(
        Wrong("all-heads", function, _HEADS)
        for function in (
            lambda clean, corrupt, layer, head: {f"h.{layer}.attn.z": patch(clean)},
            lambda clean, corrupt, layer, head: {f"h.{layer}.attn.out": patch(clean)},
        )
    ),
    Wrong(
        "whole-stream",
        lambda clean, corrupt, layer, head: {f"h.{layer}.resid_post": patch(clean)},
        (
            "Is it only a head that has read the other text, or all that the model knows by then?",
            "Which site holds what each head has gathered, before it is added to anything?",
        ),
    ),
    Wrong(
        "every-layer", lambda clean, corrupt, layer, head: {"attn.z": patch(clean, heads=head)}, _EVERY_LAYER
    ),
    Wrong("every-layer", _from_layer, _EVERY_LAYER),
    Wrong(
        "layer-and-head-swapped",
        lambda clean, corrupt, layer, head: {f"h.{head}.attn.z": patch(clean, heads=layer)},
        (
            "In which layer is the head that has changed?",
            "In 3.0, which of the two numbers is the layer's?",
        ),
    ),
    Wrong("one-position-only", _edited(_last_only), _ONE_POSITION),
    Wrong("one-position-only", _edited(_second_only), _ONE_POSITION),
    Wrong("added-instead-of-replaced", _edited(_added), _KEPT),
    Wrong("added-instead-of-replaced", _edited(_averaged), _KEPT),
    Wrong("added-instead-of-replaced", _edited(_difference), _KEPT),
    Wrong(
        "zeroed-instead",
        lambda clean, corrupt, layer, head: {f"h.{layer}.attn.z": zero(heads=head)},
        (
            "What does the head write now: what it wrote in the other run, or nothing at all?",
            "Which of your arguments has what the head should have, and have you used it?",
        ),
    ),
    Wrong(
        "position-instead-of-head",
        _edited(_position),
        (
            "This site has three axes: along which of them do you choose?",
            "In which order are position, head and the head's numbers, at this site?",
        ),
    ),
    Wrong(
        "position-instead-of-head",
        lambda clean, corrupt, layer, head: {f"h.{layer}.attn.z": patch(clean, positions=head)},
        (
            "Who has what it had in the other run: one head, or one position?",
            "Which number is a head's here, and how do you say that it is one?",
        ),
    ),
    Wrong(
        "pattern-only",
        of_head("attn.pattern"),
        ("The head looks where it looked in the other run. Does it see there what it saw?", _TWO_THINGS),
    ),
    Wrong(
        "values-only",
        of_head("attn.v"),
        ("The head sees what it saw in the other run. Does it look where it looked?", _TWO_THINGS),
    ),
    Wrong(
        "the-other-heads",
        _all_but,
        (
            "Which head is the only one that has not changed?",
            "Who should write something else: the head that was asked for, or the others?",
        ),
    ),
)
LENGTHS_DIFFER = (
    "In a text that has two tokens more, is position 3 still the same word as in the other text?",
    "Count the tokens of both runs, not the words: when should your function refuse?",
)
