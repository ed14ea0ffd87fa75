"""The extraction guide from top to bottom, in one folder, held against its own script run with torch."""

import pytest
from documents.extraction_guide_steps import (
    LEFT_OUT,
    PER_INFERENCE,
    PROMPT,
    SCALING,
    STEPS,
    script_for_the_test,
)
from support.document_models import write_model
from support.document_reader import Reader

from gpt2np.architectures.gpt2.config import RELEASED
from gpt2np.tracing.plan import Plan


@pytest.mark.needs("torch", "transformers")
def test_in_order(capsys, monkeypatch, tmp_path):
    import torch
    from transformers import AutoTokenizer

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    write_model("gpt2")
    ids = torch.tensor([AutoTokenizer.from_pretrained("gpt2").encode(PROMPT)])
    theirs = {"input_ids": ids}
    exec(compile(script_for_the_test(), "the guide's script", "exec"), theirs)
    reader = Reader(capsys)
    reader.names |= {"input_ids": ids, "hf": theirs["outputs"], "hooked": theirs["extractions"]}
    for step in STEPS:
        assert step.check is not None
        reader.take(step)


def test_memory_at_100_tokens_is_the_guides_and_what_it_leaves_out():
    groups = Plan(RELEASED["gpt2"], 100).groups()
    for size, _, sites in PER_INFERENCE.values():
        assert size == sum(groups[site] for site in sites)
    named = {site for _, _, sites in PER_INFERENCE.values() for site in sites}
    assert named | {*LEFT_OUT} == {*groups}
    assert sum(size for size, _, _ in PER_INFERENCE.values()) == pytest.approx(84e6, rel=0.01)
    assert sum(groups.values()) == 99_206_800


@pytest.mark.parametrize("n", SCALING)
def test_the_guides_attention_is_right_and_its_linear_column_too_low(n):
    attention, linear, total = SCALING[n]
    plan = Plan(RELEASED["gpt2"], n)
    assert attention * 1e6 == pytest.approx(plan.quadratic_nbytes, rel=0.02)
    of_rows = sum(size for size, _, _ in PER_INFERENCE.values()) - 2 * 12 * 12 * 100 * 100 * 4
    assert linear * 1e6 < 0.9 * of_rows * n / 100
    assert total == pytest.approx(attention + linear, rel=0.02)
