"""Activation patching: a sweep equals the loop that it spares, paths are what they say."""

import sys

import numpy as np
import pytest
from support.random_model import random_model

import gpt2np
from gpt2np.analysis import patching as sweeping
from gpt2np.analysis.interventions import patch, zero
from gpt2np.analysis.patching import logit_difference, path_patch, sweep
from gpt2np.errors import InputError, TraceError, UnknownSiteError
from gpt2np.tracing.derived import head_outputs

CLEAN, CORRUPT = [3, 1, 4, 1, 5, 9, 2], [3, 1, 4, 7, 5, 9, 2]
METRIC = logit_difference(5, 11)
BY_HEAD = ["attn.z", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern"]
BY_POSITION = [
    "ln_1",
    "attn.qkv",
    "attn.out",
    "resid_mid",
    "ln_2",
    "mlp.pre",
    "mlp.post",
    "mlp.out",
    "resid_post",
]
NOISE = {"float32": 1e-5, "float64": 1e-10}


@pytest.fixture(scope="module", params=["float64", "float32"])
def model(request):
    return random_model(dtype=request.param, n_layer=3)


@pytest.fixture(scope="module")
def runs(model):
    return model.trace(CLEAN), model.trace(CORRUPT)


def close(found, expected, model):
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=NOISE[model.dtype.name] * scale)


def loop(model, clean, site, by, n):
    """One run for every layer and head, or position."""
    return [
        [
            METRIC(model(CORRUPT, last=True, edits={f"h.{layer}.{site}": patch(clean, **{by: i})}))
            for i in range(n)
        ]
        for layer in range(3)
    ]


@pytest.mark.parametrize("site", BY_HEAD)
def test_heads_equal_the_loop(model, runs, site):
    found = sweep(*runs, METRIC, f"h.*.{site}")
    assert found.axes == ("layer", "head")
    expected = np.array(loop(model, runs[0], site, "heads", 2))
    close(found.array, expected, model)
    assert np.ptp(expected) > 0.1


@pytest.mark.every(3)
@pytest.mark.parametrize("site", BY_POSITION)
@pytest.mark.parametrize("rows", [1024, 20, 1])
def test_positions_equal_the_loop(model, runs, site, rows, monkeypatch):
    monkeypatch.setattr(sweeping, "ROWS_A_PASS", rows)
    found = sweep(*runs, METRIC, site)
    assert found.axes == ("layer", "pos")
    close(found.array, np.array(loop(model, runs[0], site, "positions", 7)), model)
    assert found.label("pos", 3) == "3 |<1>|/|<7>|"
    assert found.label("pos", 4) == "4 |<5>|"


def test_heads_by_position_and_some_layers(model, runs):
    whole = np.array(loop(model, runs[0], "attn.z", "positions", 7))
    close(sweep(*runs, METRIC, "attn.z", by="pos").array, whole, model)
    some = sweep(*runs, METRIC, "blocks.[12].attn.hook_z", by="pos")
    assert [some.label("layer", i) for i in range(2)] == ["1", "2"]
    close(some.array, whole[1:], model)
    close(sweep(*runs, METRIC, "h.1.attn.z", by="pos").array, whole[1:2], model)


def test_prompts_instead_of_traces(tiny):
    clean, corrupt = "Elizabeth was very", "Catherine was very"
    found = sweep(clean, corrupt, METRIC, model=tiny).array
    same = sweep(tiny.trace(clean), tiny.trace(corrupt), METRIC).array
    np.testing.assert_allclose(found, same, atol=1e-4)
    elsewhere = sweep(clean, corrupt, METRIC, "blocks.*.attn.hook_z", model=tiny).array
    np.testing.assert_array_equal(elsewhere, found)
    one, other = (
        path_patch(clean, corrupt, METRIC, sender, "blocks.2.attn.hook_q", model=tiny)
        for sender in ("h.0.attn.z", "blocks.0.attn.hook_z")
    )
    assert one == other


def test_patching_what_is_the_same_changes_nothing(model, runs):
    clean, corrupt = runs
    plain = METRIC(corrupt["logits"][-1])
    close(sweep(corrupt, corrupt, METRIC).array, np.full((3, 2), plain), model)
    found = sweep(clean, corrupt, METRIC, "resid_post").array
    close(found[:, :3], np.full((3, 3), plain), model)  # the texts differ from position 3 on
    assert found[-1, -1] == pytest.approx(METRIC(clean["logits"][-1]), rel=1e-4)
    close(found[-1, :-1], np.full(6, plain), model)


# -- direct paths -------------------------------------------------------------------------------------


