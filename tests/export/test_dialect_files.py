"""Files in other programs' dialects: as others read them, read back as traces, damaged, and by command."""

import csv
import json
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support import command_line
from support.random_model import random_model

import gpt2np
from gpt2np.errors import InputError, TraceError
from gpt2np.export.dialect_names import NAMES
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.export.dialects.writing import WRITERS, write_dialect

IDS = [3, 17, 17, 30, 0, 8, 3]


@pytest.fixture(scope="module")
def model():
    return random_model(5, "float32")


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


VARIETIES = {
    "whole": {},
    "some": {"keep": ["attn.*", "h.1.mlp.post", "embed"]},
    "positions": {"keep": {"positions": slice(2, 6, 2)}},
    "half": {"keep": {"dtype": "float16"}},
    "stopped": {"stop_at_layer": 1},
    "derived": {"keep": ["probabilities", "attn.heads", "h.0.ln_1.mean"]},
}
LOST = {  # stored sites that a dialect has no name for
    "gpt2np": set(),
    "guide": {"resid_mid"},
    "transformer_lens": {"ln_1", "ln_2"},
    "llm.c": {"wte", "wpe"},
}


def bits(array):
    return array.tobytes(), array.dtype, array.shape


@pytest.mark.parametrize("to", ["npz", "safetensors"])
@pytest.mark.parametrize("dialect", NAMES)
@pytest.mark.parametrize("variety", VARIETIES)
def test_written_and_read_back(model, tmp_path, variety, dialect, to):
    trace = model.trace(IDS, **VARIETIES[variety])
    path = tmp_path / f"t.{to}"
    if not any(name in trace.to(dialect).arrays.axes for name in trace.to(dialect).arrays):
        with pytest.raises(TraceError, match="nothing in this trace"):
            write_dialect(trace, path, to, dialect)
        assert not path.exists()
        return
    assert write_dialect(trace, path, to, dialect) == len(trace.to(dialect).arrays)
    back = read_dialect(path, model)
    assert back.token_ids == IDS
    assert back.positions == trace.positions
    for name in back.names():
        expected = trace[name].astype(back[name].dtype)
        assert bits(back[name]) == bits(expected), name
    if variety in ("whole", "positions", "half") and dialect in LOST:
        lost = {name.split(".", 2)[-1] for name in set(trace.names()) - set(back.names())}
        assert lost == LOST[dialect]
        assert set(back.names()) <= set(trace.names())
    if dialect == "gpt2np":
        assert back.names() == trace.names()
    # and the arrays of the file are those of the mapping
    for name, array in back.to(dialect).arrays.items():
        expected = trace.to(dialect).arrays[name]  # of a float16 trace, keys and values come out as float32
        assert bits(array.astype(expected.dtype)) == bits(expected), name


@pytest.mark.parametrize("dialect", ["guide", "llm.c", "transformer_lens"])
def test_a_trace_that_was_read_back_verifies(tiny, tmp_path, dialect):
    trace = tiny.trace("Elizabeth was not")
    write_dialect(trace, tmp_path / "t.npz", "npz", dialect)
    back = read_dialect(tmp_path / "t.npz", tiny)
    assert back.verify()
    assert back.tokens == trace.tokens
    assert back.top(3) == trace.top(3)


