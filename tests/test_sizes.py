"""The released sizes, with random weights: they load, run, and take the memory that their plan says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from support.differences import relative_error
from support.random_sizes import write_random

import gpt2np
from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.tracing.plan import Plan

IDS = [464, 3139, 286, 4881, 318]
LONG = np.random.default_rng(0).integers(0, 50257, 1024).tolist()
# Sums of the shapes in OpenAI's checkpoints: 124M, 355M, 774M and 1.5B in the released names.
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The checkpoint of a size; the one before is removed, as XL takes 6 GB."""
    made = {}

    def folder(name):
        if name not in made:
            remove()
            made[name] = write_random(tmp_path_factory.mktemp(name), RELEASED[name])
        return made[name]

    def remove():
        while made:
            shutil.rmtree(made.popitem()[1])

    yield folder
    remove()


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in list(PARAMETERS)[1:])]
)
def test_it_loads_and_runs(name, folder_of):
    model = gpt2np.load(folder_of(name))
    config = RELEASED[name]
    assert model.config == config
    assert model.n_parameters == config.n_parameters == PARAMETERS[name]
    trace = model.trace(IDS)
    assert trace["logits"].shape == (5, 50257)
    assert trace.stack("attn.pattern").shape == (config.n_layer, config.n_head, 5, 5)
    assert trace.nbytes == Plan(config, 5).nbytes
    assert 0.1 < trace["logits"].std() < 100
    assert len(trace.verify().checked) > 15
    assert relative_error(model(IDS, last=True), trace["logits"][-1]) < 1e-5


def peak_memory(code, *args):
    """Peak resident bytes of a process of its own that runs this, and what it prints as JSON.

    `VmHWM`, as `ru_maxrss` of a child begins with the size of its parent. Mapped pages of weights and of
    traces count once they have been touched.
    """
    code += "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    env = os.environ | {"PYTHONPATH": str(Path(gpt2np.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    result, peak = done.stdout.splitlines()
    return json.loads(result), int(peak) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("out", [False, True], ids=["in-memory", "to-a-file"])
def test_peak_memory_of_a_full_trace_of_1024_tokens(out, folder_of, tmp_path):
    code = f"""if True:
        import json, sys
        import gpt2np
        model = gpt2np.load(sys.argv[1])
        plan = model.plan({LONG})
        trace = model.trace({LONG}, out=sys.argv[2] or None)
        print(json.dumps([plan.nbytes, sum(trace[name].nbytes for name in trace.names())]))
    """
    path = tmp_path / "trace.safetensors"
    (planned, taken), peak = peak_memory(code, folder_of("gpt2"), path if out else "")
    path.unlink(missing_ok=True)
    weights = 4 * PARAMETERS["gpt2"]
    print(f"weights {weights:,} + plan {planned:,}: peak {peak:,}, {peak / (weights + planned):.3f} of both")
    assert planned == taken == Plan(RELEASED["gpt2"], 1024).nbytes
    assert peak <= 1.1 * (weights + planned)


@pytest.mark.slow
def test_tracing_into_a_file_equals_saving(folder_of, tmp_path):
    model = gpt2np.load(folder_of("gpt2"))
    direct, saved = tmp_path / "direct.safetensors", tmp_path / "saved.safetensors"
    model.trace(LONG, out=direct)
    trace = model.trace(LONG)
    trace.save(saved)
    with (
        safetensors.safe_open(direct, framework="numpy") as a,
        safetensors.safe_open(saved, framework="numpy") as b,
    ):
        assert a.metadata() == b.metadata()
        assert set(a.keys()) == set(b.keys()) == set(trace.names())
        for name in trace.names():
            np.testing.assert_array_equal(a.get_tensor(name), b.get_tensor(name))
            np.testing.assert_array_equal(a.get_tensor(name), trace[name])
    for path in (direct, saved):
        path.unlink()
