"""The benchmark suite: counts by hand, limits, fits, tables, the report."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))  # the suite is no part of the installed package

from benchmarks import checks, counts, fits, limits, report, results, scaling, table, works
from benchmarks.engines import ENGINES, LABELS
from benchmarks.random_gpt2 import make
from gpt2np.architectures.gpt2.config import Config
from gpt2np.tracing.plan import Plan

ROOT = Path(__file__).parents[2]
SMALL = Config(n_layer=2, n_head=2, n_embd=4, n_positions=8, vocab_size=10, eos_token_id=None)
LIMITS = {
    "gemm": {"64": {"8": {"block": 1e9, "unembed": 2e9}, "512": {"block": 4e9, "unembed": 8e9}}},
    "memory": {"read": 1e10, "first_touch": 1e9, "touched": 2e9},
}


# -- counts, by hand: n_embd 4, d_mlp 16, 2 layers, 10 tokens -------------------------------------


def test_counts_of_one_pass_by_hand():
    found = counts.one_pass(SMALL, [3])
    # a row meets 4*12 + 4*4 + 4*16 + 16*4 = 192 weights a layer
    assert found.block_flops == 2 * 3 * 2 * 192
    # 1 + 2 + 3 pairs of query and key, 2*4 for the score and 2*4 for the mix, 2 layers
    assert found.attention_flops == 6 * 16 * 2
    assert found.unembed_flops == 2 * 3 * 4 * 10
    # a layer: 192 weights, 12 + 4 + 16 + 4 biases, 4 vectors of norms; ln_f; the table; 3 rows, twice
    assert found.read_bytes == 4 * (2 * (192 + 36 + 16) + 8 + 40 + 24)
    assert found.flops == found.block_flops + found.attention_flops + found.unembed_flops


def test_counts_of_packed_prompts_and_of_a_past():
    packed = counts.one_pass(SMALL, [2, 3])
    alone = [counts.one_pass(SMALL, [n]) for n in (2, 3)]
    assert packed.flops == sum(count.flops for count in alone)
    assert packed.read_bytes < sum(count.read_bytes for count in alone)
    step = counts.one_pass(SMALL, [1], past=5)
    assert step.attention_flops == 6 * 16 * 2
    assert (
        step.read_bytes - counts.one_pass(SMALL, [1]).read_bytes == 4 * 2 * 4 * 2 * 5
    )  # keys, values, layers


def test_weights_are_those_of_the_file(tmp_path):
    make(tmp_path, SMALL)
    stored = (tmp_path / "model.safetensors").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert counts.weight_bytes(SMALL) == stored - header


@pytest.mark.parametrize(
    ("method", "arguments", "rows", "written"),
    [
        ("trace", {}, 3, Plan(SMALL, 3).nbytes),
        ("trace", {"keep": "resid_*"}, 1, 2 * 2 * 3 * 4 * 4),
        ("logits", {}, 3, 4 * 3 * 10),
        ("last", {}, 1, 0),
    ],
)
def test_counts_of_each_method(method, arguments, rows, written):
    (found,) = counts.passes(SMALL, method, [3], arguments)
    assert (found.unembed_rows, found.written_bytes) == (rows, written)


def test_counts_of_decoding():
    found = counts.passes(SMALL, "decode", [3], {"new": 4})
    assert [count.rows for count in found] == [3, 1, 1, 1]
    assert found[-1] == counts.one_pass(SMALL, [1], past=5)
    traced = counts.passes(SMALL, "decode", [3], {"new": 4, "traced": True})
    assert sum(count.written_bytes for count in traced) == Plan(SMALL, 6).nbytes
    assert counts.passes(SMALL, "load", [], {}) == []


# -- limits ---------------------------------------------------------------------------------------


def test_the_limit_is_the_longer_of_arithmetic_and_memory():
    count = counts.Count(8, 8, 3_000_000, 1_000_000, 2_000_000, 1000)
    assert limits.gemm_seconds(count, 64, LIMITS) == pytest.approx(4e-3 + 1e-3)
    assert limits.least_seconds([count], 64, LIMITS) == (pytest.approx(5e-3), "GEMM")
    heavy = counts.Count(1, 1, 10, 10, 10, 10**9, 10**9)
    assert limits.least_seconds([count, heavy], 64, LIMITS) == (pytest.approx(0.205), "memory")
    many = counts.Count(
        400, 1, 4_000_000, 0, 5, 0
    )  # the rates of 512 rows are nearest; one row of logits is free
    assert limits.gemm_seconds(many, 64, LIMITS) == pytest.approx(1e-3)


def test_pooled_limits_are_medians_and_keep_what_only_one_sample_has():
    samples = [{"a": {"x": 1.0}}, {"a": {"x": 3.0, "y": 5.0}}, {"a": {"x": 2.0}}]
    assert limits.pooled(samples) == {"a": {"x": 2.0, "y": 5.0}}


# -- fits -----------------------------------------------------------------------------------------


def test_fit_finds_the_parts():
    n = [1, 2, 8, 64, 512, 1024]
    found = fits.in_tokens(n, [0.01 + 0.002 * x + 3e-7 * x * x for x in n])
    expected = {"constant": 0.01, "linear": 0.002, "quadratic": 3e-7}
    assert found["coefficients"] == pytest.approx(expected, rel=1e-4)
    assert found["largest_relative_error"] < 1e-6


def test_fit_never_goes_below_zero():
    n = [1, 2, 3, 4]
    free = np.polyfit(n, [5, 4.5, 4.2, 4.1], 1)
    assert free[0] < 0  # what it would be
    found = fits.in_layers(n, [5, 4.5, 4.2, 4.1])
    assert found["coefficients"]["linear"] == 0
    assert 4.1 < found["coefficients"]["constant"] < 5


# -- works, tables, report ------------------------------------------------------------------------


def test_works():
    every = works.all_works()
    names = [work.name for work in every]
    assert len(set(names)) == len(names)
    assert all(set(work.engines) <= set(ENGINES) and work.engines[0] == "gpt2np" for work in every)
    assert {f"trace-{n}" for n in (5, 32, 100, 512, 1024)} <= set(names)
    quick = works.chosen(None, quick=True)
    assert 0 < len(quick) < len(works.chosen(None, quick=False)) == len(every)
    assert [work.name for work in works.chosen(["decode-900", "cold"], False)] == ["cold", "decode-900"]
    for shape in works.SHAPES.values():
        for work in every:
            job = work.job(shape[work.model], "somewhere")
            ids = [i for prompt in job["arguments"].get("prompts", []) for i in prompt]
            assert all(0 <= i < shape[work.model].vocab_size for i in ids)
            longest = max(work.lengths, default=0) + work.arguments.get("new", 0)
            assert longest <= shape[work.model].n_positions


def made_up(**rounds) -> dict:
    """Results with these rows: name to engine to answers."""
    found = results.new("tiny", 1)
    blank = dict.fromkeys(("memory", "cpu", "system", "python", "numpy", "blas", "gpt2np"), None)
    machine = blank | {"date": "2026-01-01", "cores": 2, "available_cores": 2}
    versions = {"gpt2np": {"numpy": "2.4"}}
    run = {"machine": machine, "absent": {"ctranslate2": "no"}, "versions": versions, "limits": [LIMITS]}
    found["runs"].append(run)
    for work in works.all_works():
        if work.name.replace("-", "_") in rounds:
            taken = rounds[work.name.replace("-", "_")]
            found["works"][work.name] = {
                "label": work.label,
                "model": work.model,
                "method": work.method,
                "lengths": list(work.lengths),
                "arguments": work.arguments,
                "whole": work.whole,
                "run": 0,
                "rounds": taken,
            }
    return found


def taken(*seconds, first=None, peak=100):
    return [{"seconds": s, "peak_mib": peak} | ({} if first is None else {"first": first}) for s in seconds]


EXAMPLE = made_up(
    cold={"gpt2np": taken(0.2, 0.2, 0.25, peak=50), "hf_eager": taken(5.0, 6.0, 5.0, peak=200)},
    trace_1024={"gpt2np": taken(0.5, 0.4, 0.5), "hf_eager": taken(1.0, 0.4, 0.5)},
    decode_32={"gpt2np": taken(1.0, first=0.38), "hf_sdpa": taken(2.0, first=0.14)},
    packed_1={"gpt2np": taken(0.01)},
    packed_64={"gpt2np": taken(0.08)},
    alone_1024={"gpt2np": taken(1.0, peak=60)},
)


def test_ratios_are_taken_round_by_round():
    row = results.rows(EXAMPLE)["trace-1024"]
    assert row.ratio("hf_eager") == {"median": 1.0, "min": 1.0, "max": 2.0}
    assert row.ratio("transformer_lens") is None
    assert results.rows(EXAMPLE)["decode-32"].median(key="step") == pytest.approx(0.62 / 31)
    assert results.rows(EXAMPLE)["decode-32"].ratio("hf_sdpa", "step")["median"] == pytest.approx(3.0)


def test_checks():
    found = {check.label: check for check in checks.checks(EXAMPLE)}
    cold = found["cold process to full trace of 5 tokens, times as fast as HF"]
    assert (cold.seen, cold.holds) == (25.0, True)
    assert found["its peak memory, as a part of HF's"].seen == 0.25
    long = found[f"full trace of 1,024 tokens, times as fast as {LABELS['hf_eager']}"]
    assert (long.wanted, long.seen, long.holds) == (1.5, 1.0, False)
    assert str(long).endswith("wanted at least 1.5, seen 1.00  DOES NOT HOLD")
    other = found[f"full trace of 1,024 tokens, times as fast as {LABELS['transformer_lens']}"]
    assert other.holds is None
    assert "not measured" in str(other)
    assert found["decoding after 32 tokens, times as fast as HF generate"].seen == pytest.approx(3.0)
    packed = next(check for label, check in found.items() if label.startswith("64 packed"))
    assert packed.seen == pytest.approx(8.0)
    memory = next(check for label, check in found.items() if label.startswith("peak memory"))
    config = works.SHAPES["tiny"]["small"]
    expected = 60 * 2**20 / (4 * config.n_parameters + Plan(config, 1024).nbytes)
    assert memory.seen == pytest.approx(expected)


def test_bandwidth_fraction_of_a_step():
    config = works.SHAPES["tiny"]["small"]
    steps = counts.decoding_steps(config, 32, 32)
    expected = np.mean([count.read_bytes / 1e10 for count in steps]) / (0.62 / 31)
    assert results.rows(EXAMPLE)["decode-32"].bandwidth_fraction() == pytest.approx(expected)


def test_tables_and_report():
    text = report.report(EXAMPLE)
    assert "| cold process to full trace, 5 tokens | 200 ms |  | 25.00 [20.00, 30.00] |  |" in text
    assert "CTranslate2 float32: absent" in text
    assert "the figures mean nothing" in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) >= 5
    assert all(len({line.count("|") for line in lines}) == 1 for lines in tables)
    assert table.seconds(1.5) == "1.5 s"
    assert table.seconds(0.0612) == "61.2 ms"
    assert report.report(results.new("gpt2", 2)).startswith("# Results")


def test_scaling_summary_and_report():
    found = results.new("tiny", 1)
    shapes = scaling.shapes("tiny")
    rates = {
        str(w): {str(n): {"block": 1e10, "unembed": 1e10} for n in scaling.TOKENS if n > 1} for w, _ in shapes
    }
    seconds = {}
    for width, n_layer in shapes:
        for n in {*scaling.TOKENS, scaling.AT}:
            for method in scaling.METHODS:
                spent = 0.001 + n_layer * 1e-5 * n
                seconds[f"{width}x{n_layer} {method} {n}"] = [spent, spent]
    machine = made_up()["runs"][0]["machine"]
    limit = {"gemm": rates, "memory": {"read": 1e10, "first_touch": 1e9, "touched": 2e9}}
    found["scaling"] = {"machine": machine, "longest": [64, 2], "limits": [limit], "seconds": seconds}
    trace = scaling.summary(found["scaling"], "tiny")["trace"]
    assert trace["fit"]["coefficients"] == pytest.approx(
        {"constant": 0.001, "linear": 2e-5, "quadratic": 0.0}, rel=1e-3, abs=1e-12
    )
    assert trace["layer_fit"]["coefficients"]["linear"] == pytest.approx(256e-5)
    assert trace["sizes"]["medium"]["extrapolated"] == pytest.approx(0.001 + 3 * 256e-5)
    small = works.SHAPES["tiny"]["small"]
    pair = counts.one_pass(small, [1000]).attention_flops / 1e10
    theory = trace["theory"]
    assert 1000 * 1001 * theory["quadratic"] == pytest.approx(pair)
    assert "### Full trace" in report.report(found)


def test_results_are_json_that_others_read(tmp_path):
    path = tmp_path / "sub" / "RESULTS.json"
    results.write(path, EXAMPLE)
    assert json.loads(path.read_text()) == results.read(path) == EXAMPLE
    assert [p.name for p in path.parent.iterdir()] == ["RESULTS.json"]


# -- the run that is committed ------------------------------------------------------------------------


def test_the_committed_page_is_that_of_its_json_and_what_the_documentation_quotes():
    folder = ROOT / "benchmarks"
    page = (folder / "RESULTS.md").read_text("utf-8")
    assert page == report.report(json.loads((folder / "RESULTS.json").read_text("utf-8")))
    assert all((folder / name).exists() for name in ("RESULTS.png", "SCALING.png"))
    speed = (ROOT / "gpt2np" / "docs" / "performance.md").read_text("utf-8")
    quoted = [line for line in speed.splitlines() if line.startswith("|")]
    assert len(quoted) > 8
    assert set(quoted) <= set(page.splitlines())
