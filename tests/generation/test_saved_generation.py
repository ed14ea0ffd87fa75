"""A generation out of its saved trace: the same as the one that ran."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import gpt2np
from gpt2np import Trace
from gpt2np.analysis import baseline_notebook
from gpt2np.cli import main
from gpt2np.errors import TraceError
from gpt2np.generation.saved_generation import is_whole_generation, saved_generation
from gpt2np.tracing.trace_metadata import SCHEMA

KINDS = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 1},
    "penalised": {"repetition_penalty": 10.0, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    "beams": {"num_beams": 3},
    "one token": {"max_new_tokens": 1},
    "stopped by a string": {"stop": " the"},
    "stopped by a token": {"stop_tokens": [13], "max_new_tokens": 60},
    "some sites": {"keep": ["attn.pattern", "embed", "resid_post", "ln_f"]},
    "some positions": {"keep": {"patterns": "logits", "positions": slice(2, None)}},
    "a derived site": {"keep": ["probabilities", "attn.q"]},
    "in half precision": {"keep": {"patterns": "*", "dtype": "float16"}},
}


def saved(done, path):
    done.trace.save(path)
    return saved_generation(Trace.open(path))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_everything_comes_back(tiny, tmp_path, options):
    done = tiny.generate("Elizabeth was", **{"max_new_tokens": 8, "keep": "*", **options}).finish()
    back = saved(done, tmp_path / "g.safetensors")
    for name in ("token_ids", "tokens", "text", "stopped_by", "n_prompt", "prompt_text", "sampling"):
        assert getattr(back, name) == getattr(done, name), name
    assert np.array_equal(back.probabilities, done.probabilities, equal_nan=True)
    assert back.response.text == done.response.text
    if "keep" not in options:
        assert baseline_notebook.notebook(back.trace) == baseline_notebook.notebook(done)
    assert [step.token for step in back.steps] == [step.token for step in done.steps]
    if "keep" not in options:
        assert np.array_equal(back.steps[0].distribution, done.steps[0].distribution)
        assert np.array_equal(back.attentions[0][1], done.attentions[0][1])


def test_a_prompt_of_ids_several_prompts_and_an_interrupt(tiny, tmp_path):
    one, two = tiny.generate([[36, 70], "Darcy was"], keep="*", max_new_tokens=4).finish()
    for i, done in enumerate((one, two)):
        assert saved(done, tmp_path / f"{i}.safetensors").text == done.text
    run = tiny.generate("Elizabeth was", keep="*")
    next(run), next(run)
    run.stop()
    back = saved(run.finish(), tmp_path / "c.safetensors")
    assert (back.stopped_by, len(back.probabilities)) == ("interrupt", 2)


def test_a_trace_without_that_is_opened_and_said_to_lack_it(tiny, tmp_path):
    trace = tiny.generate("Elizabeth was", keep="*", max_new_tokens=3).finish().trace
    del trace.metadata["generation"], trace.metadata["n_parameters"]  # as version 0.1.0 wrote it
    trace.save(tmp_path / "old.safetensors")
    old = Trace.open(tmp_path / "old.safetensors")
    assert not is_whole_generation(old)
    with pytest.raises(TraceError, match="older version did not keep"):
        saved_generation(old)
    with pytest.raises(TraceError, match="of a text that was read"):
        saved_generation(tiny.trace("Elizabeth was"))


WRONG = {
    "an object": (None, 5),
    "a field missing": ("text", ...),
    "a text": ("last_token", 5),
    "an id too large": ("last_token_id", 2048),
    "why": ("stopped_by", "fatigue"),
    "a number too few": ("probabilities", [0.5]),
    "not a number": ("probabilities", [0.5, "a", 0.5]),
    "a probability above 1": ("probabilities", [0.5, 1.5, 0.5]),
    "null beside numbers": ("probabilities", [None, 0.5, 0.5]),
}


@pytest.mark.parametrize(("field", "value"), WRONG.values(), ids=WRONG)
def test_malformed_facts_are_refused_when_the_file_is_opened(tiny, tmp_path, field, value):
    trace = tiny.generate("Elizabeth was", keep="ln_f", max_new_tokens=3).finish().trace
    facts = dict(trace.metadata["generation"])
    if value is ...:
        del facts[field]
    else:
        facts = value if field is None else facts | {field: value}
    trace.metadata["generation"] = facts
    trace.save(tmp_path / "g.safetensors")
    with pytest.raises(TraceError, match=r"g\.safetensors: generation") as caught:
        Trace.open(tmp_path / "g.safetensors")
    assert field is None or field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_facts_that_do_not_fit(tiny, tmp_path):
    trace = tiny.generate("Elizabeth was", keep="ln_f", max_new_tokens=3).finish().trace
    facts = trace.metadata["generation"]
    trace.metadata["generation"] = facts | {"sampling": {"temperature": "hot"}}
    trace.save(tmp_path / "a.safetensors")
    with pytest.raises(TraceError, match="sampling: temperature"):
        saved_generation(Trace.open(tmp_path / "a.safetensors"))
    trace.metadata |= {"generation": facts, "n_prompt": None}
    trace.save(tmp_path / "b.safetensors")
    with pytest.raises(TraceError, match="n_prompt"):
        Trace.open(tmp_path / "b.safetensors")
    assert trace.metadata["schema"] == SCHEMA


def test_probabilities_of_beams_are_null_in_the_file(tiny):
    done = tiny.generate("Elizabeth was", keep="ln_f", max_new_tokens=3, num_beams=2).finish()
    assert done.trace.metadata["generation"]["probabilities"] == [None] * 3
    assert all(map(math.isnan, saved_generation(done.trace).probabilities))
    json.dumps(done.trace.metadata, allow_nan=False)


STATS = [
    ["--max-new-tokens", "5"],
    ["--max-new-tokens", "5", "--repetition-penalty", "10"],
    ["--max-new-tokens", "4", "--temperature", "0.9", "--seed", "3"],
    ["--max-new-tokens", "1"],
]


@pytest.mark.every(2)
@pytest.mark.parametrize("options", STATS, ids=" ".join)
@pytest.mark.parametrize("more", [[], ["--json"], ["--step", "0", "--every", "1"]], ids=" ".join)
def test_stats_of_it_are_those_of_the_generation(capsys, monkeypatch, tmp_path, options, more):
    monkeypatch.chdir(tmp_path)
    prompt = "Elizabeth was not"
    assert main(["generate", prompt, *options, "--out", "g.safetensors"]) == 0
    capsys.readouterr()
    assert main(["stats", prompt, *options, *more]) == 0
    expected = capsys.readouterr().out
    assert main(["stats", "--trace", "g.safetensors", *more]) == 0
    assert capsys.readouterr().out == expected


def test_parameters_are_counted_as_the_model_counts_them(capsys, tmp_path):
    folder = Path(__file__).parents[1] / "goldens" / "untied"
    options = ["--model", str(folder), "--tokens", "1 2 3"]
    assert main(["stats", *options, "--max-new-tokens", "2"]) == 0
    expected = capsys.readouterr().out
    model = gpt2np.load(str(folder))
    assert model.n_parameters > model.config.n_parameters  # an unembedding of its own
    assert f"{model.n_parameters:,}" in expected
    assert main(["generate", *options, "--max-new-tokens", "2", "--out", str(tmp_path / "g")]) == 0
    capsys.readouterr()
    assert main(["stats", "--trace", str(tmp_path / "g")]) == 0
    assert capsys.readouterr().out == expected
