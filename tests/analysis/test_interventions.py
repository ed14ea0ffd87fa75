"""Ready-made edits, their restrictions, and what they do to tiny."""

import inspect
import re

import numpy as np
import pytest
from support.differences import relative_error
from support.random_model import random_model
from test_tiny import CARD, HELD_OUT, induction_attention

from gpt2np.analysis.interventions import freeze, mean, patch, project, scale, steer, zero
from gpt2np.errors import InputError, TraceError
from gpt2np.tracing.trace import Trace

PROMPT, OTHER = [3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: zero(head=0),
            "zero takes positions, heads, neurons, steps, not 'head'; did you mean heads?",
        ),
        (lambda: scale(2.0, position=1), "scale takes .* did you mean positions?"),
        (lambda: steer(np.ones(3), layer=2), "not 'layer'; the layer stands in the name of the site"),
        (lambda: mean([], what=1), "the reference set has no trace"),
    ],
)
def test_a_keyword_that_is_none_is_told_with_those_there_are(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize("function", [zero, scale, steer, mean, patch, freeze])
def test_every_keyword_is_in_the_help(function):
    assert list(inspect.signature(function).parameters)[-4:] == ["positions", "heads", "neurons", "steps"]
    assert all(f"    {name}: " in function.__doc__ for name in ("positions", "heads", "neurons", "steps"))


def test_a_trace_says_what_was_edited(model, tmp_path, plain):
    edits = {("attn.z", 0): zero(heads=[1], positions=2), "mlp.post": lambda x: 2 * x}
    trace = model.trace(PROMPT, edits=edits)
    trace.save(tmp_path / "t.safetensors")
    for found in (trace, Trace.open(tmp_path / "t.safetensors")):
        assert found.edited.startswith("h.0.attn.z (zero positions=2, heads=[1]), h.0.mlp.post, h.1.mlp.post")
        assert f"; edited: {found.edited}>" in repr(found)
    assert plain.edited == ""
    assert "edited" not in repr(plain)


@pytest.fixture(scope="module")
def plain(model):
    return model.trace(PROMPT)


@pytest.fixture(scope="module")
def other(model):
    return model.trace(OTHER)


def edited(model, site, edit):
    return model.trace(PROMPT, edits={site: edit})[site]


def test_what_they_put_there(model, plain, other):
    z = plain["h.1.attn.z"]
    assert not edited(model, "h.1.attn.z", zero()).any()
    np.testing.assert_array_equal(edited(model, "h.1.attn.z", scale(0.5)), 0.5 * z)
    np.testing.assert_array_equal(edited(model, "h.1.attn.z", patch(other)), other["h.1.attn.z"])
    for site in ("attn.q", "attn.scores", "mlp.post", "ln_2"):
        np.testing.assert_array_equal(edited(model, f"h.1.{site}", patch(other)), other[f"h.1.{site}"])
    expected = np.concatenate([plain["h.1.attn.z"], other["h.1.attn.z"]]).mean(0)
    found = edited(model, "h.1.attn.z", mean([plain, other]))
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-12)
    vector = np.arange(16.0)
    steered = edited(model, "h.0.resid_post", steer(vector, -2))
    np.testing.assert_allclose(steered, plain["h.0.resid_post"] - 2 * vector)


