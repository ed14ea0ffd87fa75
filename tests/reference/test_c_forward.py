"""A forward pass in C that shares nothing with ours: within the bands, and out of them with each mistake."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from support.raw_steps import outside, read

from gpt2np.cli import main
from gpt2np.reference.comparison import compare
from gpt2np.reference.fixture import write_fixture

HERE = Path(__file__).parent / "c"
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2"]

# Macro of mistakes.h: the slug of the mistake, and the first step that it makes wrong.
MISTAKES = {
    "POSITION_OFFSET": ("position-off-by-one", "wpe"),
    "LAYERNORM_DDOF1": ("layernorm-ddof1", "h.0.ln_1"),
    "EPSILON_OUTSIDE": ("layernorm-eps-outside", "h.0.ln_1"),
    "QKV_KV_SWAPPED": ("qkv-kv-swapped", "h.0.attn.scores"),
    "SCORES_UNSCALED": ("scores-unscaled", "h.0.attn.scores"),
    "MASK_OFF_BY_ONE": ("mask-off-by-one", "h.0.attn.scores"),
    "MASK_MISSING": ("mask-missing", "h.0.attn.scores"),
    "MISSING_BIAS": ("missing-bias", "h.1.attn.out"),
    "RESIDUAL_AFTER_LN": ("residual-after-ln", "h.0.resid_mid"),
    "GELU_ERF": ("gelu-erf", "h.0.mlp.post"),
    "GELU_QUICK": ("gelu-quick", "h.0.mlp.post"),
    "LN_F_MISSING": ("missing-ln-f", "logits"),
}

pytestmark = pytest.mark.needs("cc")


@pytest.fixture(scope="module")
def fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixture")
    write_fixture(folder)
    return folder


def built(fixture, folder, *macros, flags=()):
    """The program, compiled with these mistakes."""
    program = folder / "gpt2"
    arguments = ["cc", *FLAGS, *flags, *(f"-DMISTAKE_{name}" for name in macros), "-I", fixture]
    done = subprocess.run([*arguments, HERE / "gpt2.c", "-o", program, "-lm"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return program


def run(fixture, folder, *macros, flags=()):
    """Its dump: steps.bin and steps.txt."""
    subprocess.run([built(fixture, folder, *macros, flags=flags), folder / "steps"], check=True)
    return folder / "steps.bin", folder / "steps.txt"


def compared(fixture, dump, shapes):
    ids = [int(i) for i in (fixture / "prompt.txt").read_text().split(",")]
    return compare(dump, fixture, ids, shapes=shapes)


@pytest.mark.parametrize("flags", [[], ["-O0"], ["-O3", "-march=native", "-ffp-contract=fast"]], ids=str)
def test_the_program_is_right(fixture, tmp_path, flags):
    steps = read(*run(fixture, tmp_path, flags=flags))
    assert steps.keys() == load_file(fixture / "trace.safetensors").keys()
    assert outside(fixture, steps)[0] == []


@pytest.mark.parametrize("seed", range(1, 6))
def test_it_is_right_on_other_fixtures(tmp_path, seed):
    write_fixture(tmp_path, seed)
    assert outside(tmp_path, read(*run(tmp_path, tmp_path)))[0] == []


@pytest.mark.every(2)
@pytest.mark.parametrize("macro", MISTAKES)
def test_each_mistake_leaves_the_band_where_it_is_made(fixture, tmp_path, macro):
    first, *_ = outside(fixture, read(*run(fixture, tmp_path, macro)))[0]
    assert first == MISTAKES[macro][1]


@pytest.mark.parametrize("flags", [[], ["-O0"]], ids=str)
def test_compare_confirms_the_program(fixture, tmp_path, flags):
    found = compared(fixture, *run(fixture, tmp_path, flags=flags))
    assert (found.verdict, found.site, found.mistake) == ("within-noise", None, None)
    assert [report.site for report in found.sites] == list(load_file(fixture / "trace.safetensors"))


@pytest.mark.every(2)
@pytest.mark.parametrize("macro", MISTAKES)
def test_compare_names_each_mistake(fixture, tmp_path, macro):
    slug, first = MISTAKES[macro]
    found = compared(fixture, *run(fixture, tmp_path, macro))
    assert (found.verdict, found.mistake) == ("wrong", slug)
    assert found.site in (first, first.replace("scores", "pattern"))  # a mask may be applied after it
    assert found.layer == (int(first.split(".")[1]) if first.startswith("h.") else None)


def test_compare_on_the_command_line(capsys, monkeypatch, fixture, tmp_path):
    dump, shapes = run(fixture, tmp_path, "GELU_ERF")
    monkeypatch.chdir(fixture)  # as the fixture's README.txt says it
    command = ["compare", str(dump), "--shapes", str(shapes), "--model", ".", "--json"]
    assert main([*command, "--tokens", Path("prompt.txt").read_text().strip()]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [report[key] for key in ("verdict", "site", "mistake")] == ["wrong", "h.0.mlp.post", "gelu-erf"]


def test_all_mistakes_of_the_header_are_here():
    lines = (HERE / "mistakes.h").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("#define MISTAKE_")] == [
        f"MISTAKE_{macro}" for macro in MISTAKES
    ]


def test_a_file_that_cannot_be_written(fixture, tmp_path):
    program = built(fixture, tmp_path)
    done = subprocess.run([program, tmp_path / "no" / "steps"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("steps.bin: cannot be written\n")
    assert subprocess.run([program], capture_output=True).returncode == 2
