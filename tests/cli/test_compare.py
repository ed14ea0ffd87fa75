"""The verb compare: what it takes, what it says in one line, and its exit codes."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from support.command_line import run

import gpt2np

PROMPT = "Elizabeth was not"


@pytest.fixture(scope="module")
def trace():
    return gpt2np.load("tiny").trace(PROMPT)


def told(capsys, dump, *argv):
    """Exit code, first line of the report, the whole report on one line, and the last line on stderr."""
    code, out, err = run(capsys, "compare", str(dump), "--prompt", PROMPT, *argv)
    return code, out.partition("\n")[0], " ".join(out.split()), (err.strip().splitlines() or [""])[-1]


@pytest.mark.parametrize("site", ["attn.qkv", "attn.scores", "ln_1", "mlp.post"])
def test_a_page_of_any_first_wrong_site(capsys, tmp_path, site):
    name = f"h.2.{site}"
    changed = gpt2np.load("tiny").trace(PROMPT, edits={name: lambda x: x * 1.01})
    changed.save(tmp_path / "d.safetensors")
    code, first, report, _ = told(capsys, tmp_path / "d.safetensors", "--html", str(tmp_path / "r.html"))
    assert (code, first) == (1, "wrong: 53 sites of 4 tokens against tiny")
    assert f"first outside {name}" in report
    assert (tmp_path / "r.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("h.0.attn.pattern", np.ones((9, 9))),
        ("embed", np.ones((4, 192), bool)),
        ("embed", np.ones((4, 192), complex)),
        ("embed", np.array(["text"] * 4)),
        ("hidden_states", np.ones((7, 3, 11))),
        ("hidden_states", np.float32(1)),
    ],
)
def test_a_dump_of_which_nothing_can_be_used(capsys, tmp_path, name, array):
    np.savez(tmp_path / "d.npz", **{name: array})
    code, out, err = run(capsys, "compare", str(tmp_path / "d.npz"), "--prompt", PROMPT)
    assert (code, out) == (2, "")
    assert f"no array of it can be compared ('{name}': " in err.splitlines()[-1]


def test_maps(capsys, tmp_path, trace):
    cache = np.concatenate([trace[f"h.0.attn.{part}"].reshape(4, -1) for part in "kv"], -1)
    np.savez(tmp_path / "d.npz", end=trace["ln_f"], cache=cache, other=np.ones((3, 5), np.float32))
    maps = ["--map", "end=ln_f", "--map", "cache=h.0.attn.k", "--map", "final_norm=logits"]
    code, first, report, _ = told(capsys, tmp_path / "d.npz", *maps)
    assert (code, first) == (0, "within noise: 2 of 3 arrays, 1 unknown name; 4 tokens against tiny")
    assert "--map final_norm=logits is not used: the dump has no 'final_norm'" in report
    assert "keys and values side by side" in report
    code, first, report, _ = told(capsys, tmp_path / "d.npz", *maps, "--map", "other=h.1.mlp.pre")
    assert (code, first) == (2, "not all compared: 2 of 3 arrays, 1 not usable; 4 tokens against tiny")
    assert "other: has shape (3, 5), expected [pos, d_mlp]" in report
    code, out, _ = run(
        capsys, "compare", str(tmp_path / "d.npz"), "--prompt", PROMPT, "--map", "end=ln_f", "--json"
    )
    facts = json.loads(out)
    assert (code, facts["arrays"], facts["unknown"]) == (0, 3, ["cache", "other"])
    assert facts["offers"] == ["cache [4, 384]", "other [3, 5]"]


def test_what_export_writes_for_llmc(capsys, tmp_path):
    assert run(capsys, "export", PROMPT, "--to", "llm.c", "--out", str(tmp_path))[0] == 0
    argv = [str(tmp_path / "activations.bin"), "--shapes", str(tmp_path / "activations.json")]
    code, out, _ = run(capsys, "compare", *argv)  # the ids are in it
    assert code == 0
    assert out.startswith("within noise: 71 sites of 4 tokens")


def bomb(path, entries, count):
    """A `.npz` of zeros: a hundredth of what they take."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}".encode()
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(entries):
            with archive.open(f"h.{i}.ln_1.npy", "w") as file:
                file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
                for _ in range(0, count, 1 << 22):
                    file.write(bytes(4 * min(count, 1 << 22)))


def test_an_npz_far_larger_than_the_model(capsys, tmp_path):
    bomb(tmp_path / "bomb.npz", 3, 1 << 24)
    code, first, _, error = told(capsys, tmp_path / "bomb.npz")
    assert (code, first) == (2, "")
    assert "'h.2.ln_1' its arrays take 201,326,592 bytes of memory" in error
    assert "--force" in error
    code, _, _, error = told(capsys, tmp_path / "bomb.npz", "--force")
    assert (code, "no array of it can be compared" in error) == (2, True)


def test_hugging_face_output_in_a_torch_file(tmp_path, trace):
    from support import needs

    torch = needs.imported("torch")
    outputs = needs.imported("transformers").modeling_outputs
    logits = torch.tensor(np.array(trace["logits"]))[None]
    whole = outputs.CausalLMOutputWithCrossAttentions(logits=logits)
    torch.save(whole, tmp_path / "whole.pt")
    with pytest.raises(gpt2np.Gpt2npError, match=r"torch\.save\(dict\(output\), FILE\)"):
        gpt2np.compare(tmp_path / "whole.pt", "tiny", PROMPT)
    torch.save(dict(whole), tmp_path / "dict.pt")
    assert gpt2np.compare(tmp_path / "dict.pt", "tiny", PROMPT).verdict == "within-noise"
    assert gpt2np.compare(whole, "tiny", PROMPT).verdict == "within-noise"


def test_the_exit_code_is_the_verdict_s_on_a_closed_pipe(tmp_path, trace):
    np.savez(tmp_path / "d.npz", ln_f=trace["ln_f"] * 1.5, logits=trace["logits"])
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "gpt2np", "compare", str(tmp_path / "d.npz"), "--prompt", PROMPT]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_the_report_is_as_wide_as_the_screen(capsys, monkeypatch, tmp_path, trace, factor):
    monkeypatch.setenv("COLUMNS", "60")
    arrays = {f"blocks.{i}.hook_resid_post": trace[f"h.{i}.resid_post"] * factor for i in (0, 2)}
    np.savez(tmp_path / "d.npz", **arrays, ln_f=trace["ln_f"], h_1_resid_post=np.ones((4, 7)))
    _, out, _ = run(capsys, "compare", str(tmp_path / "d.npz"), "--prompt", PROMPT, "--search", "0.1")
    assert max(map(len, out.splitlines())) <= 60, out


def test_the_page_knows_what_is_no_mistake(capsys, tmp_path, trace):
    exchanged = {"h.0.mlp.out": trace["h.1.mlp.out"], "h.1.mlp.out": trace["h.0.mlp.out"]}
    report = gpt2np.compare(exchanged, "tiny", PROMPT).to_dict()
    assert (report["excused"], report["mistake"], report["verdict"]) == (True, None, "wrong")
    assert [site["excused"] for site in report["sites"]] == [True, True]
