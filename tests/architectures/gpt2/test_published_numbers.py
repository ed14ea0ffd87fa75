"""The real GPT-2 against numbers that others have published; run with `--hub`.

`GPT2NP_HUB_MODEL` names a folder to take instead of `gpt2` from the Hub. Each test names its source; none of
these numbers is our own.
"""

import os

import numpy as np
import pytest

import gpt2np
from gpt2np.ops import layer_norm, linear
from gpt2np.tracing.derived import log_probabilities

pytestmark = [pytest.mark.hub, pytest.mark.timeout(1200)]  # the first test may download 500 MB

END = 50256


@pytest.fixture(scope="module")
def model():
    return gpt2np.load(os.environ.get("GPT2NP_HUB_MODEL", "gpt2"))


def numbers(text):
    return [float(word) for word in text.split()]


def continuation(model, ids, n):
    """The n most likely next tokens, one after another; the whole text is read anew for each."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(model(ids, last=True).argmax()))
    return ids[-n:]


def test_number_of_parameters(model):
    assert model.n_parameters == model.config.n_parameters == 124_439_808  # llm.c, README


# -- token ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # The tokenizer fixture of a CUDA port.
        (
            "GPT2 inference runtime in C++ and CUDA",
            [38, 11571, 17, 32278, 19124, 287, 327, 4880, 290, 29369, 5631],
        ),
        # transformers, test_lm_generate_gpt2: "The dog".
        ("The dog", [464, 3290]),
        # TransformerLens, Activation_Patching demo: the answers of its prompts.
        (" Mary John Tom James Dan Sid Martin Amy", [5335, 1757, 4186, 3700, 6035, 15686, 5780, 14235]),
    ],
)
def test_token_ids(model, text, ids):
    assert model.tokenizer.encode(text) == ids
    assert model.tokenizer.decode(ids) == text


# -- logits ---------------------------------------------------------------------------------------------


# The ids, which logits of the last position, what they are, within how much.
LOGITS = {
    # GraphExecutionGpt2Tests.cs; the first five also by a CUDA port.
    "Lokad/Onnx": (
        [15496],
        [0, 1, 2, 3, 4, 5, 6, 7, 100, 384, 385, 1000, 10000, 50000],
        """-35.23624420 -35.32659531 -38.97534943 -39.39067459 -37.65318298 -38.67243576 -36.02489090
        -36.48415375 -43.31263733 -40.13024902 -38.99939346 -40.74980927 -41.98722839 -44.11378098""",
        1e-3,
    ),
    # A logged run of its test_gpt2.c, PyTorch column; llm.c#228 agrees on the first three.
    "llm.c": (
        [END],
        range(10),
        """-43.431736 -39.836460 -43.066002 -42.828171 -43.529659
        -44.318508 -41.227512 -41.270866 -42.541489 -42.395119""",
        1e-3,
    ),
    # One source only.
    "a CUDA port": ([15496, END, 1234], range(5), "-76.9411 -79.2848 -80.4353 -80.4342 -80.2285", 1e-2),
}


@pytest.mark.parametrize("source", LOGITS)
def test_logits(model, source):
    ids, indices, expected, allowed = LOGITS[source]
    found, last = model(ids)[-1], model(ids, last=True)
    np.testing.assert_allclose(last, found, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[list(indices)], numbers(expected), rtol=0, atol=allowed)


def test_most_likely_tokens(model):
    assert model([15496, END, 1234]).argmax(axis=1).tolist() == [11, 464, 262]  # the CUDA port


def test_mean_of_all_logits(model):
    mean = model([15496, 11, 314, 716]).mean(dtype=np.float64)
    assert mean == pytest.approx(-111.89471, abs=1e-3)  # Lokad/Onnx


# -- single operations, as a CUDA port has them (one source only) -----------------------------------------


def test_an_embedding(model):
    expected = """-0.0686508 -0.132694 0.0112033 -0.146658 -0.18417
        -0.0357969 -0.217333 -0.171337 -0.0103861 -0.0141989"""
    found = model.weights["wte.weight"][15496, :10]
    np.testing.assert_allclose(found, numbers(expected), rtol=0, atol=1e-6)


def test_the_first_layer_norm_on_an_embedding_alone(model):
    x = model.weights["wte.weight"][[15496]]
    out = np.empty_like(x)
    layer_norm(x, model.parameters.h[0].ln_1, out=out)
    expected = """-0.114096 -0.146124 -0.052343 -0.206682 -0.284546
        -0.062076 -0.026583 -0.193440 -0.018746 -0.028776"""
    np.testing.assert_allclose(out[0, :10], numbers(expected), rtol=0, atol=1e-4)


def test_the_first_mlp_layer_on_an_embedding_alone(model):
    x = model.weights["wte.weight"][[15496]]
    out = np.empty((1, model.config.d_mlp), x.dtype)
    linear(x, model.parameters.h[0].mlp.c_fc, out=out)
    expected = """-0.099145 0.179045 0.868187 1.144703 0.128677
        0.314243 -0.196578 0.317911 -0.367978 0.233335"""
    np.testing.assert_allclose(out[0, :10], numbers(expected), rtol=0, atol=1e-4)


# -- texts ----------------------------------------------------------------------------------------------


def test_greedy_ids(model):
    expected = [373, 1043, 287, 257, 2214, 1474, 262, 16246, 286]  # transformers, test_lm_generate_gpt2
    expected += [2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]
    assert continuation(model, [464, 3290], len(expected)) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # transformers, test_batch_generation; there in one batch with padding on the left, here alone.
        ("Hello, my dog is a little", " bit of a mess. I'm not sure if he's going"),
        ("Today, I", "'m going to be doing a lot of research on this. I"),
        # picoGPT, README; the first 20 or so of its 40 tokens.
        (
            "Alan Turing theorized that computers would one day become",
            " the most powerful machines on the planet.\n\n"
            "The computer is a machine that can perform complex calculations",
        ),
    ],
    ids=["transformers-dog", "transformers-today", "picoGPT-turing"],
)
def test_greedy_text(model, prompt, expected):
    tokenizer = model.tokenizer
    found = continuation(model, tokenizer.encode(prompt), len(tokenizer.encode(expected)))
    assert tokenizer.decode(found) == expected


def test_loss_of_hello_world(model):
    """TransformerLens, test_hooked_transformer.py: mean of -log p over "Hello world!", END before it.

    Its model is folded and centred, which shifts all logits of a position alike and leaves the loss as it is.
    """
    ids = [END, *model.tokenizer.encode("Hello world!")]
    log_p = log_probabilities(model(ids))
    losses = [-log_p[position, token] for position, token in enumerate(ids[1:])]
    assert np.mean(losses) == pytest.approx(5.331856, abs=1e-4)


# TransformerLens, Activation_Patching demo: each prompt once with either name in the second half.
IOI = [
    ("When John and Mary went to the shops,{} gave the bag to", (" Mary", " John")),
    ("When Tom and James went to the park,{} gave the ball to", (" Tom", " James")),
    ("When Dan and Sid went to the shops,{} gave an apple to", (" Dan", " Sid")),
    ("After Martin and Amy went to the park,{} gave a drink to", (" Martin", " Amy")),
]


def test_indirect_objects(model):
    """How much likelier the receiver is than the giver: TransformerLens has 3.5519 on average."""
    encode = model.tokenizer.encode
    differences = []
    for prompt, names in IOI:
        for receiver, giver in (names, names[::-1]):
            logits = model([END, *encode(prompt.format(giver))], last=True)
            (right,), (wrong,) = encode(receiver), encode(giver)
            differences.append(float(logits[right]) - float(logits[wrong]))
    assert len(differences) == 8
    assert np.mean(differences) == pytest.approx(3.5519, abs=1e-3)
