"""Datasets whose prompts run packed, on one worker or several: the same files, whatever happens meanwhile."""

import itertools
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_checkpoint
from support.command_line import run
from support.killed_runs import contents, killed_at

import gpt2np
from gpt2np.capture.workers import Workers
from gpt2np.errors import InputError, TraceError
from gpt2np.kv import dataset_packs, extraction
from gpt2np.kv.dataset_packs import PACK_TOKENS, lengths_of, packs_of
from gpt2np.kv.dataset_prompts import Source
from gpt2np.kv.datasets import randoms, texts, write_dataset
from gpt2np.kv.extraction import predicted
from gpt2np.kv.reading import read_kv

FORMATS = (".json", ".safetensors")


@pytest.fixture(scope="module")
def model():
    return gpt2np.load("tiny")


@pytest.fixture(scope="module")
def sources(model):
    """Of some packs, the last of them not full."""
    words = ("Elizabeth", "was", "not", "the", "sort", "of", "person", "who")
    some = [" ".join(words[: 1 + i % len(words)] * (1 + i % 3)) + f" {i}" for i in range(50)]
    found = texts(some, model)
    assert 3 <= len(packs_of(found, lengths_of(model, found))) <= 6
    return found


@pytest.fixture(scope="module")
def whole(model, sources, tmp_path_factory):
    """The contents of a folder written without interruption, by format."""
    found = {}
    for suffix in FORMATS:
        folder = tmp_path_factory.mktemp("whole")
        assert all(new for _, new in write_dataset(model, sources, folder, suffix, workers=1))
        found[suffix] = contents(folder)
    return found


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=40))
def test_packs_are_neighbours_that_fit(prompts):
    lengths, found = [n for n, _ in prompts], [Source("a", special=special) for _, special in prompts]
    packs = packs_of(found, lengths)
    assert [number for pack in packs for number in pack] == list(range(len(prompts)))
    for pack in packs:
        assert len(pack) == 1 or sum(lengths[i] for i in pack) <= PACK_TOKENS
        assert len({found[i].special for i in pack}) == 1
    for one, other in itertools.pairwise(packs):  # none is cut short without need
        alike = found[one[0]].special == found[other[0]].special
        assert not alike or sum(lengths[i] for i in (*one, other[0])) > PACK_TOKENS


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_file_is_what_the_prompt_gives_alone(model, sources, whole, suffix, tmp_path):
    assert len(whole[suffix]) == len(sources) + 1
    for number, source in enumerate(sources):
        name = f"kv_{number:05}{suffix}"
        path = tmp_path / name
        path.write_bytes(whole[suffix][name])
        kv, alone = read_kv(path), model.trace(source.text)
        kv.check_digest(path)
        assert (kv.text, kv.token_ids, kv.tokens) == (source.text, alone.token_ids, alone.tokens)
        for layer, pair in enumerate(kv.layers):
            for site, array in zip(("attn.k", "attn.v"), pair, strict=True):
                expected = alone[f"h.{layer}.{site}"]
                assert np.abs(array - expected).max() <= 1e-5 * np.abs(expected).max()
        now, then = kv.prediction, predicted(alone, 5)
        assert now["token_id"] == then["token_id"]
        for one, other in zip(now["top_k_candidates"], then["top_k_candidates"], strict=True):
            assert one["token"] == other["token"]
            assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)


@pytest.mark.every(2)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "kind",
    [lambda: {"workers": 2}, lambda: {"executor": ThreadPoolExecutor(2)}, dict],
    ids=["workers", "threads", "default"],
)
def test_whoever_runs_it_the_bytes_are_the_same(model, sources, whole, tmp_path, suffix, kind):
    list(write_dataset(model, sources, tmp_path, suffix, **kind()))
    assert contents(tmp_path) == whole[suffix]


@pytest.mark.parametrize("n", [0, 1, 13, 49])
def test_a_run_that_stops_goes_on_to_the_same_bytes(model, sources, whole, tmp_path, n):
    entries = write_dataset(model, sources, tmp_path, ".safetensors")
    for _ in range(n):
        next(entries)
    entries.close()
    assert not list(tmp_path.glob(".*"))
    made = list(write_dataset(model, sources, tmp_path, ".safetensors"))
    assert [new for _, new in made] == [i >= n for i in range(len(sources))]
    assert contents(tmp_path) == whole[".safetensors"]


def test_files_that_were_deleted_are_made_again_as_they_were(model, sources, whole, tmp_path):
    list(write_dataset(model, sources, tmp_path, ".json"))
    for number in (0, 20, 21, 49):
        (tmp_path / f"kv_{number:05}.json").unlink()
    made = list(write_dataset(model, sources, tmp_path, ".json", workers=2))
    assert [i for i, (_, new) in enumerate(made) if new] == [0, 20, 21, 49]
    assert contents(tmp_path) == whole[".json"]


SCRIPT = """
import sys, gpt2np
from gpt2np.kv.datasets import texts, write_dataset
from pathlib import Path
model = gpt2np.load("tiny")
sources = texts({texts!r}, model)
for entry, new in write_dataset(model, sources, Path({folder!r}), ".safetensors", workers=2):
    if new:
        print(entry["file"], flush=True)
"""


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(model, sources, whole, tmp_path):
    script = SCRIPT.format(texts=[source.text for source in sources], folder=str(tmp_path))
    for number in (2, 30):
        killed_at(script, f"kv_{number:05}.safetensors")
        assert len(list(tmp_path.glob("kv_*"))) > number
    list(write_dataset(model, sources, tmp_path, ".safetensors"))
    assert contents(tmp_path) == whole[".safetensors"]


