"""Document 003, the KV cache extractor: all its commands and snippets in order, in one folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from documents import kv_cache_extractor_steps as document
from support.document_models import write_model
from support.document_reader import Reader

import gpt2np
from gpt2np.kv.extraction import GPT2KVCacheExtractor, write_json
from gpt2np.kv.extraction import document as as_dict
from gpt2np.kv.queries import KV
from gpt2np.tracing.contract import released

PAGE = (Path(gpt2np.__file__).parent / "docs" / "kv_cache_extractor.md").read_text("utf-8")


@pytest.mark.timeout(300)
@pytest.mark.needs("torch", "transformers")
def test_the_document_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPT2NP_MODEL", "gpt2")  # as the page says
    write_model("gpt2")
    write_model("gpt2-medium", 1, n_layer=24, n_head=16, n_embd=64)
    reader = Reader(capsys)
    for step in document.STEPS:
        reader.take(step)


def value_at(result, path):
    for part in path.replace("[", ".").replace("]", "").split("."):
        result = result[int(part)] if part.isdecimal() else result[part]
    return result


def test_every_key_of_the_file(tiny, tmp_path):
    result = GPT2KVCacheExtractor(tiny).extract_kv_cache("Hello world")
    write_json(result, tmp_path / "kv.json")
    read = json.loads((tmp_path / "kv.json").read_text("utf-8"))
    for path in [*document.OUTPUT, *document.MORE]:
        assert type(value_at(read, path)) in (str, int, list)
    assert {path.partition(".")[0] for path in [*document.OUTPUT, *document.MORE]} == read.keys()
    trace = tiny.trace("Hello world")
    for part in ("key", "value"):
        vector = value_at(read, f"kv_cache.layer_0.head_0.tokens[0].{part}")
        assert np.array_equal(np.float32(vector), trace[f"h.0.attn.{part[0]}"][0, 0])


def test_numbers_of_the_page():
    config = released("gpt2")
    assert f"{config.n_parameters:,}: `gpt2np info" in PAGE
    assert f"{config.n_layer} layers x 2 x {config.n_embd} numbers" in PAGE


def test_bytes_of_a_token(tmp_path):
    """The erratum: 0.6 MB is a token as `json.dump(indent=2)` writes it at GPT-2 small's shape."""
    layers, heads, d_head = 12, 12, 64
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.normal(size=(1, heads, d_head)).astype("f4") for _ in "kv") for _ in range(layers)]
    kv = KV("gpt2", ["a"], pairs, "a", [64])
    result = as_dict(kv, "a")
    write_json(result, tmp_path / "kv.json")
    ours, theirs = (tmp_path / "kv.json").stat().st_size, len(json.dumps(result, indent=2))
    assert kv.nbytes == 73_728
    assert f"{kv.nbytes:,} bytes" in PAGE
    assert 0.6e6 < theirs < 0.7e6
    assert 0.18e6 < ours < 0.22e6
