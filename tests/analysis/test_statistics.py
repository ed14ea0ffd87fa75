"""Statistics against the baseline notebook's own code on Hugging Face's model, identities, wrong input."""

import math
import re

import numpy as np
import pytest
from support import needs
from support.random_model import random_model

import gpt2np
from gpt2np.analysis import baseline_notebook, statistics
from gpt2np.errors import InputError, TraceError
from gpt2np.export.dialects.dialect import Dialect

SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 48, "n_positions": 64, "vocab_size": 101}
PROMPT = [17, 4, 99, 23, 8, 8, 41, 60, 2, 77, 35, 50, 11, 90]
N_NEW = 40


@pytest.fixture(scope="module")
def generated():
    """14 tokens and 40 chosen ones, in float64."""
    model = random_model(5, **SHAPE)
    return model.generate(PROMPT, max_new_tokens=N_NEW, repetition_penalty=10.0, keep="*").finish()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(Hugging Face's output of generate, our Generated) of one checkpoint."""
    torch = needs.imported("torch")
    needs.imported("transformers")
    from support import hf

    theirs = hf.random_model(7, bos_token_id=None, eos_token_id=None, **SHAPE)
    folder = hf.save(theirs, tmp_path_factory.mktemp("notebook"))
    with torch.no_grad():
        output = theirs.double().generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            max_new_tokens=N_NEW,
            do_sample=False,
            repetition_penalty=10.0,
            return_dict_in_generate=True,
            output_attentions=True,
            output_hidden_states=True,
            pad_token_id=0,
        )
    ours = gpt2np.load(str(folder), dtype="float64").generate(
        PROMPT, max_new_tokens=N_NEW, repetition_penalty=10.0, eos=None, keep="*"
    )
    return output, ours.finish()


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_the_same_tokens(both):
    output, ours = both
    assert ours.token_ids == output.sequences[0].tolist()
    assert len(statistics.steps(ours)) == len(output.attentions) == N_NEW
    assert statistics.n_generated(ours) == statistics.n_generated(ours.trace) == N_NEW


def test_attention_as_in_the_notebook(both):
    output, ours = both
    table = statistics.attention_statistics(ours)
    assert table.array.shape == (N_NEW, 12, 6)
    for step in range(N_NEW):
        for layer in range(12):
            attention = output.attentions[step][layer][0]
            sums = attention.sum(dim=-1)
            expected = [f(x).item() for x in (attention, sums) for f in _TORCH]
            close(table.array[step, layer], expected)


def test_looks_of_heads_in_torch(both):
    import torch

    output, ours = both
    found = [f(ours).array for f in (statistics.entropy, statistics.distance, statistics.first_token)]
    saturated = statistics.saturation(ours, 0.5).array
    summary = statistics.attention_summary(ours, 0.5)
    assert summary.axes == ("step", "layer", "quantity")
    close(summary.array, np.stack([x.mean(axis=-1) for x in (*found, saturated)], axis=-1))
    assert 0 < saturated.mean() < 1
    for step in (0, 1, 39):
        for layer in (0, 7, 11):
            attention = output.attentions[step][layer][0]
            n_keys = attention.shape[-1]
            for head in range(12):
                rows = attention[head]
                close(found[0][step, layer, head], torch.special.entr(rows).sum(-1).mean().item())
                behind = [
                    sum((n_keys - len(rows) + q - k) * rows[q, k].item() for k in range(n_keys))
                    for q in range(len(rows))
                ]
                close(found[1][step, layer, head], np.mean(behind))
                close(found[2][step, layer, head], rows[:, 0].mean().item())
                share = (rows.max(dim=-1).values > 0.5).double().mean().item()
                close(saturated[step, layer, head], share)


def test_hidden_states_as_in_the_notebook(both):
    output, ours = both
    table = statistics.hidden_state_statistics(ours)
    assert table.array.shape == (N_NEW, 13, 4)
    for step in range(N_NEW):
        for layer in range(13):
            hidden = output.hidden_states[step][layer][0]
            found = hidden.mean(), hidden.std(), hidden.min(), hidden.max()
            close(table.array[step, layer], [f.item() for f in found])