def through_the_end(model, residual):
    x = residual - residual.mean()
    p = model.parameters.ln_f
    x = x / np.sqrt((x**2).mean() + p.epsilon) * p.weight + p.bias
    return METRIC(model.parameters.lm_head @ x)


def test_direct_effect_of_heads(model, runs):
    clean, corrupt = runs
    found = sweep(clean, corrupt, METRIC, direct=True).array
    for layer in range(3):
        name, weight = f"h.{layer}.attn.z", model.parameters.h[layer].attn.c_proj.weight
        written = [head_outputs(trace[name], weight)[-1] for trace in runs]
        for head in range(2):
            residual = corrupt["h.2.resid_post"][-1] + written[0][head] - written[1][head]
            close(found[layer, head], through_the_end(model, residual), model)


@pytest.mark.parametrize("site", [s for s in sweeping.DIRECT if s != "attn.z"])
def test_direct_effect_of_what_has_no_heads(model, runs, site):
    """Every later component frozen by edits gives the same."""
    clean, corrupt = runs
    found = sweep(clean, corrupt, METRIC, site, direct=True).array
    for layer in range(3):
        expected = path_patch(clean, corrupt, METRIC, f"h.{layer}.{site}", "ln_f")
        close(found[layer, -1], expected, model)
        close(found[layer, :-1], np.full(6, METRIC(corrupt["logits"][-1])), model)


def test_direct_by_position_sums_the_heads(model, runs):
    found = sweep(*runs, METRIC, "attn.z", by="pos", direct=True).array
    close(found, sweep(*runs, METRIC, "attn.out", direct=True).array, model)


def test_in_the_last_layer_an_mlp_has_only_its_direct_path(model, runs):
    whole, direct = (sweep(*runs, METRIC, "mlp.out", direct=d).array[-1] for d in (False, True))
    close(whole, direct, model)


# -- paths between two sites --------------------------------------------------------------------------


def test_a_path_to_the_end_is_the_direct_effect(model, runs):
    direct = sweep(*runs, METRIC, direct=True).array
    for layer in range(3):
        for head in range(2):
            found = path_patch(*runs, METRIC, f"h.{layer}.attn.z", "ln_f", sender_heads=head)
            close(found, direct[layer, head], model)


@pytest.mark.parametrize(
    ("sender", "receivers"),
    [
        ("h.0.attn.z", "h.0.attn.out"),
        ("h.1.attn.z", "h.1.resid_mid"),
        ("h.1.mlp.post", "h.1.resid_post"),
        ("h.0.ln_1", ["h.0.attn.q", "h.0.attn.k", "h.0.attn.v"]),
        ("h.2.ln_1", "h.2.attn.qkv"),
        ("h.2.attn.q", "h.2.attn.pattern"),
    ],
)
def test_all_paths_together_are_the_site_itself(model, runs, sender, receivers):
    expected = METRIC(model(CORRUPT, last=True, edits={sender: patch(runs[0])}))
    close(path_patch(*runs, METRIC, sender, receivers), expected, model)


@pytest.mark.parametrize("sender_head", [0, 1])
@pytest.mark.parametrize("receiver_head", [0, 1])
def test_a_path_from_a_head_to_another_heads_query(model, runs, sender_head, receiver_head):
    """The receiver by hand: one head's query reads the corrupt residual stream plus what the sender adds."""
    corrupt = runs[1]
    block = model.parameters.h[2]
    weight = model.parameters.h[0].attn.c_proj.weight
    written = [head_outputs(trace["h.0.attn.z"], weight)[:, sender_head] for trace in runs]
    x = corrupt["h.2.resid_pre"] + written[0] - written[1]
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + block.ln_1.epsilon) * block.ln_1.weight + block.ln_1.bias
    q = (x @ block.attn.c_attn.weight + block.attn.c_attn.bias)[:, :16].reshape(7, 2, 8)

    def edit(array):
        array[:, receiver_head] = q[:, receiver_head]
        return array

    expected = METRIC(model(CORRUPT, last=True, edits={"h.2.attn.q": edit}))
    heads = {"sender_heads": sender_head, "receiver_heads": receiver_head}
    found = path_patch(*runs, METRIC, "h.0.attn.z", "h.2.attn.q", **heads)
    close(found, expected, model)
    assert abs(expected - METRIC(corrupt["logits"][-1])) > 5e-5


