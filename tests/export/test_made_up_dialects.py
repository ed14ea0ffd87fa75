"""Traces of an architecture that is not GPT-2's under other programs' names, and what refuses them."""

import csv
import json

import numpy as np
import pytest
from support import made_up
from support.command_line import run

import gpt2np
from gpt2np.errors import InputError
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.export.dialects.writing import write_dialect
from gpt2np.export.llmc import write_llmc
from gpt2np.export.typescript import write_typescript

IDS = [3, 17, 17, 30, 0, 8, 3, 250]
DIALECTS = ["gpt2np", "hf", "transformer_lens"]
REFUSED = {
    "guide": "made_up has no names of the extraction guide: only gpt2 has",
    "llm.c": "made_up has no names of llm.c: only gpt2 has",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(made_up.write(tmp_path_factory.mktemp("export") / "m"))


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(IDS)


def test_hugging_face(trace):
    hf = trace.to("hf")
    assert list(hf) == ["logits", "past_key_values", "hidden_states", "attentions"]
    assert [len(hf[name]) for name in list(hf)[1:]] == [4, 5, 4]
    for i, (keys, values) in enumerate(hf["past_key_values"]):  # all rows, whatever the window
        assert keys.shape == values.shape == (1, 2, len(IDS), 6)
        np.testing.assert_array_equal(keys[0].swapaxes(0, 1), trace[f"h.{i}.attn.k"])
        np.testing.assert_array_equal(values[0].swapaxes(0, 1), trace[f"h.{i}.attn.v"])
    assert hf.arrays.axes["past_key_values[1][0]"] == ("batch", "kv_head", "pos", "d_head")
    assert hf["attentions"][3].shape == (1, 4, len(IDS), len(IDS))
    np.testing.assert_array_equal(hf["hidden_states"][4][0], trace["ln_f"])


def test_transformer_lens(trace):
    hooks = trace.to("transformer_lens")
    shapes = {
        "attn.hook_q": (8, 4, 6), "attn.hook_k": (8, 2, 6), "attn.hook_z": (8, 4, 6),
        "attn.hook_result": (8, 4, 20), "ln1.hook_scale": (8, 1), "ln2.hook_normalized": (8, 20),
        "attn.hook_attn_scores": (4, 8, 8), "mlp.hook_post": (8, 36), "hook_resid_post": (8, 20),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert hooks[f"blocks.1.{name}"].shape == shape
    x = trace["h.1.resid_pre"].astype(np.float64)
    scale = np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(hooks["blocks.1.ln1.hook_scale"], scale, rtol=1e-6)
    np.testing.assert_allclose(hooks["blocks.1.ln1.hook_normalized"], x / scale, rtol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_files_are_read_back(tmp_path, model, trace, dialect, kind):
    path = tmp_path / f"t.{kind}"
    n = write_dialect(trace, path, kind, dialect)
    assert n == len(trace.to(dialect).arrays)
    back = read_dialect(path, model)
    assert back.config == model.config
    assert back.token_ids == IDS
    assert {"logits", "h.1.attn.k", "h.1.attn.pattern"} <= set(back.names())
    for name in back.names():
        np.testing.assert_array_equal(back[name], trace[name], err_msg=name)
    np.testing.assert_array_equal(back["probabilities"], trace["probabilities"])
    if dialect == "gpt2np":
        assert back.names() == trace.names()
        assert back.verify()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_json_and_csv_hold_the_same_numbers(tmp_path, trace, dialect):
    arrays = trace.to(dialect).arrays
    write_dialect(trace, tmp_path / "t.json", "json", dialect)
    read = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert list(read["arrays"]) == list(arrays)
    for name, facts in read["arrays"].items():
        data = np.array(facts["data"], np.float64)
        data[np.isnan(data)] = -np.inf
        np.testing.assert_array_equal(data.astype(arrays[name].dtype), arrays[name], err_msg=name)
        assert len(facts["axes"]) == arrays[name].ndim
    write_dialect(trace, tmp_path / "t.csv", "csv", dialect)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(array.size for array in arrays.values())
    for row in rows[:: len(rows) // 500]:
        array = arrays[row["name"]]
        index = tuple(int(row[f"axis_{i}"]) for i in range(array.ndim))
        assert array.dtype.type(row["value"]) == array[index]


def test_names_that_only_gpt2_has(tmp_path, model, trace, capsys):
    for dialect, line in REFUSED.items():
        with pytest.raises(InputError, match=f"^{line}$"):
            trace.to(dialect)
        with pytest.raises(InputError, match=f"^{line}$"):
            write_dialect(trace, tmp_path / "t.npz", "npz", dialect)
    with pytest.raises(InputError, match=r"^made_up has no TypeScript interface: only gpt2 has$"):
        write_typescript(trace, tmp_path / "ts")
    with pytest.raises(InputError, match=r"^made_up has no files of llm\.c: only gpt2 has$"):
        write_llmc(trace, tmp_path / "llmc")
    assert list(tmp_path.iterdir()) == []
    trace.save(tmp_path / "t.safetensors")
    file, out = str(tmp_path / "t.safetensors"), str(tmp_path / "out")
    folder = str(model.checkpoint.folder)
    for more, what in (
        (("--to", "npz", "--dialect", "guide"), REFUSED["guide"]),
        (("--to", "npz", "--dialect", "llm.c"), REFUSED["llm.c"]),
        (("--to", "ts"), "made_up has no TypeScript interface: only gpt2 has"),
        (("--to", "llm.c", "--model", folder), "made_up has no files of llm.c: only gpt2 has"),
    ):
        code, _, err = run(capsys, "export", file, "-o", out, *more)
        assert code == 2
        assert err.strip().splitlines()[-1].endswith(what)
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_verb(tmp_path, trace, dialect, capsys):
    trace.save(tmp_path / "t.safetensors")
    file, out = str(tmp_path / "t.safetensors"), str(tmp_path / "out.npz")
    code, printed, _ = run(capsys, "export", file, "--to", "npz", "-o", out, "--dialect", dialect, "--json")
    assert code == 0
    assert json.loads(printed)["arrays"] == len(read_dialect(out).to(dialect).arrays)
