"""KV files of an architecture that is not GPT-2's: fewer key heads than heads, a word on what keys are."""

import json

import numpy as np
import pytest
from support import made_up
from support.command_line import run
from support.random_model import random_model

import gpt2np
from gpt2np.errors import TraceError
from gpt2np.kv import datasets
from gpt2np.kv.extraction import GPT2KVCacheExtractor, extract_to_file
from gpt2np.kv.reading import read_kv
from gpt2np.kv.resume import load_kv

IDS = [3, 17, 17, 30, 0, 8, 3, 250, 9]  # longer than the window
SIZES = {
    "n_layers": 4, "n_heads": 4, "d_head": 6, "sequence_length": 9, "n_kv_heads": 2, "keys": "as computed",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(made_up.write(tmp_path_factory.mktemp("kv") / "m"))


@pytest.fixture(params=["json", "safetensors"])
def file(request, model, tmp_path):
    path = tmp_path / f"kv.{request.param}"
    assert extract_to_file(model, IDS, path)["metadata"] == SIZES
    return path


def test_a_file_holds_keys_and_values(model, file):
    kv, trace = read_kv(file), model.trace(IDS)
    assert (kv.n_layer, kv.n_head, kv.d_head, kv.n_query_head, kv.keys) == (4, 2, 6, 4, "as computed")
    for layer, (keys, values) in enumerate(kv.layers):
        np.testing.assert_array_equal(keys, trace[f"h.{layer}.attn.k"])
        np.testing.assert_array_equal(values, trace[f"h.{layer}.attn.v"])
        np.testing.assert_array_equal(kv[f"h.{layer}.attn.k"], keys)
    assert kv.token_ids == IDS
    assert kv.digest == kv.computed_digest()
    assert [row["head"] for row in kv.summary(1)] == [0, 1]
    assert len(list(kv.rows(kv.coordinates()))) == 4 * 2 * len(IDS)


def test_going_on_from_a_file(model, file):
    plain = model.generate(IDS, max_new_tokens=12).finish()
    cache = load_kv(file, model)
    assert cache.generate(max_new_tokens=12).finish().token_ids == plain.token_ids
    assert model.generate(IDS, max_new_tokens=12, past=cache).finish().token_ids == plain.token_ids
    more = model.generate([*IDS, 5, 6], max_new_tokens=4).finish()
    assert cache.generate([5, 6], max_new_tokens=4).finish().token_ids == more.token_ids
    for seed in range(3):
        options = {"max_new_tokens": 8, "temperature": 1.0, "seed": seed}
        one, other = (run_.finish().token_ids for run_ in (
            model.generate(IDS, **options), cache.generate(**options)))  # fmt: skip
        assert one == other


def test_the_extractor(model, tmp_path):
    extractor = GPT2KVCacheExtractor(model)
    result = extractor.extract_kv_cache(IDS)
    assert result["metadata"] == SIZES
    assert list(result["kv_cache"]["layer_1"]) == ["head_0", "head_1"]
    found = extractor.get_coordinate_kv(result, layer=1, head=1, token=4)
    np.testing.assert_array_equal(found["key"], model.trace(IDS)["h.1.attn.k"][4, 1])
    with pytest.raises(gpt2np.Gpt2npError, match="head 2 is not one of 0 to 1"):
        extractor.get_coordinate_kv(result, layer=1, head=2, token=4)
    extractor.save_to_json(result, tmp_path / "kv.json")
    assert load_kv(tmp_path / "kv.json", model).token_ids == IDS


def test_files_of_another_architecture(model, file, tmp_path):
    other = random_model(1, "float32", n_layer=4, n_head=2, n_embd=12, vocab_size=300)
    theirs = tmp_path / f"theirs{file.suffix}"
    extract_to_file(other, IDS, theirs)
    with pytest.raises(
        TraceError, match=r"does not say n_kv_heads and keys, so it is of a GPT-2, and .* made_up$"
    ):
        load_kv(theirs, model)
    with pytest.raises(TraceError, match=r"of another model: n_heads is 4, random has 2$"):
        load_kv(file, other)
    as_many = random_model(1, "float32", n_layer=4, n_head=4, n_embd=24, vocab_size=300)
    with pytest.raises(TraceError, match=r"of another model: n_kv_heads is 2, random has 4$"):
        load_kv(file, as_many)


def test_what_a_document_may_say_of_its_keys(model, tmp_path):
    path = tmp_path / "kv.json"
    extract_to_file(model, IDS, path)
    whole = json.loads(path.read_text("utf-8"))

    def refused(match, **changes):
        sizes = {k: v for k, v in (whole["metadata"] | changes).items() if v is not None}
        path.write_text(json.dumps(whole | {"metadata": sizes}), "utf-8")
        with pytest.raises(TraceError, match=match) as error:
            load_kv(path, model)
        assert "\n" not in str(error.value)

    rule = "metadata: expected n_kv_heads, which divides n_heads, and keys, or none of these"
    for changes in ({"keys": None}, {"n_kv_heads": None}, {"n_kv_heads": 3}, {"n_kv_heads": 0},
                    {"n_kv_heads": "2"}, {"n_kv_heads": True}, {"keys": 7}):  # fmt: skip
        refused(rule, **changes)
    refused("expected head_0 to head_3", n_kv_heads=None, keys=None)
    refused("of another model: keys is turned, .* has as computed", keys="turned")
    refused("of another model: n_heads is 2", n_heads=2)
    path.write_text(json.dumps(whole), "utf-8")
    assert load_kv(path, model).token_ids == IDS


def test_a_damaged_file(model, tmp_path):
    path = tmp_path / "kv.json"
    extract_to_file(model, IDS, path)
    whole = json.loads(path.read_text("utf-8"))
    whole["kv_cache"]["layer_1"]["head_1"]["tokens"][3]["value"][2] += 1
    for digest, why in ((whole["digest"], "not those of its digest"), (None, "comes out otherwise")):
        path.write_text(json.dumps(whole | {"digest": digest}), "utf-8")
        with pytest.raises(TraceError, match=why):
            load_kv(path, model)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_dataset(model, tmp_path, suffix):
    sources = datasets.randoms(3, 5)
    written = list(datasets.write_dataset(model, sources, tmp_path / "d", suffix))
    assert [new for _, new in written] == [True] * 3
    assert [new for _, new in datasets.write_dataset(model, sources, tmp_path / "d", suffix)] == [False] * 3
    for entry, _ in written:
        cache = load_kv(tmp_path / "d" / entry["file"], model)
        assert len(cache.token_ids) == entry["tokens"]


def test_the_verbs(model, file, tmp_path, capsys):
    argv = ("--model", str(model.checkpoint.folder))
    code, out, _ = run(
        capsys, "kv", "extract", "--tokens", "3,17,30", "--out", str(tmp_path / "x.json"), *argv
    )
    assert code == 0
    assert "4 layers, 4 heads, d_head 6" in out
    assert "of 2 heads, as computed" in out
    code, out, _ = run(
        capsys, "kv", "query", str(file), "--info", "--layer-summary", "1", "--coordinate", "1", "1", "4",
        "--search-norm", "0", "100", "key", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert found["info"]["metadata"] == SIZES
    assert len(found["layer_summary"]["heads"]) == 2
    assert found["search_norm"]["of"] == 4 * 2 * len(IDS)
    code, _, err = run(capsys, "kv", "query", str(file), "--coordinate", "1", "2", "4")
    assert (code, "head 2 is not one of 0 to 1" in err) == (2, True)
    folder = str(tmp_path / "d")
    code, out, _ = run(capsys, "kv", "dataset", "--random", "2", "--output-dir", folder, "--json", *argv)
    assert (code, json.loads(out)["written"]) == (0, 2)
