"""Two prompts beside each other."""

import json

import numpy as np
import pytest
from support.command_line import run

import gpt2np
from gpt2np.analysis.lens import lens_logits
from gpt2np.analysis.two_prompts import (
    alignment,
    attention_difference,
    divergence,
    lens_difference,
    prediction_difference,
    stream_distance,
)
from gpt2np.errors import InputError, TraceError

ONE, OTHER, LONGER = "Elizabeth was not", "Mr. Darcy was", "Mr. Darcy was not"  # 4, 4 and 5 tokens


@pytest.fixture(scope="module")
def traces(tiny):
    return tiny.trace([ONE, OTHER, LONGER])


@pytest.mark.parametrize("width", [40, 60, 80])
def test_every_measure_is_shown_in_every_width(monkeypatch, traces, width):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = str(stream_distance(*traces[:2]))
    assert all(f"  {name}" in shown for name in ("cosine", "distance", "norm of the other"))
    assert (
        shown.count("h.3.resid_post") * 6 == sum("resid_post" in line for line in shown.splitlines()) / 4 * 6
    )
    assert max(map(len, shown.splitlines())) <= width


def test_the_position_is_told_and_chosen(capsys, traces):
    one, other = traces[:2]
    assert "at positions 1 |lizabeth| and 1 |.|" in str(stream_distance(one, other, 1))
    code, out, _ = run(capsys, "trace", ONE, "--against", OTHER, "--pos", "1")
    assert code == 0
    assert str(stream_distance(one, other, 1)) in out
    assert str(prediction_difference(one, other, 1, 5)) in out
    assert "share of the mean of the two norms" in out


def chances(trace, pos=-1):
    x = trace["logits"][pos].astype(float)
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize("pos", [-1, 0, 2])
def test_the_streams(traces, pos):
    one, _, longer = traces
    found = stream_distance(one, longer, pos)
    assert found.labels["residual"] == ["embed", *(f"h.{i}.resid_post" for i in range(4)), "ln_f"]
    for row, name in zip(found.array, found.labels["residual"], strict=True):
        x, y = one[name][pos].astype(float), longer[name][pos].astype(float)
        lengths = np.sqrt((x * x).sum()), np.sqrt((y * y).sum())
        cosine = (x * y).sum() / lengths[0] / lengths[1]
        apart = np.sqrt(lengths[0] ** 2 + lengths[1] ** 2 - 2 * cosine * lengths[0] * lengths[1])
        assert row == pytest.approx([cosine, apart / np.mean(lengths), *lengths], rel=1e-4)


def test_a_prompt_and_itself(traces):
    one = traces[0]
    assert stream_distance(one, one).array[:, :2] == pytest.approx(np.array([[1.0, 0.0]] * 6))
    assert attention_difference(one, one).array.max() == 0
    assert prediction_difference(one, one).array[:, 2].max() == 0
    assert divergence(one, one) == 0


def test_predictions(traces):
    one, other, _ = traces
    p, q = chances(one), chances(other)
    found = prediction_difference(one, other, k=7)
    order = np.argsort(-np.abs(p - q))[:7]
    assert found.labels["token"] == one.model.tokens(order.tolist())
    assert found.array == pytest.approx(np.stack([p[order], q[order], p[order] - q[order]], 1), rel=1e-3)
    assert divergence(one, other) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)
    assert divergence(other, one) == pytest.approx((q * np.log(q / p)).sum(), rel=1e-4)


def test_attention(traces):
    one, other, _ = traces
    found = attention_difference(one, other, pos=2).array
    for layer in range(4):
        for head in range(4):
            a, b = (run[f"h.{layer}.attn.pattern"][head, 2] for run in (one, other))
            assert found[layer, head] == pytest.approx(np.maximum(a - b, 0).sum(), abs=1e-5)


def test_attention_of_prompts_of_different_lengths(traces):
    one, _, longer = traces  # "Elizabeth was not" and "Mr. Darcy was not"
    columns = alignment(one, longer)
    found = attention_difference(one, longer).array
    for layer, head in ((0, 0), (2, 1), (3, 3)):
        a, b = (run[f"h.{layer}.attn.pattern"][head, -1].astype(float) for run in (one, longer))
        same = sum(min(a[i], b[j]) for i, j in columns if i is not None and j is not None)
        assert found[layer, head] == pytest.approx(1 - same, abs=1e-5)