def test_workers_that_are_killed_cost_nothing_but_time(model, sources, whole, tmp_path):
    with Workers(2) as workers:
        for _ in write_dataset(model, sources, tmp_path, ".safetensors", executor=workers):
            for pid in workers.pids()[:1]:
                os.kill(pid, signal.SIGKILL)
            if len(list(tmp_path.glob("kv_*"))) > 3:
                break
        list(write_dataset(model, sources, tmp_path, ".safetensors", executor=workers))
    found = contents(tmp_path)  # a worker may leave what it was at when the first run was given up
    assert {name: x for name, x in found.items() if not name.startswith(".gpt2np-")} == whole[".safetensors"]


def test_an_unlisted_file_of_the_same_prompt_in_other_company_is_made_again(model, sources, whole, tmp_path):
    few = sources[30:]  # prompts run in other packs, so that the last bits differ
    list(write_dataset(model, few, tmp_path, ".safetensors"))
    before = contents(tmp_path)
    (tmp_path / "index.jsonl").write_bytes(before["index.jsonl"].splitlines(keepends=True)[0])
    (tmp_path / "kv_00001.safetensors").write_bytes(_with_other_bits(tmp_path / "kv_00001.safetensors"))
    list(write_dataset(model, few, tmp_path, ".safetensors"))
    assert contents(tmp_path) == before
    (tmp_path / "index.jsonl").write_bytes(before["index.jsonl"].splitlines(keepends=True)[0])
    (tmp_path / "kv_00001.safetensors").write_bytes(before["kv_00002.safetensors"])
    with pytest.raises(InputError, match=r"kv_00001\.safetensors: is there unlisted, and of something else"):
        list(write_dataset(model, few, tmp_path, ".safetensors"))


def _with_other_bits(path):
    """A file whose last number is another one."""
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    return bytes(content)


def test_one_pack_runs_on_as_many_threads_as_the_model_has(model, tmp_path, monkeypatch):
    given = []

    def write(model, *others):
        given.append(model)
        return dataset_packs.write_pack(model, *others)

    monkeypatch.setattr("gpt2np.kv.datasets.write_pack", write)
    few = texts(["one", "two"], model)
    for workers in (None, 2):
        list(write_dataset(model, few, tmp_path / str(workers), workers=workers))
    assert [who is model for who in given] == [True, True]


def test_what_was_written_before_a_failure_stays(model, sources, whole, tmp_path, monkeypatch):
    def full(trace, path, top_k):
        if path.name == "kv_00013.safetensors":
            raise TraceError(f"{path}: cannot be written (No space left on device)")
        return extraction.trace_to_file(trace, path, top_k)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_packs, "trace_to_file", full)
        with pytest.raises(TraceError, match="No space"):
            list(write_dataset(model, sources, tmp_path, ".safetensors", workers=1))
    assert len(list(tmp_path.iterdir())) == 14  # and the index
    list(write_dataset(model, sources, tmp_path, ".safetensors"))
    assert contents(tmp_path) == whole[".safetensors"]


def test_what_fails_names_the_file_by_the_name_that_it_would_have(model, sources, tmp_path, monkeypatch):
    def full(trace, path, top_k):
        raise TraceError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(dataset_packs, "trace_to_file", full)
    with pytest.raises(TraceError) as raised:
        list(write_dataset(model, sources, tmp_path, ".json", workers=1))
    assert str(raised.value) == f"{tmp_path}/kv_00000.json: cannot be written (No space left on device)"
    assert [path.name for path in tmp_path.iterdir()] == ["index.jsonl"]


def test_weights_that_no_file_has_are_refused_by_workers(model, sources, tmp_path):
    changed = model.with_weights({"wte.weight": model.weights["wte.weight"] * 2})
    with pytest.raises(InputError, match="with_weights"):
        next(write_dataset(changed, sources, tmp_path / "d", workers=2))
    assert not (tmp_path / "d").exists()
    assert len(list(write_dataset(changed, sources, tmp_path / "d", ".safetensors"))) == len(sources)


def test_a_model_that_is_another_one_by_now_is_refused_by_workers(sources, tmp_path):
    folder = tiny_checkpoint.write(tmp_path / "m")
    model = gpt2np.load(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()  # the mapped one lives on
    (folder / "model.safetensors").write_bytes(content[:-1] + b"?")
    with pytest.raises(gpt2np.Gpt2npError, match="is not the model any more that this run began with"):
        list(write_dataset(model, randoms(30, 0, True), tmp_path / "d", workers=2))


@pytest.mark.parametrize("suffix", [".txt", ".npz", ""])
def test_another_format(model, sources, tmp_path, suffix):
    with pytest.raises(InputError, match=r"must end in \.json or \.safetensors"):
        next(write_dataset(model, sources, tmp_path / "d", suffix))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("n", ["0", "-1", "x", "1.5", "", "1000"])
def test_wrong_numbers_of_workers(capsys, tmp_path, n):
    folder = tmp_path / "d"
    code, out, err = run(capsys, "kv", "dataset", "--output-dir", folder, f"--workers={n}")
    assert (code, out) == (2, "")
    assert "workers" in err.splitlines()[-1]
    assert not folder.exists()


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_command(capsys, tmp_path, model, sources, whole, workers):
    lines = tmp_path / "prompts.txt"
    lines.write_text("".join(f"{source.text}\n" for source in sources), "utf-8")
    folder = tmp_path / "d"
    code, out, _ = run(
        capsys, "kv", "dataset", "--text-file", lines, "--output-dir", folder, "--json", *workers
    )
    assert (code, json.loads(out)["written"]) == (0, len(sources))
    assert contents(folder) == whole[".json"]
