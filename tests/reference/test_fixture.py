"""`gpt2np fixture`: every file of it says the same, and is what a porter can rely on."""

import json
import re
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

import gpt2np
from gpt2np.cli import main
from gpt2np.errors import InputError
from gpt2np.reference.comparison import compare
from gpt2np.reference.fixture import CONFIG, N_TOKENS, band_of, make_fixture, write_fixture

FILES = {"config.json", "model.safetensors", "prompt.txt", "trace.safetensors", "bands.safetensors",
         "fixture.json", "fixture.h", "fixture_trace.h", "README.txt"}  # fmt: skip


@pytest.fixture(scope="module")
def fixture():
    return make_fixture()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("fixture") / "made" / "here"
    write_fixture(out)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def c_arrays(text):
    """Every float array of a header, by its identifier."""
    found = {}
    for name, size, body in re.findall(r"static const float (\w+)\[(\d+)\] = \{(.*?)\};", text, re.DOTALL):
        numbers = [
            n.replace("INFINITY", "inf").removesuffix("f").replace("-in", "-inf") for n in body.split(",")
        ]
        found[name] = np.array([float(n) for n in numbers[:-1]], np.float32)
        assert len(found[name]) == int(size)
    return found


def test_the_checkpoint_loads_and_gives_the_trace(folder):
    ids = [int(i) for i in (folder / "prompt.txt").read_text().split(",")]
    model = gpt2np.load(folder, dtype="float64")
    trace, own = gpt2np.Trace.open(folder / "trace.safetensors", model=model), model.trace(ids)
    assert trace.names() == own.names()
    for name in own.names():
        assert np.array_equal(trace[name], own[name].astype(np.float32)), name
    assert model.config == CONFIG
    assert model.checkpoint.notes == ()


@pytest.mark.needs("torch", "transformers")
def test_hugging_face_loads_it(folder, fixture):
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor([fixture.trace.token_ids])).logits[0].numpy()
    assert np.array_equal(logits.astype(np.float32), fixture.trace["logits"])


def test_float32_runs_stay_in_the_bands_and_the_bands_are_narrow(fixture):
    bands, ids = fixture.bands, fixture.trace.token_ids
    run = fixture.model.trace(ids)
    for name in fixture.trace.names():
        truth, seen = fixture.trace[name], np.nan_to_num(run[name], neginf=0)
        assert (np.abs(seen - np.nan_to_num(truth, neginf=0)) <= bands[name]).all(), name
        assert np.broadcast_shapes(bands[name].shape, truth.shape) == truth.shape
        assert 0 < band_of(fixture, name) < 3e-5 * max(1, np.abs(truth[np.isfinite(truth)]).max()), name


@pytest.mark.parametrize("seed", range(5))
def test_nothing_in_it_is_trivial(seed):
    fixture = make_fixture(seed)
    sizes = [N_TOKENS, CONFIG.n_layer, *CONFIG.dims.values(), CONFIG.n_positions]
    assert len(set(sizes)) == len(sizes)
    for name, weight in fixture.model.weights.items():
        assert not (weight == (1 if "ln_" in name and name.endswith("weight") else 0)).any(), name
        assert np.unique(weight).size > 0.5 * min(weight.size, 100), name
        assert not np.array_equal(weight, weight.astype(np.float16)), name
    trace, ids = fixture.trace, fixture.trace.token_ids
    assert len(set(ids)) == N_TOKENS - 1
    for layer in range(CONFIG.n_layer):  # far from the mean of what is visible, in every head
        pattern = trace[f"h.{layer}.attn.pattern"]
        even = np.tril(np.ones((N_TOKENS, N_TOKENS))) / np.arange(1, N_TOKENS + 1)[:, None]
        assert (np.abs(pattern - even).max(axis=(1, 2)) > 0.15).all()
    for norm, source in (("h.0.ln_1", "embed"), ("h.1.ln_2", "h.1.resid_mid"), ("ln_f", "h.1.resid_post")):
        x = trace[source].astype(np.float64)
        inside = 1 / np.sqrt(x.var(axis=1) + 1e-5)
        outside = 1 / (x.std(axis=1) + 1e-5)
        error = np.abs(inside / outside - 1).max() * np.abs(trace[norm]).max()
        assert error > 3 * band_of(fixture, norm), norm  # an epsilon outside the root shows


