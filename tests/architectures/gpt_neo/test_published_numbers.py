"""The real GPT-Neo 125M against numbers that others have published; run with `--hub`.

`GPT2NP_HUB_GPT_NEO` names a folder to take instead of the Hub's model. Each test names its source; none of
these numbers is our own.
"""

import os

import pytest
from documents.baseline_notebook_steps import NAME, PROMPT, same_text

import gpt2np
from gpt2np.analysis import baseline_notebook

pytestmark = [pytest.mark.hub, pytest.mark.timeout(1200)]  # the first test may download 500 MB

# The notebook "Transformer Internals - Baseline Analysis": what its cells print, but for the whole module.
ARCHITECTURE = """Model Architecture:
  Model type: gpt_neo
  Number of layers: 12
  Number of attention heads: 12
  Hidden size: 768
  Vocabulary size: 50257
  Max position embeddings: 2048

Total parameters: 125,198,592"""
RESPONSE = """

The answer to this question is yes. The battery life of a smartphone depends on the battery capacity and the \
charging time. If you have a phone that has a built-in charger, then"""
ATTENTION = """Attention Statistics (Layer 0, First Generation Step):
  Min value: 0.000000
  Max value: 1.000000
  Mean value: 0.071429

Attention weight sums (should be ~1.0):
  Min sum: 1.000000
  Max sum: 1.000000
  Mean sum: 1.000000"""
HIDDEN = """Hidden State Statistics Across Layers (First Generation Step):

Layer | Mean     | Std      | Min       | Max
-------------------------------------------------------
    0 |   0.0258 |   0.3594 |   -4.6523 |   3.3027
    3 |   0.7326 |  52.5746 | -1760.0094 | 490.0633
    6 |  -0.0571 | 104.3220 | -6698.4536 | 453.7579
    9 |  -0.0499 | 105.8652 | -6768.7222 | 345.0670"""
COMPARISON = """Input vs. Output Layer Comparison (Last Token):
  Layer 0 norm: 9.1253
  Layer 11 norm: 74.3957
  Cosine similarity: -0.0157
  Interpretation: Different direction"""


@pytest.fixture(scope="module")
def model():
    return gpt2np.load(os.environ.get("GPT2NP_HUB_GPT_NEO", NAME))


@pytest.fixture(scope="module")
def run(model):
    return model.generate(PROMPT, max_new_tokens=40, repetition_penalty=10.0, keep="*").finish()


def near(found, expected, allowed):
    """The same words, and numbers as near as float32 sums of thousands in another order are."""
    assert len(found.split()) == len(expected.split())
    for ours, theirs in zip(found.split(), expected.split(), strict=True):
        try:
            assert abs(float(ours) - float(theirs)) <= allowed * max(1.0, abs(float(theirs)))
        except ValueError:
            assert ours == theirs


def test_the_notebook(model, run):
    assert model.checkpoint.notes == ()
    assert len(model.token_ids(PROMPT)) == 14
    assert run.text == PROMPT + RESPONSE
    same_text(baseline_notebook.architecture(run), ARCHITECTURE)
    same_text(baseline_notebook.attention_values(run), ATTENTION)
    near(baseline_notebook.hidden_values(run), HIDDEN, 1e-3)
    near(baseline_notebook.comparison(run), COMPARISON, 1e-3)


def test_the_loss_of_a_short_text(model):
    # TransformerLens, tests/acceptance/test_hooked_transformer.py: its own loss, with 50256 in front.
    ids = [50256, *model.token_ids("Hello world!")]
    assert model.score(ids).loss == pytest.approx(4.900552272796631, abs=1e-3)


def test_it_verifies(run):
    assert not run.trace.verify().skipped
