"""A forward pass in JavaScript that shares nothing with ours, on the fixture's JSON: within the bands."""

import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from support.raw_steps import outside, read

from gpt2np.reference.comparison import compare
from gpt2np.reference.fixture import write_fixture

PROGRAM = Path(__file__).parent / "js" / "gpt2.mjs"

pytestmark = pytest.mark.needs("node")


@pytest.mark.parametrize("seed", range(4))
def test_the_program_is_right(tmp_path, seed):
    write_fixture(tmp_path, seed)
    subprocess.run(["node", PROGRAM, tmp_path / "fixture.json", tmp_path / "steps"], check=True)
    steps = read(tmp_path / "steps.bin", tmp_path / "steps.txt")
    assert steps.keys() == load_file(tmp_path / "trace.safetensors").keys()
    assert outside(tmp_path, steps)[0] == []
    ids = [int(i) for i in (tmp_path / "prompt.txt").read_text().split(",")]
    found = compare(tmp_path / "steps.bin", tmp_path, ids, shapes=tmp_path / "steps.txt")
    assert (found.verdict, len(found.sites)) == ("within-noise", len(steps))


def test_wrong_call(tmp_path):
    assert subprocess.run(["node", PROGRAM], capture_output=True, cwd=tmp_path).returncode == 2