def test_the_two_ways_on_from_the_embedding(model, runs):
    """Into the first attention, and past it along the residual stream."""
    clean, corrupt = runs
    past = clean["embed"] + corrupt["h.0.attn.out"]
    edits = {"h.0.attn.qkv": patch(clean), "h.0.resid_mid": lambda _: past}
    found = path_patch(*runs, METRIC, "embed", ["h.0.attn.qkv", "h.0.resid_mid"])
    close(found, METRIC(model(CORRUPT, last=True, edits=edits)), model)


def test_a_path_that_carries_nothing(model, runs):
    plain = METRIC(runs[1]["logits"][-1])
    close(path_patch(runs[1], runs[1], METRIC, "h.0.attn.z", "h.2.attn.q"), plain, model)
    nowhere = path_patch(*runs, METRIC, "h.0.attn.z", "h.2.attn.q", sender_positions=[0, 1, 2])
    close(nowhere, plain, model)
    close(path_patch(*runs, METRIC, "h.0.mlp.out", "h.2.attn.k", receiver_positions=[]), plain, model)


# -- what is refused ----------------------------------------------------------------------------------


def test_refused(model, runs):
    clean, corrupt = runs
    longer = model.trace([*CLEAN, 1])
    for call, error, message in (
        (lambda: sweep(longer, corrupt, METRIC), InputError, "clean has 8 tokens and corrupt 7"),
        (lambda: path_patch(longer, corrupt, METRIC, "embed", "ln_f"), InputError, "8 tokens and corrupt 7"),
        (lambda: sweep(CLEAN, CORRUPT, METRIC), InputError, "say model="),
        (lambda: sweep(clean, corrupt, METRIC, "attn.*"), InputError, "one site"),
        (lambda: sweep(clean, corrupt, METRIC, "embed"), InputError, "one site of the layers"),
        (lambda: sweep(clean, corrupt, METRIC, "attn.heads"), InputError, "derived"),
        (lambda: sweep(clean, corrupt, METRIC, "attn.zz"), UnknownSiteError, "attn.zz"),
        (lambda: sweep(clean, corrupt, METRIC, "mlp.out", by="head"), InputError, "mlp.out goes by pos"),
        (lambda: sweep(clean, corrupt, METRIC, by="layer"), InputError, "by='layer'"),
        (lambda: sweep(clean, corrupt, METRIC, "attn.q", direct=True), InputError, "not written"),
        (lambda: sweep(clean, corrupt, lambda logits: logits), InputError, "must be one number"),
        (lambda: sweep(clean, model.trace(CORRUPT, keep="attn.z"), METRIC), TraceError, "embed"),
        (lambda: sweep(clean, model.trace(CORRUPT, edits={"attn.z": zero()}), METRIC), InputError, "edits"),
        (
            lambda: sweep(clean, model.trace(CORRUPT, keep={"positions": slice(2)}), METRIC),
            InputError,
            "corrupt must be a trace of all positions",
        ),
        (lambda: sweep(random_model(n_layer=1).trace(CLEAN), corrupt, METRIC), InputError, "another model"),
        (
            lambda: path_patch(clean, corrupt, METRIC, "h.2.attn.z", "h.1.attn.q"),
            InputError,
            "not come before",
        ),
        (lambda: path_patch(clean, corrupt, METRIC, "attn.z", "ln_f"), InputError, "one site"),
        (lambda: path_patch(clean, corrupt, METRIC, "h.1.attn.z", []), InputError, "at least one other"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_progress_goes_to_stderr_and_only_to_a_terminal_or_when_asked(runs, capsys, monkeypatch):
    sweep(*runs, METRIC)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sweep(*runs, METRIC)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "/6 [" in captured.err
    sweep(*runs, METRIC, progress=False)
    assert capsys.readouterr() == ("", "")
    sweep(*runs, METRIC, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "/6 [" in captured.err


# -- against torch ------------------------------------------------------------------------------------


@pytest.mark.needs("torch", "transformers")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_patching_heads_equals_hooks_on_hf(dtype, tmp_path):
    import torch
    from support import hf

    theirs = hf.random_model(5, n_layer=3, n_head=4, n_embd=32, n_positions=32, vocab_size=60)
    model = gpt2np.load(hf.save(theirs, tmp_path / "model"), dtype=dtype)
    theirs = theirs.to(getattr(torch, dtype))
    found = sweep(CLEAN, CORRUPT, METRIC, model=model).array
    clean = hf.capture(theirs, CLEAN)
    expected = np.empty((3, 4))
    for layer in range(3):
        c_proj = theirs.transformer.h[layer].attn.c_proj
        for head in range(4):
            columns = slice(8 * head, 8 * head + 8)
            z = torch.from_numpy(clean[f"h.{layer}.attn.z"][:, head].copy())

            def put(_, inputs, columns=columns, z=z):
                x = inputs[0].clone()
                x[0, :, columns] = z
                return (x,)

            hook = c_proj.register_forward_pre_hook(put)
            with torch.no_grad():
                expected[layer, head] = METRIC(theirs(torch.tensor([CORRUPT])).logits[0, -1].numpy())
            hook.remove()
    close(found, expected, model)
    assert np.ptp(expected) > 0.1


def test_several_receivers_do_not_reach_each_other(tiny64):
    clean, corrupt = "Elizabeth was very happy to see", "Catherine was very happy to see"
    ids = tiny64.token_ids(clean), tiny64.token_ids(corrupt)
    n = min(map(len, ids))
    runs = [tiny64.trace(i[-n:]) for i in ids]
    metric = logit_difference(5, 6)
    sender, receivers = "h.0.attn.z", ["h.1.mlp.out", "h.2.attn.q"]
    writes = [f"h.{layer}.{part}.out" for layer in range(4) for part in ("attn", "mlp")]
    arrived = {}
    for receiver, before in zip(receivers, (["h.1.attn.out"], writes[2:4]), strict=True):
        frozen = {name: patch(runs[1]) for name in ("h.0.mlp.out", *before)}
        edits = {sender: patch(runs[0])} | frozen
        arrived[receiver] = patch(tiny64.trace(runs[1].token_ids, keep=receiver, edits=edits))
    expected = metric(tiny64(runs[1].token_ids, last=True, edits=arrived))
    assert path_patch(*runs, metric, sender, receivers) == pytest.approx(expected, abs=1e-10)


def test_a_trace_of_other_weights_is_refused(tiny64):
    name = "h.1.mlp.c_proj.weight"
    other = tiny64.with_weights({name: tiny64.weights[name] * 0.3})
    runs = tiny64.trace("Elizabeth was"), other.trace("Elizabeth is")
    with pytest.raises(InputError, match="another model"):
        sweep(*runs, logit_difference(5, 6), model=tiny64)


@pytest.mark.parametrize("token", ["a", -1, 1.5, True])
def test_logit_difference_takes_ids(token):
    with pytest.raises(InputError, match="must be a whole number"):
        logit_difference(token, 3)


def test_a_metric_that_is_none(tiny):
    for metric in ("x", lambda logits: logits, logit_difference(5, 99999)):
        with pytest.raises(InputError, match="metric"):
            sweep("Elizabeth was", "Elizabeth is", metric, model=tiny)


# -- paths from everywhere to one site ----------------------------------------------------------------


def test_a_sweep_of_paths_equals_the_loop(model, runs):
    found = sweeping.path_sweep(*runs, METRIC, "h.2.attn.q", receiver_heads=1)
    assert found.axes == ("layer", "head")
    assert found.labels["layer"] == ["0", "1"]  # layer 2 writes after its own queries
    for layer in range(2):
        for head in range(2):
            options = {"sender_heads": head, "receiver_heads": 1}
            expected = path_patch(*runs, METRIC, f"h.{layer}.attn.z", "h.2.attn.q", **options)
            assert found.array[layer, head] == expected
    assert np.ptp(found.array) > 1e-4
    by_position = sweeping.path_sweep(CLEAN, CORRUPT, METRIC, ["ln_f"], "mlp.out", model=model)
    assert by_position.array.shape == (3, 7)
    assert by_position.labels["pos"][3].startswith("3 ")
    direct = sweep(*runs, METRIC, "mlp.out", direct=True)
    close(by_position.array, direct.array, model)  # to ln_f is to the prediction itself


def test_a_sweep_of_paths_refuses(runs):
    for receiver, over, message in (
        ("h.0.attn.q", "attn.z", "no layer of 'attn.z' comes before h.0.attn.q"),
        ("h.1.attn.q", "embed", "one site of the layers"),
        ("h.1.attn.nothing", "attn.z", "no site is called"),
        ([], "attn.z", "at least one receiver"),
    ):
        with pytest.raises((InputError, UnknownSiteError), match=message):
            sweeping.path_sweep(*runs, METRIC, receiver, over)


@pytest.mark.parametrize("which", ["sender_positions", "receiver_positions"])
@pytest.mark.parametrize("positions", [7, [0, 99], slice(7, None)])
def test_positions_beyond_the_text_are_refused(runs, which, positions):
    with pytest.raises(InputError, match="the text has 7 tokens, there is no position"):
        path_patch(*runs, METRIC, "h.0.attn.z", "h.2.attn.q", **{which: positions})