def test_restrictions(model, plain):
    z, post = plain["h.0.attn.z"], plain["h.0.mlp.post"]
    for positions, rows in (
        (2, [2]),
        ([1, 5], [1, 5]),
        (slice(3, None), range(3, 7)),
        (slice(0, 6, 2), [0, 2, 4]),
    ):
        found = edited(model, "h.0.attn.z", zero(positions=positions, heads=1))
        expected = z.copy()
        expected[list(rows), 1] = 0
        np.testing.assert_array_equal(found, expected)
    pattern = plain["h.0.attn.pattern"].copy()
    pattern[1, 4] = 0
    np.testing.assert_array_equal(edited(model, "h.0.attn.pattern", zero(heads=[1], positions=4)), pattern)
    neurons = post.copy()
    neurons[:, [3, 40]] *= 5
    np.testing.assert_array_equal(edited(model, "h.0.mlp.post", scale(5, neurons=[3, 40])), neurons)
    neurons = post.copy()
    neurons[6, 60:] = 0
    np.testing.assert_array_equal(
        edited(model, "h.0.mlp.post", zero(neurons=slice(60, None), positions=6)), neurons
    )
    np.testing.assert_array_equal(edited(model, "h.0.attn.z", zero(positions=[])), z)
    np.testing.assert_array_equal(edited(model, "h.0.attn.z", zero(steps=slice(1, None))), z)


def test_patching_from_texts_of_another_length(model, plain):
    longer, shorter = model.trace([*PROMPT, 8, 9]), model.trace(PROMPT[:4])
    for site in ("embed", "h.0.attn.scores", "h.1.attn.pattern", "h.1.attn.v"):
        np.testing.assert_allclose(edited(model, site, patch(longer)), plain[site], rtol=1e-12)
        some = edited(model, site, patch(shorter, positions=slice(0, 4)))
        np.testing.assert_allclose(some, plain[site], rtol=1e-12)
        with pytest.raises(InputError, match="no position 4"):
            edited(model, site, patch(shorter))


def test_freezing(model, plain, other):
    everything = {"attn.pattern": freeze(plain), "ln_?": freeze(plain)}
    same = model.trace(PROMPT, edits=everything)
    assert max(relative_error(same[name], plain[name]) for name in plain.names()) < 1e-12
    frozen = model.trace(PROMPT, edits={"h.1.attn.pattern": freeze(other)})
    np.testing.assert_array_equal(frozen["h.1.attn.pattern"], other["h.1.attn.pattern"])
    assert frozen.verify().skipped

    # with every scale and pattern frozen, attention is linear: twice the change, twice the effect
    def run(coefficient):
        edits = everything | {"embed": steer(np.ones(16) * np.arange(16), coefficient), "mlp.out": zero()}
        return model(PROMPT, edits=edits)

    np.testing.assert_allclose(run(2) - run(0), 2 * (run(1) - run(0)), rtol=1e-9, atol=1e-9)
    by_hand = model.trace(PROMPT, edits={"ln_f": freeze(other)})
    p, x = model.parameters.ln_f, by_hand["h.1.resid_post"]
    expected = (x - x.mean(-1, keepdims=True)) * other["ln_f.rstd"][:, None] * p.weight + p.bias
    np.testing.assert_allclose(by_hand["ln_f"], expected, rtol=1e-12)
    with pytest.raises(InputError, match="use patch"):
        model(PROMPT, edits={"h.0.mlp.out": freeze(plain)})


@pytest.mark.parametrize("options", [{}, {"lookup": 3}, {"num_beams": 2}], ids=str)
def test_steering_from_a_step_on(model, options):
    vector = np.random.default_rng(0).normal(0, 2, 16)
    edits = {"h.0.resid_post": steer(vector, 3, steps=slice(3, None))}
    done = model.generate(PROMPT, max_new_tokens=8, keep="*", edits=edits, **options).finish()
    by_position = {"h.0.resid_post": steer(vector, 3, positions=slice(9, None))}  # step 3 runs position 9
    whole = model.trace(done.token_ids[:-1], edits=by_position)
    assert max(relative_error(done.trace[name], whole[name]) for name in whole.names()) < 1e-12
    plain = model.generate(PROMPT, max_new_tokens=8).finish()
    if not options:
        assert done.token_ids[:10] == plain.token_ids[:10]
        assert done.token_ids != plain.token_ids