def test_all_files_hold_the_same_numbers(folder, fixture):
    weights, trace = load_file(folder / "model.safetensors"), load_file(folder / "trace.safetensors")
    bands = load_file(folder / "bands.safetensors")
    whole = json.loads((folder / "fixture.json").read_text())
    arrays = c_arrays((folder / "fixture.h").read_text())
    arrays |= c_arrays((folder / "fixture_trace.h").read_text())
    for prefix, own, said in (("gpt2", weights, whole["weights"]), ("trace", trace, whole["trace"])):
        assert own.keys() == said.keys()
        for name, array in own.items():
            data = [-np.inf if number is None else number for number in said[name]["data"]]
            assert np.array_equal(np.array(data, np.float32).reshape(said[name]["shape"]), array), name
            assert np.array_equal(arrays.pop(f"{prefix}_{name.replace('.', '_')}"), array.ravel()), name
    assert not arrays
    text = (folder / "fixture_trace.h").read_text()
    constants = dict(re.findall(r"static const float band_(\w+) = (\S+)f;", text))
    assert bands.keys() == whole["bands"].keys() == trace.keys()
    for name, band in bands.items():
        assert np.float32(whole["bands"][name]) == np.float32(constants[name.replace(".", "_")]) == band.max()
        assert np.array_equal(band, fixture.bands[name])
    assert whole["token_ids"] == fixture.trace.token_ids
    assert whole["config"] == json.loads((folder / "config.json").read_text())
    assert (
        f"gpt2_token_ids[7] = {{{', '.join(map(str, whole['token_ids']))}}}"
        in (folder / "fixture.h").read_text()
    )
    assert re.findall(r'^    \{"(\S+)",', text, re.MULTILINE) == fixture.trace.names()


def test_bands_are_those_of_the_run_rounded_up(fixture):
    from gpt2np.reference.noise_bands import expect

    expected = expect(fixture.model, fixture.trace.token_ids)
    for name, band in fixture.bands.items():
        ratio = band / expected.bands[name]
        assert ratio.min() > 1 - 1e-6, name
        assert ratio.max() < 1.11, name


@pytest.mark.parametrize("seed", [0, 1, 123456])
def test_every_file_is_under_100_kb(tmp_path, seed):
    written = write_fixture(tmp_path, seed)
    assert written == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(written) == FILES
    assert max(written.values()) < 100_000


def test_a_seed_gives_the_same_bytes_wherever_it_is_written(folder, tmp_path):
    write_fixture(tmp_path / "elsewhere")
    write_fixture(tmp_path / "other", seed=1)
    assert contents(tmp_path / "elsewhere") == contents(folder)
    other = contents(tmp_path / "other")
    assert {name for name in FILES if other[name] == contents(folder)[name]} == {"config.json"}


LANGUAGES = {"cc": ["-std=c99", "-x", "c"], "c++": ["-std=c++11", "-x", "c++"]}
COMPILERS = [pytest.param(name, marks=pytest.mark.needs(name)) for name in LANGUAGES]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("headers", [["fixture.h"], ["fixture_trace.h"], ["fixture.h", "fixture_trace.h"]])
def test_the_headers_compile_cleanly(folder, tmp_path, compiler, headers):
    source = tmp_path / "main.c"
    source.write_text(
        "".join(f'#include "{name}"\n' * 2 for name in headers) + "int main(void) { return 0; }\n"
    )
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I", str(folder)]
    done = subprocess.run(
        [compiler, *LANGUAGES[compiler], *flags, str(source)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_compare_takes_its_own_trace(folder):
    found = compare(folder / "trace.safetensors", folder)  # the file says which tokens ran
    assert found.verdict == "within-noise"
    assert max(report.measure.ratio for report in found.sites) < 0.2


def test_the_guide_says_what_to_run(folder, fixture):
    guide = (folder / "README.txt").read_text()
    ids = (folder / "prompt.txt").read_text().strip()
    assert f"gpt2np compare mine.safetensors --model . --tokens {ids} " in guide
    assert all(f"\n{name}" in guide or f", {name}" in guide for name in FILES - {"README.txt"})
    assert all(f"  {name} " in guide for name in fixture.trace.names())
    assert "{" not in guide


def test_command(capsys, tmp_path):
    assert main(["fixture", "--out", str(tmp_path / "f"), "--seed", "3", "--json"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["seed"] == 3
    assert facts["files"] == {path.name: path.stat().st_size for path in (tmp_path / "f").iterdir()}
    assert "README.txt" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1"], "a seed is a whole number from 0, not -1"),
        (["-o", "taken"], "taken: cannot be made"),
    ],
)
def test_wrong_calls_leave_nothing(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    assert main(["fixture", "--out", "f", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"gpt2np: {words}")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("seed", [1.5, "1", None, True])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(InputError, match="a seed is a whole number"):
        make_fixture(seed)


def test_a_failing_write_leaves_the_old_files(monkeypatch, folder, tmp_path):
    write_fixture(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt2np.reference.fixture.whole_binary_file", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_fixture(tmp_path, seed=1)
    with pytest.raises(InputError, match="No space left on device"):
        write_fixture(tmp_path / "new" / "folder", seed=1)
    assert contents(tmp_path) == contents(folder)
