"""Every stored site against what HF computed once in real float64; see make_goldens.py. Needs no torch."""

from pathlib import Path

import numpy as np
import pytest
from support.differences import relative_error

import gpt2np

GOLDENS = Path(__file__).parent / "goldens"
IDS = [3, 17, 17, 30, 0, 8, 3, 21, 5]
CASES = sorted(folder.name for folder in GOLDENS.iterdir())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_stored_site(case, dtype):
    """float64 to 1e-10, float32 as exact as HF's own within luck, or 5e-7."""
    golden = np.load(GOLDENS / case / "sites.npz")
    model = gpt2np.load(GOLDENS / case, dtype=dtype)
    trace = model.trace(IDS)
    assert set(trace.names()) == {name for name in golden if not name.startswith("error/")}
    for name in trace.names():
        allowed = 1e-10 if dtype == "float64" else max(4 * float(golden[f"error/{name}"]), 5e-7)
        assert relative_error(trace[name], golden[name]) <= allowed, name
        assert np.array_equal(np.isneginf(trace[name]), np.isneginf(golden[name])), name
    assert model.checkpoint.notes == ()


@pytest.mark.parametrize("case", CASES)
def test_identities_hold(case):
    verification = gpt2np.load(GOLDENS / case).trace(IDS).verify()
    assert not verification.skipped
    assert len(verification.checked) > 30


def test_they_are_small():
    assert sum(file.stat().st_size for file in GOLDENS.rglob("*") if file.is_file()) < 300_000
