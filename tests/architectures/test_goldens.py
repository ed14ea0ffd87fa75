"""Every stored site against what HF computed once in real float64; see make_goldens.py. Needs no torch."""

from pathlib import Path

import numpy as np
import pytest
from support.differences import relative_error

import gpt2np

HERE = Path(__file__).parent
IDS = {"gpt_neo": [3, 17, 17, 30, 0, 8, 3, 21, 5, 12, 29], "gemma2": [3, 17, 17, 30, 0, 8, 3, 21, 5]}
CASES = [(name, f.name) for name in IDS for f in sorted((HERE / name / "goldens").iterdir())]
EACH_CASE = pytest.mark.parametrize(("name", "case"), CASES, ids=["/".join(case) for case in CASES])


def folder_of(name, case):
    return HERE / name / "goldens" / case


@EACH_CASE
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_stored_site(name, case, dtype):
    """float64 to 1e-10, float32 as exact as HF's own within luck, or 5e-7."""
    golden = np.load(folder_of(name, case) / "sites.npz")
    model = gpt2np.load(folder_of(name, case), dtype=dtype)
    trace = model.trace(IDS[name])
    assert set(trace.names()) == {site for site in golden if not site.startswith("error/")}
    for site in trace.names():
        allowed = 1e-10 if dtype == "float64" else max(4 * float(golden[f"error/{site}"]), 5e-7)
        assert relative_error(trace[site], golden[site]) <= allowed, site
        assert np.array_equal(np.isneginf(trace[site]), np.isneginf(golden[site])), site
    assert model.checkpoint.notes == ()


@EACH_CASE
def test_identities_hold(name, case):
    verification = gpt2np.load(folder_of(name, case)).trace(IDS[name]).verify()
    assert not verification.skipped
    assert len(verification.checked) > {"gpt_neo": 15, "gemma2": 30}[name]


def test_those_of_gemma2_are_small():
    files = [file for file in (HERE / "gemma2" / "goldens").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 300_000