@pytest.mark.parametrize(("step", "pos"), [(0, -1), (0, 0), (0, 5), (39, -1), (1, 0)])
def test_comparison_as_in_the_notebook(both, step, pos):
    import torch

    output, ours = both
    first, last = (output.hidden_states[step][layer][0, pos, :] for layer in (0, -1))
    cosine = torch.nn.functional.cosine_similarity(first.unsqueeze(0), last.unsqueeze(0)).item()
    expected = [torch.norm(first, p=2).item(), torch.norm(last, p=2).item(), cosine]
    close(statistics.layer_comparison(ours, step, pos).array, expected)
    if pos == -1:
        close(statistics.comparison_by_step(ours).array[step], expected)


def test_the_notebooks_own_tables(both):
    output, ours = both
    attention, hidden = output.attentions[0][0][0], output.hidden_states[0]
    text = baseline_notebook.attention_values(ours)
    for f, name in zip(_TORCH, ("Min", "Max", "Mean"), strict=True):
        assert f"  {name} value: {f(attention).item():.6f}\n" in text
        assert f"  {name} sum: {f(attention.sum(dim=-1)).item():.6f}" in text
    lines = ["Layer | Mean     | Std      | Min       | Max", "-" * 55]
    for layer in range(0, 12, 3):
        x = hidden[layer][0]
        lines.append(
            f"{layer:5d} | {x.mean().item():8.4f} | {x.std().item():8.4f} | "
            f"{x.min().item():9.4f} | {x.max().item():8.4f}"
        )
    assert "\n".join(lines) in baseline_notebook.hidden_values(ours)
    shapes = baseline_notebook.shapes(ours)
    for i in (0, 6, 11):
        assert f"  Layer {i:2d}: {list(output.attentions[0][i].shape)}" in shapes
        assert f"  Layer {i:2d}: {list(hidden[i].shape)}" in shapes


def _of(name):
    return lambda x: getattr(x, name)()


_TORCH = tuple(_of(name) for name in ("min", "max", "mean"))


# -- identities ----------------------------------------------------------------------------------


def test_identities(generated):
    table = statistics.attention_statistics(generated).array
    close(table[..., 3:], 1)
    keys = np.array([step.stop for step in statistics.steps(generated)])
    close(table[..., 2], np.repeat(1 / keys[:, None], 12, axis=1))  # rows sum to 1, whatever they attend to
    assert (table[0, :, 0] == 0).all()  # the future
    assert (table[1:, :, 0] > 0).all()  # a single query has none
    entropy = statistics.entropy(generated).array
    assert (entropy >= 0).all()
    assert (entropy <= np.log(keys)[:, None, None]).all()
    distance = statistics.distance(generated).array
    assert (distance >= 0).all()
    assert (distance <= keys[:, None, None] - 1).all()
    assert (statistics.saturation(generated, 1.0).array == 0).all()
    close(statistics.saturation(generated, 0.0).array, 1)


def test_uniform_attention_has_the_known_values():
    model = random_model(0, n_layer=1)
    c_attn = {name: weight * 0 for name, weight in model.weights.items() if "c_attn" in name}
    model = model.with_weights(c_attn)  # all scores are 0
    trace = model.trace([1, 2, 3, 4])
    ways = [1, 2, 3, 4]
    close(statistics.entropy(trace).array, np.mean(np.log(ways)))
    close(statistics.distance(trace).array, np.mean([0, 1 / 2, 1, 3 / 2]))
    close(statistics.first_token(trace).array, np.mean([1 / n for n in ways]))
    close(statistics.saturation(trace, 0.4).array, 2 / 4)
    assert statistics.attention_statistics(trace).array[0, 0].tolist() == pytest.approx(
        [0, 1, 1 / 4, 1, 1, 1]
    )


def test_hidden_states_are_those_of_hugging_face(generated):
    theirs = Dialect(generated.trace, "hf")["hidden_states"]
    ours = statistics.hidden_states(generated)
    assert len(ours) == len(theirs) == 13
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b[0])


