"""Checkpoint names, HF's own modules by the names of the table, circuits, and the Hub id without weights."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import gpt_neo_checkpoint, needs
from support.command_line import run
from support.differences import relative_error

import gpt2np
from gpt2np import tensorfile
from gpt2np.analysis import circuits
from gpt2np.architectures.gpt_neo.sites import SITES
from gpt2np.errors import CheckpointError
from gpt2np.export.dialects import read_dialect, write_dialect

IDS = np.random.default_rng(2).integers(0, 300, 12).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return gpt_neo_checkpoint.write(tmp_path_factory.mktemp("neo") / "m", "GL", hidden_size=12, num_heads=3)


@pytest.fixture(scope="module")
def model(folder):
    return gpt2np.load(folder, dtype="float64")


def rewritten(folder, to, change):
    """The checkpoint with its tensors changed."""
    to.mkdir()
    (to / "config.json").write_text((folder / "config.json").read_text())
    tensorfile.save_tensors(to / "model.safetensors", change(load_file(folder / "model.safetensors")), {})
    return to


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
def test_masks_of_the_released_file_are_skipped_without_a_note(folder, model, tmp_path, dtype):
    def with_masks(tensors):
        for i in range(2):
            attention = f"transformer.h.{i}.attn.attention"
            tensors[f"{attention}.masked_bias"] = np.full((), -1e9, np.float32)
        tensors["transformer.h.0.attn.attention.bias"] = np.tri(8, dtype=dtype).reshape(1, 1, 8, 8)
        return tensors

    to = tmp_path / "m"
    shutil.copytree(folder, to)
    save_file(with_masks(load_file(folder / "model.safetensors")), to / "model.safetensors")
    found = gpt2np.load(to, dtype="float64")
    assert found.checkpoint.notes == ()
    np.testing.assert_array_equal(found(IDS), model(IDS))


def test_names_without_their_prefix_and_wrapped(folder, model, tmp_path):
    for i, change in enumerate(
        (
            lambda tensors: {n.removeprefix("transformer."): a for n, a in tensors.items()},
            lambda tensors: {f"_orig_mod.module.{n}": a for n, a in tensors.items()},
        )
    ):
        found = gpt2np.load(rewritten(folder, tmp_path / str(i), change), dtype="float64")
        np.testing.assert_array_equal(found(IDS), model(IDS))


def test_an_unembedding_of_its_own_wins(folder, model, tmp_path):
    def untied(tensors):
        return tensors | {"lm_head.weight": 2 * tensors["transformer.wte.weight"]}

    found = gpt2np.load(rewritten(folder, tmp_path / "m", untied), dtype="float64")
    assert relative_error(found(IDS), 2 * model(IDS)) < 1e-12
    assert found.n_parameters == model.n_parameters + 300 * 12


def test_gpt2_s_layout_is_refused_where_a_shape_tells(folder, tmp_path):
    def turned(tensors):
        name = "transformer.h.0.mlp.c_fc.weight"
        return tensors | {name: np.ascontiguousarray(tensors[name].T)}

    with pytest.raises(CheckpointError, match=r"looks transposed \(GPT-Neo's Linear stores \[n_out, n_in\]"):
        gpt2np.load(rewritten(folder, tmp_path / "m", turned))


def test_parameters_are_views_of_the_file(folder):
    model = gpt2np.load(folder)
    block = model.parameters.h[1]
    stored = model.weights["h.1.attn.attention.q_proj.weight"]
    for matrix, name in (
        (block.attn.q_proj, "attn.attention.q_proj"),
        (block.attn.out_proj.weight, "attn.attention.out_proj"),
        (block.mlp.c_fc.weight, "mlp.c_fc"),
        (block.mlp.c_proj.weight, "mlp.c_proj"),
    ):
        assert np.shares_memory(matrix, model.weights[f"h.1.{name}.weight"])
        np.testing.assert_array_equal(matrix, model.weights[f"h.1.{name}.weight"].T)
    assert not stored.flags.writeable


# -- names elsewhere --------------------------------------------------------------------------------


def test_hf_s_modules_give_the_sites_of_the_table(folder, model):
    torch = needs.imported("torch")
    needs.imported("transformers")
    from support.true_double import true_double
    from transformers import GPTNeoForCausalLM
    from transformers.models.gpt_neo import modeling_gpt_neo

    theirs = GPTNeoForCausalLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    found = {}

    def keep(name):
        def hook(_, inputs, output):
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name, module in theirs.named_modules():
        module.register_forward_hook(keep(name))
    with torch.no_grad(), true_double(modeling_gpt_neo):
        out = theirs(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True)
    trace, seen = model.trace(IDS), 0
    for name, site, layer in SITES.expand(2):
        for hf_name in site.names.get("hf", ()):
            module = hf_name.replace("{i}", str(layer))
            if module == "attentions":
                continue
            expected = found[module].detach().reshape(trace[name].shape).numpy()
            assert relative_error(trace[name], expected) < 1e-12, module
            assert trace[module] is trace[name]
            seen += 1
    assert seen == 5 + 2 * 13
    hf = trace.to("hf")
    for ours, of_hf in ((hf["hidden_states"], out.hidden_states), (hf["attentions"], out.attentions)):
        assert len(ours) == len(of_hf)
        for array, tensor in zip(ours, of_hf, strict=True):
            assert relative_error(array, tensor.numpy()) < 1e-12
    keys, values = hf["past_key_values"][1]  # HF's cache of a local layer keeps all of it, too
    assert relative_error(keys[0].swapaxes(0, 1), trace["h.1.attn.k"]) == 0
    assert values.shape == (1, 3, 12, 4)


def test_the_names_of_transformer_lens(model):
    trace = model.trace(IDS)
    for hook, site in {
        "hook_embed": "wte", "hook_pos_embed": "wpe", "blocks.1.hook_resid_pre": "h.1.resid_pre",
        "blocks.1.attn.hook_q": "h.1.attn.q", "blocks.1.attn.hook_k": "h.1.attn.k",
        "blocks.1.attn.hook_v": "h.1.attn.v", "blocks.1.attn.hook_attn_scores": "h.1.attn.scores",
        "blocks.1.attn.hook_pattern": "h.1.attn.pattern", "blocks.1.attn.hook_z": "h.1.attn.z",
        "blocks.1.attn.hook_result": "h.1.attn.heads", "blocks.1.hook_attn_out": "h.1.attn.out",
        "blocks.1.hook_resid_mid": "h.1.resid_mid", "blocks.1.ln2.hook_normalized": "h.1.ln_2.normalized",
        "blocks.1.mlp.hook_pre": "h.1.mlp.pre", "blocks.1.mlp.hook_post": "h.1.mlp.post",
        "blocks.1.hook_mlp_out": "h.1.mlp.out", "blocks.1.hook_resid_post": "h.1.resid_post",
        "ln_final.hook_normalized": "ln_f.normalized",
    }.items():  # fmt: skip
        np.testing.assert_array_equal(trace[hook], trace[site])
    exported = trace.to("transformer_lens")
    np.testing.assert_allclose(exported["blocks.1.ln1.hook_scale"][:, 0], 1 / trace["h.1.ln_1.rstd"])
    assert "attn.qkv" not in SITES
    with pytest.raises(gpt2np.Gpt2npError, match=r"no site is called 'h\.0\.attn\.qkv'"):
        trace["h.0.attn.qkv"]


@pytest.mark.parametrize("kind", ["npz", "json", "csv", "safetensors"])
@pytest.mark.parametrize("dialect", ["gpt2np", "hf", "transformer_lens"])
def test_every_kind_of_file_gives_back_what_was_written(model, tmp_path, kind, dialect):
    trace, path = model.trace(IDS), tmp_path / f"t.{kind}"
    n = write_dialect(trace, path, kind, dialect)
    if kind in ("json", "csv"):  # as text: the same numbers, digit by digit
        text = path.read_text("utf-8")
        assert f"{float(trace['h.1.attn.pattern'][2, 7, 6])!r}" in text
        return
    found = read_dialect(path, model)
    assert len(found.names()) == n or dialect != "gpt2np"
    for name in found.names():
        site, layer = SITES.resolve(name, None, 2)
        if not site.derived:
            assert relative_error(found[name], trace[site.full_name(layer)]) < 1e-12, name


# -- circuits: no biases of q, k and v, no scale ------------------------------------------------------


def test_a_head_s_matrices(model):
    trace = model.trace(IDS)
    for layer in range(2):
        for head in range(3):
            w = circuits.head_weights(model, layer, head)
            x = trace[f"h.{layer}.ln_1"]
            np.testing.assert_allclose(x @ w.W_Q, trace[f"h.{layer}.attn.q"][:, head], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(x @ w.W_K, trace[f"h.{layer}.attn.k"][:, head], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(x @ w.W_V, trace[f"h.{layer}.attn.v"][:, head], rtol=1e-10, atol=1e-12)
            assert not w.b_Q.any()
            assert not w.b_K.any()
            assert not w.b_V.any()
            scores = x @ w.qk @ x.T  # the whole score: nothing divides it, no bias is missing
            seen = np.isfinite(trace[f"h.{layer}.attn.scores"][head])
            np.testing.assert_allclose(scores[seen], trace[f"h.{layer}.attn.scores"][head][seen], rtol=1e-9)
            out = trace[f"h.{layer}.attn.pattern"][head] @ (x @ w.ov)
            np.testing.assert_allclose(out, trace[f"h.{layer}.attn.heads"][:, head], rtol=1e-9, atol=1e-12)
    total = trace["h.1.attn.heads"].sum(1) + model.weights["h.1.attn.attention.out_proj.bias"]
    np.testing.assert_allclose(total, trace["h.1.attn.out"], rtol=1e-10, atol=1e-12)


def test_scores_of_tokens_are_those_of_a_run_without_positions(model):
    flat = model.with_weights({"wpe.weight": np.zeros_like(model.weights["wpe.weight"])})
    scores = flat.trace(IDS)["h.0.attn.scores"]
    for head in range(3):
        found = circuits.token_scores(flat, 0, head, IDS).array
        seen = np.isfinite(scores[head])
        np.testing.assert_allclose(found[seen], scores[head][seen], rtol=1e-9, atol=1e-12)


# -- the command line, without weights ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["EleutherAI/gpt-neo-125M", "EleutherAI/gpt-neo-125m"])
def test_a_plan_needs_no_weights(capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(capsys, "plan", "14", "2048", "--model", name, "--json")
    assert (code, err) == (0, "")
    plans = json.loads(out)["plans"]
    n, d, layers = 14, 768, 12
    attention = 2 * 12 * n * n
    a_block = (10 * d + 2 * 4 * d) * n + attention
    assert plans[0]["bytes"] == 4 * (3 * d * n + layers * a_block + (d + 50257) * n)
    code, out, _ = run(capsys, "sites", "--model", name)
    assert code == 0
    assert "transformer.h.i.attn.attention.q_proj" in out
    assert "attn.qkv" not in out


@pytest.mark.parametrize("name", ["gpt-neo-125M", "gpt-neo-125m", "GPT-Neo-2.7B"])
def test_a_name_without_its_owner(name):
    with pytest.raises(gpt2np.Gpt2npError, match="did you mean EleutherAI/gpt-neo-"):
        gpt2np.load(name, local_files_only=True)
