"""Document 001, the capture formats: all its commands and snippets in order, in one folder."""

import re
from pathlib import Path

import numpy as np
import pytest
from documents import capture_formats_steps as document
from support.document_models import write_gemma2
from support.document_reader import Reader

import gpt2np
from gpt2np.capture.capture_files import (
    INTERNAL_RESIDUAL,
    MLP,
    OF_INTERNALS,
    OF_RESIDUAL,
    PROJECTIONS,
    check_capture,
    save_capture,
)
from gpt2np.capture.formats import layer_internals, raw_residual
from gpt2np.tracing.contract import released

PAGE = (Path(gpt2np.__file__).parent / "docs" / "capture_formats.md").read_text("utf-8")


@pytest.mark.timeout(600)
@pytest.mark.needs("torch", "transformers")
def test_the_document_in_order(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2NP_MODEL", document.MODEL)  # as the page says
    write_gemma2(document.MODEL, hidden_size=document.WIDTH)
    vector = Path("experiments/my_exp/extraction/category/trait/vectors/probe_layer16.pt")
    vector.parent.mkdir(parents=True)
    torch.save(torch.randn(document.WIDTH, generator=torch.Generator().manual_seed(0)), vector)
    reader = Reader(capsys)
    for step in document.STEPS:
        reader.take(step)


def test_numbers_of_the_page():
    config = released("gpt2")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert rows["26 layers, 0 to 25"] == f"{config.n_layer}, 0 to {config.n_layer - 1}"
    assert rows["hidden dimension 2304"] == str(config.n_embd)
    assert rows["8 query heads, 4 key and value heads"].startswith(f"{config.n_head} heads")
    assert rows["MLP of 9216 dimensions"] == str(config.d_mlp)
    assert rows["default layer 16"] == str(config.n_layer // 2)


def test_megabytes_of_the_page(tmp_path):
    """Layer internals at GPT-2 small's shape: 12 heads, a prompt of 35 tokens, a response of 50."""
    n, new, rng = 35, 50, np.random.default_rng(0)
    pattern = rng.random((12, n + new - 1, n + new - 1), dtype="f4")
    prompt, response = ({"text": "a", "tokens": ["a"] * k, "token_ids": [1] * k} for k in (n, new))
    for group, names in (("attention", PROJECTIONS), ("mlp", MLP), ("residual", INTERNAL_RESIDUAL)):
        rows = {k: rng.random((n + new - 1, 3072 if k in ("up_proj", "gelu") else 768), "f4") for k in names}
        prompt[group] = {key: array[:n] for key, array in rows.items()}
        response[group] = {key: [a[i - 1 : i] for i in range(n, n + new)] for key, a in rows.items()}
        if group == "residual":
            response[group] = {key: array[n - 1 :, None] for key, array in rows.items()}
    prompt["attention"]["attn_weights"] = pattern[:, :n, :n]
    response["attention"]["attn_weights"] = [pattern[:, :i, :i] for i in range(n, n + new)]
    capture = {"prompt": prompt, "response": response}
    save_capture(capture, tmp_path / "a.pt")
    every = sum(array.nbytes for array in check_capture(capture, "a").values())
    assert f"{(tmp_path / 'a.pt').stat().st_size / 1e6:.1f} MB instead of {every / 1e6:.1f}" in PAGE


def shape(cell, sizes):
    """The shape that a cell of the page's tables says."""
    return tuple(eval(axis, {}, sizes) for axis in cell.strip("[]").split(", "))


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    return {4: tiny, 5: gpt2np.load(write_gemma2(tmp_path_factory.mktemp("tables") / "g"))}  # by column


@pytest.mark.parametrize("column", [4, 5])
def test_every_key_and_shape_of_the_tables(column, models):
    model, found = models[column], set()
    done = model.generate([5, 60, 7, 80], max_new_tokens=3, keep="*", eos=None).finish()
    sizes = {"N": 4, "n": 3, "kv_head": model.config.n_kv_head} | model.config.dims
    for capture, table in (
        (layer_internals(done, 2), "layer internals"),
        (raw_residual(done), "raw residual"),
    ):
        for key, prompt, response, _, *sites in document.TABLES[f"Keys of {table}"][1:]:
            values = [capture["prompt"], capture["response"]]
            place, site = key.strip("`").replace("L", "2"), sites[column - 4]
            for part in place.split("/"):
                values = [value[part] for value in values]
            assert values[0].shape == shape(prompt, sizes)
            entries = values[1] if response.startswith("list of ") else [values[1]]
            for i, entry in enumerate(entries):
                assert entry.shape == shape(response.removeprefix("list of "), sizes | {"i": i})
            name = site.split("`")[1].replace("L", "2")
            own = done.trace[name]
            own = own.mean(axis=0) if "mean" in site else own
            expected = own[..., :4, :4] if "pattern" in name else own[:4].reshape(4, -1)
            np.testing.assert_array_equal(values[0], expected)
            found.add(key.strip("`").replace("activations/L", "activations/i"))
    assert found == {place.replace("layer_i", "layer_L") for place in (*OF_INTERNALS, *OF_RESIDUAL)}