ALIGNED = [
    ([1, 2, 3], [7, 8, 9], [(0, 0), (1, 1), (2, 2)]),  # of the same length: position by position
    ([1, 2, 3], [9, 1, 2, 3], [(None, 0), (0, 1), (1, 2), (2, 3)]),
    ([1, 2, 3, 4], [1, 8, 4], [(0, 0), (1, None), (2, 1), (3, 2)]),  # the last of what differs
    ([1, 2, 3], [1, 2], [(0, 0), (1, 1), (2, None)]),
    ([5], [6, 7, 8], [(None, 0), (None, 1), (0, 2)]),
]


@pytest.mark.parametrize(("here", "there", "columns"), ALIGNED)
def test_which_tokens_stand_for_one_another(tiny, here, there, columns):
    one, two = tiny.trace(here), tiny.trace(there)
    assert alignment(one, two) == columns
    assert [(a, b) for b, a in alignment(two, one)] == columns or len(here) != len(there)


def test_another_position_of_the_other_prompt(traces):
    one, _, longer = traces
    found = stream_distance(one, longer, 3, 4)
    assert found.array == pytest.approx(stream_distance(one, longer).array)
    assert "at positions 3 | not| and 4 | not|" in str(found)
    assert divergence(one, longer, 3, 4) == divergence(one, longer)
    shown = [prediction_difference(one, longer, *at).array for at in ((-1, 3), (3, 3, 4))]
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("pos", [(-1, None), (2, 4)])
def test_a_logit_difference_is_that_of_the_logit_lens(traces, tiny, pos):
    one, _, longer = traces
    found = lens_difference(one, longer, (" the", 17), *pos)
    first = tiny.find_id(" the")
    for column, (trace, row) in enumerate(((one, pos[0]), (longer, pos[0] if pos[1] is None else pos[1]))):
        for site, value in zip(found.labels["site"], found.array[:, column], strict=True):
            logits = lens_logits(trace[site][row][None], tiny.parameters, tiny.config)[0]
            assert value == pytest.approx(float(logits[first]) - float(logits[17]), abs=1e-4)
    logits = one["logits"][pos[0]]
    assert found.array[-1, 0] == pytest.approx(float(logits[first] - logits[17]), abs=1e-4)


def test_what_cannot_be_compared(tiny, traces, tmp_path):
    from support.random_model import random_model

    one = traces[0]
    with pytest.raises(InputError, match="different models"):
        stream_distance(one, random_model(0).trace([1, 2, 3]))
    with pytest.raises(InputError, match="position 4 is not one of the 4"):
        stream_distance(one, traces[2], pos=4)
    with pytest.raises(TraceError, match="resid_post"):
        stream_distance(one, tiny.trace(OTHER, keep="embed"))
    one.save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")  # without its model
    assert prediction_difference(opened, one, k=1).labels["token"][0].startswith("<")


@pytest.mark.parametrize("other", [OTHER, LONGER, ONE])
def test_on_the_command_line(capsys, tiny, other):
    code, out, _ = run(capsys, "trace", ONE, "--against", other, "--top", "4", "--json")
    assert code == 0
    facts, pair = json.loads(out), tiny.trace([ONE, other])
    np.testing.assert_allclose(facts["stream"]["values"], stream_distance(*pair).array, rtol=1e-3, atol=1e-4)
    assert facts["other_tokens"] == pair[1].tokens
    assert len(facts["predictions"]["values"]) == 4
    np.testing.assert_allclose(facts["attention"]["values"], attention_difference(*pair).array, atol=1e-3)
    code, out, _ = run(capsys, "trace", ONE, "--against", other)
    assert code == 0
    assert "divergence of the predictions" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "more", [["--show", "Q"], ["--keep", "Q"], ["--out", "t.safetensors"], ["--pos", "9"]]
)
def test_options_that_do_not_go_with_it(capsys, monkeypatch, tmp_path, more):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "trace", ONE, "--against", OTHER, *more)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