@pytest.mark.parametrize("dialect", NAMES)
def test_files_as_others_read_them(trace, tmp_path, dialect):
    arrays = trace.to(dialect).arrays
    for to in WRITERS:
        write_dialect(trace, tmp_path / f"t.{to}", to, dialect)
    npz = np.load(tmp_path / "t.npz")
    assert npz.files == ["gpt2np", *arrays]
    assert json.loads(str(npz["gpt2np"]))["token_ids"] == IDS
    tensors = safetensors.numpy.load_file(tmp_path / "t.safetensors")
    assert sorted(tensors) == sorted(arrays)
    text = json.loads((tmp_path / "t.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert text["token_ids"] == IDS
    assert list(text["arrays"]) == list(arrays)
    found = {}
    with (tmp_path / "t.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            index = tuple(int(row[c]) for c in row if c.startswith("axis_") and row[c] != "")
            found.setdefault(row["name"], {})[index] = row["value"]
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert bits(npz[name]) == bits(array)
        assert bits(tensors[name]) == bits(array)
        entry = text["arrays"][name]
        assert (entry["dtype"], tuple(entry["shape"])) == (array.dtype.name, array.shape)
        assert len(entry["axes"]) == array.ndim
        from_json = np.array(entry["data"], object)
        assert from_json.shape == array.shape
        from_json[from_json == None] = float(entry.get("null", "0"))  # noqa: E711
        assert from_json.astype(array.dtype).tobytes() == array.tobytes()
        from_csv = np.empty(array.shape, array.dtype)
        assert len(found[name]) == array.size
        for index, value in found[name].items():
            from_csv[index] = array.dtype.type(value)
        assert from_csv.tobytes() == array.tobytes()


def test_json_restores_any_float(tmp_path):
    """Random bit patterns, in all three precisions, go through text and back."""
    from gpt2np.export.dialects.writing import lines

    rng = np.random.default_rng(0)
    for dtype, unsigned in (("float16", "uint16"), ("float32", "uint32"), ("float64", "uint64")):
        values = rng.integers(0, np.iinfo(unsigned).max, (40, 100), unsigned, endpoint=True).view(dtype)
        values = np.where(np.isfinite(values), values, 0).astype(dtype)
        back = np.array([[float(x) for x in line.split(",")] for line in lines(values)]).astype(dtype)
        assert back.tobytes() == values.tobytes()


def test_own_safetensors_is_a_saved_trace(trace, tmp_path):
    write_dialect(trace, tmp_path / "a.safetensors", "safetensors")
    trace.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert gpt2np.Trace.open(tmp_path / "a.safetensors").names() == trace.names()


def test_npz_is_the_same_every_time(trace, tmp_path):
    for name in "ab":
        write_dialect(trace, tmp_path / name, "npz", "hf")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# -- the command line ---------------------------------------------------------------------------------


@pytest.fixture
def saved(trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    return str(tmp_path / "t.safetensors")


def run(capsys, *argv):
    return command_line.run(capsys, "export", *argv)


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("dialect", NAMES)
def test_export(capsys, saved, trace, tmp_path, to, dialect):
    out = tmp_path / "out"
    code, stdout, err = run(capsys, saved, "--to", to, "--dialect", dialect, "-o", out)
    assert (code, stdout) == (0, "")
    assert err.startswith(f"gpt2np: wrote {out}, ")
    if to in ("npz", "safetensors"):
        back = read_dialect(out)
        assert all(np.array_equal(back[name], trace[name]) for name in back.names())


def test_export_of_an_exported_file(capsys, saved, trace, tmp_path):
    for source, to, dialect, out in (
        (saved, "npz", "llm.c", "a.npz"),
        (tmp_path / "a.npz", "safetensors", "guide", "b.safetensors"),
        (tmp_path / "b.safetensors", "json", "hf", "c.json"),
    ):
        code, text, _ = run(capsys, source, "--to", to, "--dialect", dialect, "-o", tmp_path / out, "--json")
        assert code == 0
        facts = json.loads(text)
        assert facts["bytes"] == (tmp_path / out).stat().st_size
    logits = json.loads((tmp_path / "c.json").read_text())["arrays"]["logits"]["data"]
    assert np.array_equal(np.array(logits, np.float32), trace["logits"][None])


def test_export_with_weights(capsys, tiny, tmp_path):
    trace = tiny.trace("Elizabeth was", out=tmp_path / "t.safetensors")
    argv = (tmp_path / "t.safetensors", "--to", "npz", "--dialect", "transformer_lens", "-o")
    assert run(capsys, *argv, tmp_path / "a.npz")[0] == 0
    assert run(capsys, *argv, tmp_path / "b.npz", "--model", "tiny")[0] == 0
    assert "blocks.0.attn.hook_result" not in np.load(tmp_path / "a.npz").files
    result = np.load(tmp_path / "b.npz")["blocks.0.attn.hook_result"]
    np.testing.assert_array_equal(result, trace["h.0.attn.heads"])


# -- wrong input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.safetensors", "--to", "npz", "-o", "x"], "nowhere.safetensors"),
        ([".", "--to", "npz", "-o", "x"], "folder"),
        (["text.txt", "--to", "npz", "-o", "x"], "text.txt"),
        (["empty", "--to", "npz", "-o", "x"], "empty"),
        (["t.json", "--to", "npz", "-o", "x"], "t.json: is a trace as JSON, and those are not read back"),
        (["t.csv", "--to", "npz", "-o", "x"], "t.csv: is a CSV file, and those are not read back"),
        (
            ["half.npz", "--to", "json", "-o", "x"],
            "half.npz: metadata 'gpt2np': a text in it is not valid Unicode",
        ),
        (["weights.safetensors", "--to", "npz", "-o", "x"], "is not a trace"),
        (["foreign.npz", "--to", "npz", "-o", "x"], "is not a trace"),
        (["t.safetensors", "--to", "npz", "-o", "/dev/null/x"], "cannot be written"),
        (["t.safetensors", "--to", "json", "-o", "/dev/null/x"], "cannot be written"),
        (["t.safetensors", "--to", "safetensors", "-o", "/dev/null/x"], "cannot be written (folder"),
        (["t.safetensors", "--to", "csv", "-o", "."], "cannot be written"),
        (["t.safetensors", "--to", "csv", "-o", "/"], "cannot be written"),
        (["t.safetensors", "--to", "npz", "-o", "/dev/null"], "cannot be written"),
        (["t.safetensors", "--to", "npz"], "-o"),
        (["t.safetensors", "-o", "x"], "--to"),
        (["t.safetensors", "--to", "npy", "-o", "x"], "npy"),
        (["t.safetensors", "--to", "npz", "--dialect", "keras", "-o", "x"], "keras"),
        (["t.safetensors", "--to", "npz", "-o", "x", "--model", "tiny"], "another model"),
        (["t.safetensors", "--to", "npz", "-o", "x", "--model", "./nowhere"], "nowhere"),
        (["z.safetensors", "--to", "npz", "--dialect", "hf", "-o", "x"], "nothing in this trace"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, model, saved, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Elizabeth was")
    Path("empty").touch()
    np.savez("foreign.npz", logits=np.zeros((7, 60)))
    safetensors.numpy.save_file({"wte.weight": np.zeros((2, 2))}, "weights.safetensors")
    model.trace(IDS, keep="attn.z", out="z.safetensors")
    trace = model.trace(IDS, keep="attn.z")
    for to in ("json", "csv"):
        write_dialect(trace, f"t.{to}", to)
    trace.metadata["tokens"] = ["\ud800"] * len(IDS)
    np.savez("half.npz", gpt2np=np.array(json.dumps(trace.metadata)), **{n: trace[n] for n in trace.names()})
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert "<Trace" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("gpt2np")
    assert message in last
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("to", ["npz", "json", "csv"])
def test_disk_full_leaves_what_was_there(trace, tmp_path, to):
    (tmp_path / "out").write_text("what was there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_dialect(trace, tmp_path / "out", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "what was there"


def rewritten(path, **changes):
    """An npz file with some entries replaced, or removed where the change is None."""
    entries = dict(np.load(path))
    metadata = json.loads(str(entries.pop("gpt2np")))
    for name, change in changes.pop("metadata", {}).items():
        metadata[name] = change
    entries |= changes.pop("entries", {})
    np.savez(path, gpt2np=np.array(json.dumps(metadata)), **entries)


WRONG_NPZ = [
    ({"entries": {"lm_head": np.zeros(3)}}, "'lm_head' is no name of the dialect hf"),
    ({"entries": {"logits": np.zeros((7, 60), "f")}}, r"logits has shape \(7, 60\), expected \(1, 7, 60\)"),
    ({"entries": {"logits": np.zeros((1, 7, 60))}}, "logits is float64, expected float32"),
    ({"entries": {"logits": np.array(["a"])}}, "logits has shape"),
    ({"metadata": {"dialect": "keras"}}, "dialect is 'keras'"),
    ({"metadata": {"dialect": ["hf"]}}, "dialect is"),
    ({"metadata": {"schema": "x/1"}}, "schema is 'x/1'"),
    ({"metadata": {"token_ids": []}}, "token_ids"),
    ({"metadata": {"config": None}}, "config"),
    ({"metadata": {"token_ids": [3, 17], "tokens": None}}, "has shape"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_NPZ)
def test_wrong_npz(trace, tmp_path, changes, message):
    write_dialect(trace, tmp_path / "t.npz", "npz", "hf")
    rewritten(tmp_path / "t.npz", **changes)
    with pytest.raises(TraceError, match=message):
        read_dialect(tmp_path / "t.npz")


def test_wrong_zip_files(trace, tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, gpt2np=np.array({"a": 1}, object))  # a pickle
    with pytest.raises(TraceError, match="gpt2np"):
        read_dialect(path)
    np.savez(path, gpt2np=np.array("not JSON"))
    with pytest.raises(TraceError, match="is not JSON"):
        read_dialect(path)
    np.savez(path, gpt2np=np.array("[1]"))
    with pytest.raises(TraceError, match="schema is"):
        read_dialect(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("gpt2np", "no array")
    with pytest.raises(TraceError, match="is no array"):
        read_dialect(path)
    write_dialect(trace, path, "npz", "hf")
    empty = {"gpt2np": np.load(path)["gpt2np"]}
    np.savez(path, **empty)
    with pytest.raises(TraceError, match="holds no array"):
        read_dialect(path)


def test_any_damage_to_an_npz_is_noticed_or_harmless(tmp_path):
    model = random_model(0, "float32", n_layer=1, n_embd=4, vocab_size=10)
    trace = model.trace([1, 2])
    write_dialect(trace, tmp_path / "t.npz", "npz", "hf")
    whole = (tmp_path / "t.npz").read_bytes()
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "damaged.npz", 0
    for n in range(300):
        damaged = bytearray(whole)
        if n % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for at in rng.integers(len(whole), size=n % 3):
                damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            back = read_dialect(path)
        except TraceError:
            refused += 1
        else:
            assert all(np.array_equal(back[name], trace[name]) for name in back.names())
    assert refused > 200


def test_a_dialect_file_is_opened_as_a_trace(trace, tmp_path):
    write_dialect(trace, tmp_path / "t.safetensors", "safetensors", "guide")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")
    assert opened.token_ids == trace.token_ids
    assert np.array_equal(opened["h.0.attn.pattern"], trace["h.0.attn.pattern"])
    with pytest.raises(InputError, match="no writer for 'npy'"):
        write_dialect(trace, tmp_path / "x", "npy")
    with pytest.raises(TraceError, match="another model"):
        read_dialect(tmp_path / "t.safetensors", random_model(0, "float32", n_layer=3))


@pytest.mark.parametrize("to", ["npz", "json", "csv", "safetensors", "ts"])
@pytest.mark.parametrize("prompt", [["Elizabeth was"], ["--tokens", "36,1116,340"]])
def test_a_text_is_run_and_written_as_its_saved_trace_is(capsys, tmp_path, to, prompt):
    command_line.run(capsys, "trace", "Elizabeth was", "--out", tmp_path / "t.safetensors")
    for out, what in ("saved", [tmp_path / "t.safetensors"]), ("ran", prompt):
        assert run(capsys, *what, "--to", to, "-o", tmp_path / out)[0] == 0
    if prompt == ["Elizabeth was"] and to != "npz":  # which holds times
        parts = sorted(tmp_path.glob("saved/*")) or [tmp_path / "saved"]
        for part in parts:
            ran = tmp_path / "ran" / part.name if part.name != "saved" else tmp_path / "ran"
            assert part.read_bytes() == ran.read_bytes()


def test_a_text_is_run_for_the_sites_that_are_asked_for(capsys, tmp_path):
    code, _, err = run(
        capsys, "Elizabeth was", "--keep", "attn.pattern", "--to", "npz", "-o", tmp_path / "t.npz"
    )
    assert (code, err) == (
        0,
        f"gpt2np: wrote {tmp_path / 't.npz'}, 4 arrays, {(tmp_path / 't.npz').stat().st_size:,} bytes\n",
    )
    assert {n for n in np.load(tmp_path / "t.npz") if n.startswith("h.")} == {
        f"h.{i}.attn.pattern" for i in range(4)
    }