def test_a_saved_trace_says_the_same(generated, tmp_path):
    generated.trace.save(tmp_path / "t.safetensors")
    trace = gpt2np.Trace.open(tmp_path / "t.safetensors")
    for f in (statistics.attention_statistics, statistics.saturation, statistics.hidden_state_statistics):
        assert np.array_equal(f(trace).array, f(generated).array)
    assert np.array_equal(
        statistics.comparison_by_step(trace).array, statistics.comparison_by_step(generated).array
    )


def test_a_text_is_one_step(tiny):
    trace = tiny.trace("Elizabeth was")
    assert statistics.steps(trace) == [range(3)]
    assert statistics.n_generated(trace) == 0
    assert statistics.entropy(trace).array.shape == (1, 4, 4)
    assert statistics.verdict(0.5) == "Different direction"
    assert statistics.verdict(0.51) == "Similar direction"


def test_one_token_is_enough(tiny):
    trace = tiny.trace([36])
    assert statistics.entropy(trace).array.max() == 0
    assert statistics.attention_statistics(trace).array.tolist() == [[[1.0] * 6] * 4]
    assert np.isfinite(statistics.hidden_state_statistics(trace).array).all()


def test_parts_of_tables(generated):
    table = statistics.attention_statistics(generated)
    row = statistics.pick(statistics.pick(table, "step", -1), "layer", 2)
    assert np.array_equal(row.array, table.array[39, 2])
    assert row.axes == ("statistic",)
    assert row.title == "attention, step 39, layer 2"
    some = statistics.every_nth(table, range(0, 12, 3))
    assert np.array_equal(some.array, table.array[:, ::3])
    assert list(some.labels["layer"]) == ["0", "3", "6", "9"]


def test_summary(generated, tiny):
    text = baseline_notebook.summary(generated)
    lines = dict(re.findall(r"^ *([^:\n]+): (.+)$", text, re.MULTILINE))
    assert lines["Layers"] == lines["Heads per layer"] == "12"
    assert lines["Hidden size"] == "48"
    assert lines["Prompt tokens"] == "14"
    assert lines["Generated tokens"] == lines["Total generation steps"] == "40"
    assert lines["Attention tensors per step"] == "12 layers"
    assert lines["Hidden state tensors per step"] == "13 layers"
    assert lines["Attention shape"] == "[1, 12, 14, 14]"
    assert lines["Hidden state shape"] == "[1, 14, 48]"
    n = generated.trace.model.n_parameters
    assert f"Total parameters: {n:,}" in baseline_notebook.architecture(generated)
    assert f"{tiny.n_parameters:,}" in baseline_notebook.architecture(tiny.trace("Elizabeth was"))
    assert "Prompt tokens: 3" in baseline_notebook.summary(tiny.trace("Elizabeth was"))


# -- wrong input ---------------------------------------------------------------------------------


def test_wrong_input(tiny, generated):
    with pytest.raises(TraceError, match="nothing was recorded"):
        statistics.entropy(tiny.generate("Elizabeth", max_new_tokens=2).finish())
    with pytest.raises(TraceError, match=r"h\.0\.attn\.pattern is not in this trace"):
        statistics.entropy(tiny.trace("Elizabeth was", keep="resid_post"))
    with pytest.raises(TraceError, match="embed is not in this trace"):
        statistics.hidden_states(tiny.trace("Elizabeth was", keep="attn.*"))
    last = tiny.trace("Elizabeth was", keep={"patterns": "*", "positions": slice(-1, None)})
    with pytest.raises(TraceError, match="every position"):
        statistics.hidden_states(last)
    for threshold in (-0.1, 1.5, math.nan):
        with pytest.raises(InputError, match="0 to 1"):
            statistics.saturation(generated, threshold)
    with pytest.raises(InputError, match="step 40 is not one of 0 to 39"):
        statistics.layer_comparison(generated, 40)
    with pytest.raises(InputError, match="position 1 is not one of 0 to 0"):
        statistics.layer_comparison(generated, 1, 1)
    with pytest.raises(InputError, match="layer 12 is not"):
        statistics.pick(statistics.entropy(generated), "layer", 12)
    trace = tiny.trace("Elizabeth was")
    for n_prompt in (0, 4, "2", True):
        trace.metadata["n_prompt"] = n_prompt
        with pytest.raises(TraceError, match="a prompt of"):
            statistics.steps(trace)
