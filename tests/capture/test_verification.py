"""Checking captured prompts: damaged shards are named, other models refused, noise told from change."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from support.captured_folder import write_captured
from support.command_line import run
from support.random_model import random_model

import gpt2np
from gpt2np.capture import open_capture, verification
from gpt2np.errors import InputError, VerificationError

TEXTS = ["Elizabeth was", "Mr. Darcy walked to the", "It is a truth", "She", "Where is he now?", "No."]
KEEP = ["resid_post", "attn.pattern", "attn.scores", "top_k_tokens", "loss"]


@pytest.fixture
def folder(tiny, tmp_path):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, per_shard=2)
    return tmp_path / "caps"


def changed(folder, number, name, at, by, relist=True):
    """The folder with one value of a site changed in a shard, and its hash as if it had been captured so."""
    path = folder / f"shard_{number:05}.safetensors"
    with open_capture(folder).shards.open(number).path.open("r+b") as file:
        content = bytearray(file.read())
        header = int.from_bytes(content[:8], "little")
        begin, end = json.loads(content[8 : 8 + header])[name]["data_offsets"]
        dtype = open_capture(folder).manifest.sites[name].dtype
        values = np.frombuffer(content, dtype, (end - begin) // dtype.itemsize, 8 + header + begin).copy()
        values[at] = by(values[at])
        content[8 + header + begin : 8 + header + end] = values.tobytes()
        file.seek(0)
        file.write(content)
    if relist:
        rows = [json.loads(line) for line in (folder / "shards.jsonl").read_text().splitlines()]
        rows[number]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "shards.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("store", ["float16", "float32", "float64"])
def test_a_capture_is_what_its_prompts_give_again(tiny, tmp_path, store):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, store=store, per_shard=2)
    captured = open_capture(tmp_path / "caps")
    for found in (captured.verify(), captured.verify(tiny, sample=100)):
        assert found.shards == 3
        assert found.prompts == tuple(range(6))
        assert found.difference < 1e-5
        assert "6 prompts run again: " in str(found)
    assert captured.verify(sample=3).prompts == (0, 2, 5)
    hashes = captured.verify(sample=0)
    assert hashes.prompts == ()
    assert (hashes.identical, hashes.difference) == (None, None)
    assert str(hashes) == "3 shards: every hash is right; no prompt was run again"


def test_an_unfinished_capture_is_checked_as_far_as_it_goes(tiny, tmp_path):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, per_shard=2, finish=[2])
    with pytest.warns(UserWarning, match="1 of 3"):
        found = open_capture(tmp_path / "caps").verify(tiny)
    assert (found.shards, found.unfinished, found.prompts) == (1, 2, (4, 5))
    assert str(found).startswith("1 shard: every hash is right; 2 more to be made; 2 prompts run again")


def test_a_damaged_shard_is_named(folder, tiny):
    changed(folder, 1, "h.0.resid_post", 5, lambda x: x + 1, relist=False)
    with pytest.raises(
        VerificationError, match=r"shard_00001\.safetensors: is damaged: its SHA-256"
    ) as caught:
        open_capture(folder).verify(tiny, sample=0)
    assert "more shard" not in str(caught.value)
    (folder / "shard_00002.safetensors").unlink()
    with pytest.raises(VerificationError, match=r"00001.*; and 1 more shard: shard_00002\.safetensors$"):
        open_capture(folder).verify(tiny)


@pytest.mark.parametrize("name", ["h.2.resid_post", "h.1.attn.pattern", "loss"])
def test_a_value_that_the_model_does_not_give_is_found(folder, tiny, name):
    changed(folder, 1, name, 0, lambda x: x + 0.01)
    with pytest.raises(
        VerificationError, match=rf"shard_00001\.safetensors: {name} of prompt 2 is another"
    ) as caught:
        open_capture(folder).verify(tiny)
    assert "\n" not in str(caught.value)


def test_noise_is_no_damage(folder, tiny):
    changed(folder, 0, "h.2.resid_post", slice(None), lambda x: x * np.float32(1 + 3e-7))
    found = open_capture(folder).verify(tiny)
    assert not found.identical
    assert 0 < found.difference < 1e-5
    assert "within noise (largest difference " in str(found)


def test_half_precision_hides_no_more_than_its_rounding(tiny, tmp_path):
    write_captured(tiny, TEXTS, tmp_path / "caps", "resid_post", store="float16", per_shard=2)
    changed(tmp_path / "caps", 0, "h.2.resid_post", 0, lambda x: x + np.spacing(x))
    with pytest.raises(VerificationError, match=r"h\.2\.resid_post of prompt 0"):
        open_capture(tmp_path / "caps").verify(tiny)


def test_of_another_model(folder, tiny64):
    with pytest.raises(InputError, match="was captured from 'tiny' of another config than random"):
        open_capture(folder).verify(random_model())
    with pytest.raises(InputError, match="was captured in float32; load tiny with dtype='float32'"):
        open_capture(folder).verify(tiny64)


def test_of_other_weights(folder, tiny, monkeypatch):
    weights = {"h.1.mlp.c_proj.bias": tiny.weights["h.1.mlp.c_proj.bias"] + np.float32(0.01)}
    captured, other = open_capture(folder), tiny.with_weights(weights)
    with pytest.raises(InputError, match="with other weights than"):
        captured.verify(other)
    monkeypatch.setattr(verification, "is_same_model", lambda then, now: True)
    with pytest.raises(VerificationError, match=r"h\.1\.resid_post of prompt 0 is another"):
        captured.verify(other)


@pytest.mark.parametrize("sample", [-1, 1.5, "3", True])
def test_samples_that_are_none(folder, sample):
    with pytest.raises(InputError, match="sample="):
        open_capture(folder).verify(sample=sample)


# -- gpt2np info --------------------------------------------------------------------------------------------


def test_info_of_a_capture(capsys, folder):
    code, out, err = run(capsys, "info", str(folder))
    assert (code, err) == (0, "")
    assert "a capture of many prompts" in out
    assert "22 arrays" not in out
    facts = json.loads(run(capsys, "info", str(folder), "--json")[1])
    captured = open_capture(folder)
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert (facts["prompts"], facts["rows"], facts["shards"], facts["finished"]) == (6, captured.n_rows, 3, 3)
    arrays = {array["name"]: array for array in facts["arrays"]}
    assert list(arrays) == captured.names
    assert arrays["h.0.resid_post"]["shape"] == [captured.n_rows, 192]
    assert arrays["h.0.attn.pattern"]["shape"] == [4 * sum(len(captured.token_ids(i)) ** 2 for i in range(6))]
    assert "damaged" not in facts


def test_info_of_an_unfinished_or_damaged_one(capsys, tiny, tmp_path):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, per_shard=2, finish=[0, 1])
    (tmp_path / "caps" / "shard_00001.safetensors").write_bytes(b"x")
    code, out, _ = run(capsys, "info", str(tmp_path / "caps"), "--json")
    facts = json.loads(out)
    assert (code, facts["shards"], facts["finished"], facts["damaged"]) == (
        0,
        3,
        2,
        ["shard_00001.safetensors"],
    )
    assert "run the capture again to finish it" in facts["next"]
    assert "shard_00001" in run(capsys, "info", str(tmp_path / "caps"))[1]


def test_info_of_a_shard_and_of_a_manifest(capsys, folder):
    code, out, _ = run(capsys, "info", str(folder / "shard_00000.safetensors"))
    assert code == 0
    assert "a shard of captured prompts" in out
    assert "row_offsets" in out
    code, _, err = run(capsys, "info", str(folder / "manifest.json"))
    assert code == 2
    assert "belongs to captured prompts: gpt2np info" in err


def test_the_check_on_the_command_line(capsys, folder):
    code, out, err = run(capsys, "info", str(folder), "--verify")
    assert (code, err) == (0, "")
    assert "3 shards: every hash is right; 6 prompts run again: " in out
    code, out, _ = run(capsys, "info", str(folder), "--verify", "--sample", "2", "--model", "tiny", "--json")
    check = json.loads(out)["check"]
    assert (code, check["verified"], check["prompts_run_again"]) == (0, True, [0, 5])
    changed(folder, 1, "h.0.resid_post", 5, lambda x: x + 1, relist=False)
    code, out, err = run(capsys, "info", str(folder), "--verify")
    assert (code, err) == (1, "")
    assert "shard_00001.safetensors: is damaged" in out
    code, out, _ = run(capsys, "info", str(folder), "--verify", "--json")
    assert (code, json.loads(out)["check"]["verified"]) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["info", "--verify"], "--verify checks a folder of captured prompts: name it"),
        (["info", "--sample", "3"], "--sample goes with --verify"),
        (["info", "CAPS", "--sample", "3"], "--sample goes with --verify"),
        (["info", "CAPS", "--verify", "--sample", "-3"], "--sample -3: must be a whole number"),
        (["info", "CAPS", "--verify", "--hash"], "--hash is of a model"),
        (["info", "CAPS", "--model", "tiny"], "--model is of a model"),
        (["info", "CAPS/none", "--verify"], "no such folder"),
        (["info", "CAPS/manifest.json", "--verify"], "is no folder of captured prompts"),
        (["info", "CAPS/..", "--verify"], "it has no manifest.json"),
        (["info", "CAPS", "--verify", "--model", "CAPS"], "CAPS"),
    ],
)
def test_wrong_calls_are_one_line(capsys, folder, arguments, says):
    code, out, err = run(capsys, *(given.replace("CAPS", str(folder)) for given in arguments))
    assert (code, out) == (2, "")
    assert says.replace("CAPS", str(folder)) in err
    assert err.count("\n") == 1


def test_a_damaged_manifest_on_the_command_line(capsys, folder):
    (folder / "manifest.json").write_text('{"schema": "gpt2np.captured/1", "sites"')
    for arguments in ([], ["--verify"]):
        code, _, err = run(capsys, "info", str(folder), *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "manifest.json" in err


def test_hashes_are_told_where_the_model_is_not_found(tiny, capsys, tmp_path):
    copy = shutil.copytree(tiny.checkpoint.folder, tmp_path / "copy")
    gpt2np.load(copy).capture(TEXTS, tmp_path / "caps", workers=1)
    copy.rename(tmp_path / "moved")
    code, out, err = run(capsys, "info", tmp_path / "caps", "--verify")
    assert code == 2
    assert out.endswith("\n\n1 shard: every hash is right; no prompt was run again\n")
    what = f"the model was a folder, '{copy}', and cannot be loaded from there; say where it is with --model"
    assert err == f"gpt2np: {tmp_path / 'caps'}: {what}\n"
    code, out, _ = run(capsys, "info", tmp_path / "caps", "--verify", "--json")
    assert (code, json.loads(out)["check"]["verified"]) == (2, None)
    assert run(capsys, "info", tmp_path / "caps", "--verify", "--model", tmp_path / "moved")[0] == 0
    path = tmp_path / "caps" / "shard_00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    code, out, err = run(capsys, "info", tmp_path / "caps", "--verify")
    assert (code, err) == (1, "")
    assert "is damaged: its SHA-256 is not that of the capture" in out


@pytest.mark.parametrize("wrong", [0, "tiny", []])
def test_what_is_no_model_is_refused(folder, wrong):
    with pytest.raises(InputError, match=r"^model=.*: must be a model, as gpt2np\.load returns it$"):
        open_capture(folder).verify(wrong)