@pytest.mark.parametrize(
    ("site", "edit", "message"),
    [
        ("h.0.mlp.out", zero(heads=0), "has no axis head"),
        ("h.0.attn.z", zero(neurons=0), "has no axis d_mlp"),
        ("h.0.attn.z", zero(heads=2), r"has 2 heads, 0 to 1; there is no 2"),
        ("h.0.attn.z", steer(np.ones(16)), r"expected \[8\]"),
        ("h.0.attn.pattern", zero(heads=[0, 9]), "there is no 9"),
    ],
)
def test_what_does_not_fit(model, site, edit, message):
    with pytest.raises(InputError, match=message):
        edited(model, site, edit)


def test_malformed_restrictions(model, plain):
    for wrong in (-1, [0, -2], "3", 1.5, True, slice(-2, None), slice(0, 4, -1)):
        with pytest.raises(InputError, match="positions="):
            zero(positions=wrong)
    with pytest.raises(InputError, match="no trace"):
        mean([])
    for call in (
        patch,
        mean,
        freeze,
        lambda text: mean([plain, text]),
        lambda text: project(text, np.ones(16)),
    ):
        with pytest.raises(
            InputError, match=r"takes a trace, as model.trace\(text\) gives one, not 'a text'"
        ):
            call("a text")
    with pytest.raises(InputError, match="no mean"):
        model(PROMPT, edits={"attn.pattern": mean(plain)})
    with pytest.raises(InputError, match="in the trace, but"):
        model(PROMPT, edits={"attn.z": patch(random_model(n_head=4).trace(PROMPT))})
    with pytest.raises(TraceError, match="not in this trace"):
        model(PROMPT, edits={"attn.z": patch(model.trace(PROMPT, keep="mlp.out"))})


def test_project(plain):
    vector = np.arange(1.0, 17.0)
    found = project(plain, vector)
    assert found.axes == ("layer", "pos")
    for layer in range(2):
        expected = (plain[f"h.{layer}.resid_post"] @ vector) / np.sqrt((vector**2).sum())
        np.testing.assert_allclose(found.array[layer], expected, rtol=1e-12)
    np.testing.assert_allclose(project(plain, 5 * vector).array, found.array)
    for wrong in (np.zeros(16), np.ones(15), np.ones((1, 16)), np.full(16, np.inf), "x", None):
        with pytest.raises(InputError):
            project(plain, wrong)


# -- tiny ---------------------------------------------------------------------------------------------


LESIONS = re.findall(r"^\| (none|0\.\d) \| (\d\.\d\d) \| (0\.\d\d) \| (\d\.\d\d) \|$", CARD, re.MULTILINE)


@pytest.mark.parametrize(("head", "text", "induction", "copying"), LESIONS, ids=lambda x: x)
def test_tiny_without_a_head_is_as_its_card_says(tiny, head, text, induction, copying):
    edits = {} if head == "none" else {"h.0.attn.z": zero(heads=int(head[2:]))}
    assert tiny.score(HELD_OUT, edits=edits).loss == pytest.approx(float(text), abs=0.01)
    assert induction_attention(Lesioned(tiny, edits)).max() == pytest.approx(float(induction), abs=0.01)
    half = np.random.default_rng(1).integers(0, 2047, 60).tolist()
    loss = tiny.score(half + half, edits=edits).losses[65:].mean()
    assert loss == pytest.approx(float(copying), abs=0.01)


def test_without_its_previous_token_head_tiny_is_worst():
    text, induction, copying = ({head: float(numbers[i]) for head, *numbers in LESIONS} for i in range(3))
    assert len(LESIONS) == 5
    assert max(text, key=text.get) == max(copying, key=copying.get) == "0.0"
    assert text["0.0"] > text["none"] + 1
    assert min(induction, key=induction.get) == "0.0"


class Lesioned:
    """A model whose every trace has these edits."""

    def __init__(self, model, edits):
        self.model, self.edits = model, edits

    def trace(self, prompt, **options):
        return self.model.trace(prompt, edits=self.edits, **options)
