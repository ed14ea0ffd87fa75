"""Document 001, the capture formats: all its commands and snippets in order, in one folder."""

from pathlib import Path

import numpy as np
import pytest
from documents import capture_formats_steps as document
from support.document_models import write_model
from support.document_reader import Reader

from gpt2np.capture.capture_files import PLACES
from gpt2np.capture.formats import layer_internals, raw_residual


@pytest.mark.timeout(300)
@pytest.mark.needs("torch", "transformers")
def test_the_document_in_order(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2NP_MODEL", document.MODEL)  # as the page says
    write_model(document.MODEL, n_layer=document.LAYERS, n_head=document.HEADS, n_embd=document.WIDTH)
    vector = Path("experiments/my_exp/extraction/category/trait/vectors/probe_layer16.pt")
    vector.parent.mkdir(parents=True)
    torch.save(torch.randn(document.WIDTH, generator=torch.Generator().manual_seed(0)), vector)
    reader = Reader(capsys)
    for step in document.STEPS:
        reader.take(step)


def shape(cell, sizes):
    """The shape that a cell of the page's tables says."""
    return tuple(eval(axis, {}, sizes) for axis in cell.strip("[]").split(", "))


def test_every_key_and_shape_of_the_tables(tiny):
    done = tiny.generate("Elizabeth was not", max_new_tokens=3, keep="*").finish()
    sizes = {"N": 4, "n": 3, "n_embd": 192, "d_mlp": 768, "head": 4}
    found = set()
    for capture, table in (
        (layer_internals(done, 2), "layer internals"),
        (raw_residual(done), "raw residual"),
    ):
        for key, prompt, response, _, site in document.TABLES[f"Keys of {table}"][1:]:
            values = [capture["prompt"], capture["response"]]
            place = key.strip("`").replace("L", "2")
            for part in place.split("/"):
                values = [value[part] for value in values]
            assert values[0].shape == shape(prompt, sizes)
            entries = values[1] if response.startswith("list of ") else [values[1]]
            for i, entry in enumerate(entries):
                assert entry.shape == shape(response.removeprefix("list of "), sizes | {"i": i})
            name = site.split("`")[1].replace("L", "2")
            own = done.trace[name]
            own = own.mean(axis=0) if "mean" in site else own
            if "pattern" in name:
                own = own[..., :4, :4]
            assert np.array_equal(
                values[0], own[..., :4, :4] if "pattern" in name else own[:4].reshape(4, -1)
            )
            found.add((name.removeprefix("h.2."), key.strip("`").replace("activations/L", "activations/i")))
    assert found == {
        (site, p.replace("layer_i", "layer_L")) for site, places in PLACES.items() for p in places
    }
