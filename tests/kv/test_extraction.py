"""Document 003's KV cache: its dict and its JSON bit for bit, and going on from a file."""

import copy
import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from support.random_model import random_model

import gpt2np
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import Gpt2npError, InputError, TraceError
from gpt2np.export.decimal_text import rows_as_text
from gpt2np.kv.extraction import SAMPLE_PROMPTS, GPT2KVCacheExtractor, document, extract_to_file, write_json
from gpt2np.kv.queries import KV
from gpt2np.kv.reading import read_kv
from gpt2np.kv.resume import load_kv

TEXT = "The quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def extractor(tiny):
    return GPT2KVCacheExtractor(model_name=tiny)


@pytest.fixture
def saved(extractor, tmp_path):
    path = tmp_path / "output.json"
    extractor.save_to_json(extractor.extract_kv_cache(TEXT), path)
    return path


# -- numbers as text ----------------------------------------------------------------------------------


def number_tables():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 1 << 15, dtype=np.uint32).view(np.float32)
    powers = (10.0 ** np.arange(-45, 39)).astype(np.float32)
    with np.errstate(under="ignore"):
        near = np.concatenate([np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(1e38))])
    return {
        "any bits": bits[np.isfinite(bits)],
        "as in keys": rng.standard_normal(1 << 15).astype(np.float32),
        "every size": (10 ** rng.uniform(-6, 6, 1 << 15)).astype(np.float32),
        "powers of ten": np.concatenate([powers, -powers, near, -near]),
        "short": np.array([0, -0.0, 1, -1, 0.5, 10, 100, 1234, 9999.9995, 1e4, 0.1, 1e-4], np.float32),
    }


@pytest.mark.parametrize("name", number_tables())
@pytest.mark.parametrize("n_columns", [1, 12, 4096])
def test_numbers_restore_the_same_float32_in_nine_digits(name, n_columns):
    values = number_tables()[name]
    rows = np.resize(values, (-(-len(values) // n_columns), n_columns))
    lines = rows_as_text(rows)
    assert len(lines) == len(rows)
    parsed = [json.loads(f"[{line}]") for line in lines]
    assert np.array(parsed, np.float32).tobytes() == rows.tobytes()
    assert all(type(x) is float for row in parsed for x in row)
    for spelled in ",".join(lines).split(","):
        digits = spelled.split("e")[0].lstrip("-").replace(".", "").lstrip("0")
        assert len(digits.removesuffix("0") if spelled.endswith(".0") else digits) <= 9, spelled


def test_numbers_are_as_short_as_numpy_makes_them():
    values = np.random.default_rng(1).standard_normal((100, 100)).astype(np.float32)
    ours, numpys = ",".join(rows_as_text(values)), ",".join(str(x) for x in values.ravel())
    assert len(ours) <= len(numpys) * 1.001
    assert rows_as_text(np.empty((2, 0), np.float32)) == ["", ""]


# -- the document -------------------------------------------------------------------------------------


def test_example_1(monkeypatch, capsys):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    with pytest.warns(UserWarning, match="this is tiny; the real GPT-2 is"):
        extractor = gpt2np.GPT2KVCacheExtractor()
    result = extractor.extract_kv_cache("Hello world")
    print(f"Predicted next token: {result['predicted_next_token']['token']}")
    assert (
        capsys.readouterr().out
        == f"Predicted next token: {gpt2np.load().trace('Hello world').top(1)[0][0]}\n"
    )
    assert extractor.model.name == "tiny"


def test_example_2(extractor, tiny, capsys):
    result = extractor.extract_kv_cache("Hello world")
    kv_data = extractor.get_coordinate_kv(result, layer=0, head=0, token=0)
    print(f"Key vector: {kv_data['key'][:5]}")
    print(f"Value vector: {kv_data['value'][:5]}")
    trace = tiny.trace("Hello world")
    key, value = (trace[f"h.0.attn.{part}"][0, 0, :5].tolist() for part in "kv")
    assert capsys.readouterr().out == f"Key vector: {key}\nValue vector: {value}\n"


def test_quick_start(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extractor = GPT2KVCacheExtractor(model_name="tiny")
    result = extractor.extract_kv_cache("The quick brown fox jumps over the lazy dog")
    extractor.save_to_json(result, "output.json")
    assert json.loads(Path("output.json").read_text("utf-8"))["model"] == "tiny"


@pytest.mark.filterwarnings("error")
def test_a_name_a_folder_a_model_or_the_variable(tiny, monkeypatch):
    folder = tiny.checkpoint.folder
    monkeypatch.setenv("GPT2NP_MODEL", str(folder))
    for given in (None, folder, str(folder), "tiny", tiny):
        assert GPT2KVCacheExtractor(given).model.config == tiny.config
    assert GPT2KVCacheExtractor().model.name == str(folder)
    monkeypatch.setenv("GPT2NP_MODEL", "tiny")
    assert GPT2KVCacheExtractor().model.name == "tiny"


def test_the_json_is_the_documents_key_for_key(saved, tiny):
    read, trace = json.loads(saved.read_text("utf-8")), tiny.trace(TEXT)
    theirs = ["model", "input_text", "input_tokens", "predicted_next_token", "kv_cache", "metadata"]
    assert sorted(read) == sorted([*theirs, "schema", "input_token_ids", "fingerprint", "digest"])
    assert (read["model"], read["input_text"], read["input_tokens"]) == ("tiny", TEXT, trace.tokens)
    assert read["input_token_ids"] == trace.token_ids
    assert read["fingerprint"] == tiny.checkpoint.fingerprint
    assert list(read["predicted_next_token"]) == ["token", "token_id", "top_k_candidates"]
    top = trace.top(5)
    assert (read["predicted_next_token"]["token"], read["predicted_next_token"]["token_id"]) == top[0][:2]
    candidates = read["predicted_next_token"]["top_k_candidates"]
    assert [list(c) for c in candidates] == [["token", "probability"]] * 5
    assert [c["token"] for c in candidates] == [token for token, _, _ in top]
    assert [c["probability"] for c in candidates] == pytest.approx([p for _, _, p in top], rel=1e-4)
    assert read["metadata"] == {
        "n_layers": 4,
        "n_heads": 4,
        "d_head": 48,
        "sequence_length": len(trace.tokens),
    }


def test_every_number_is_the_traces_bit_for_bit(saved, tiny):
    read = json.loads(saved.read_text("utf-8"))["kv_cache"]
    trace = tiny.trace(TEXT, keep="attn.qkv")
    assert list(read) == [f"layer_{i}" for i in range(4)]
    for layer in range(4):
        heads = read[f"layer_{layer}"]
        assert list(heads) == [f"head_{i}" for i in range(4)]
        for head in range(4):
            assert list(heads[f"head_{head}"]) == ["tokens"]
            tokens = heads[f"head_{head}"]["tokens"]
            assert [list(t) for t in tokens] == [["token_idx", "key", "value"]] * len(trace.tokens)
            assert [t["token_idx"] for t in tokens] == list(range(len(trace.tokens)))
            for part in ("key", "value"):
                found = np.array([t[part] for t in tokens], np.float32)
                expected = trace[f"h.{layer}.attn.{part[0]}"][:, head]
                assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_the_dict_is_what_json_makes_of_the_file(extractor, saved, tmp_path):
    result = extractor.extract_kv_cache(TEXT)
    assert result["kv_cache"]["layer_0"]["head_0"]["tokens"][0]["key"][:5]
    assert json.loads(json.dumps(result)) == result
    assert json.loads(json.dumps(result, indent=2)) == result
    plain = json.loads(saved.read_text("utf-8"))
    extractor.save_to_json(plain, tmp_path / "again.json")  # a dict that json made is written too
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()
    extractor.save_to_json(copy.deepcopy(result), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()
    kv, again = read_kv(saved), read_kv(tmp_path / "again.json")
    for ours, theirs in zip(kv.layers, again.layers, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert extractor.get_coordinate_kv(plain, 3, 2, 1)["token"] == plain["input_tokens"][1]


def test_the_lists_of_tokens_behave_like_lists(extractor):
    tokens = extractor.extract_kv_cache(TEXT)["kv_cache"]["layer_1"]["head_2"]["tokens"]
    plain = list(tokens)
    assert isinstance(tokens, list)
    assert tokens == plain
    assert plain == tokens
    assert tokens != plain[:-1]
    assert len(tokens) == len(plain) == plain[-1]["token_idx"] + 1
    assert tokens[-1] == plain[-1]
    assert tokens[1:3] == plain[1:3]
    assert list(reversed(tokens)) == plain[::-1]
    assert plain[3] in tokens
    assert 3 not in tokens
    assert "17 tokens" in repr(tokens)
    for made in (copy.deepcopy(tokens), copy.copy(tokens), pickle.loads(pickle.dumps(tokens))):
        assert type(made) is list
        assert made == plain
    more, nothing = [{"token_idx": 17}], []
    assert nothing + tokens == tokens + nothing == [*tokens] == plain
    assert more + tokens == more + plain
    assert tokens + more == plain + more
    assert tokens + tokens == plain + plain
    assert tokens * 2 == 2 * tokens == plain * 2
    assert type(tokens + nothing) is type(nothing + tokens) is type(tokens * 1) is type(tokens.copy()) is list
    assert tokens.copy() == plain
    assert (tokens.count(plain[3]), tokens.count(3)) == (1, 0)
    assert (tokens.index(plain[3]), tokens.index(plain[3], 2, 5)) == (3, 3)
    with pytest.raises(ValueError, match="not in list"):
        tokens.index(plain[3], 4)
    assert tokens > plain[:-1]
    assert plain[:-1] < tokens
    assert tokens >= plain >= tokens
    assert tokens <= plain <= tokens
    assert not tokens < plain
    with pytest.raises(TypeError):
        tokens + 1
    extended = []
    extended.extend(tokens)
    extended += tokens
    assert extended == plain + plain
    with pytest.raises(IndexError):
        tokens[17]
    with pytest.raises(TypeError, match="cannot be changed"):
        tokens.append(plain[0])
    with pytest.raises(TypeError, match="cannot be changed"):
        tokens[0] = plain[0]


def test_ids_and_a_model_without_vocabulary(tmp_path):
    model = random_model(dtype="float32")
    result = GPT2KVCacheExtractor(model).extract_kv_cache([5, 6, 7])
    assert result["input_tokens"] == ["<5>", "<6>", "<7>"]
    assert result["input_text"] == "<5><6><7>"
    write_json(result, tmp_path / "kv.json")
    assert load_kv(tmp_path / "kv.json", model).token_ids == [5, 6, 7]


def test_the_basic_usage_example(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "gpt2np.kv.examples.basic_usage", "tiny"], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert "Predicted next token: " in done.stdout
    assert TEXT in done.stdout


def test_the_sample_prompts_fit_into_any_context(tiny):
    prompts = SAMPLE_PROMPTS.read_text("utf-8").splitlines()
    assert prompts[0] == TEXT
    assert len(prompts) == len(set(prompts)) >= 10
    assert all(len(tiny.token_ids(prompt)) <= 32 for prompt in prompts)


# -- size, memory, speed ------------------------------------------------------------------------------


def gpt2_shape(n: int) -> KV:
    """Random keys and values of GPT-2 small's shape."""
    arrays = np.random.default_rng(0).standard_normal((12, 2, n, 12, 64), dtype=np.float32)
    return KV("gpt2", ["a"] * n, [(k, v) for k, v in arrays], "a" * n, [64] * n)


def test_written_as_a_stream(tmp_path):
    kv = gpt2_shape(100)
    tracemalloc.start()
    write_json(document(kv, kv.text), tmp_path / "kv.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "kv.json").stat().st_size > 18e6
    assert peak < 8e6, peak


def test_smaller_than_json_dump(tmp_path):
    kv = gpt2_shape(40)
    write_json(document(kv, kv.text), tmp_path / "ours.json")
    with open(tmp_path / "theirs.json", "w") as file:
        json.dump(document(kv, kv.text), file)
    assert (tmp_path / "ours.json").stat().st_size < 0.6 * (tmp_path / "theirs.json").stat().st_size


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_1024_tokens_of_gpt2_small():
    bench = Path(__file__).parents[2] / "benchmarks" / "bench_kv_json.py"
    done = subprocess.run(
        [sys.executable, bench, "--rounds", "1"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["json_dump_over_gpt2np"] >= 4
    assert found["mib_above_the_trace"]["gpt2np_json"] < 95  # 100 MB


def test_safetensors_hold_the_same_and_are_smaller(extractor, saved, tiny, tmp_path):
    path = tmp_path / "kv.safetensors"
    facts = extract_to_file(tiny, TEXT, path)
    ours, theirs = read_kv(path), read_kv(saved)
    assert (ours.text, ours.tokens, ours.token_ids) == (theirs.text, theirs.tokens, theirs.token_ids)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.prediction["token"] == theirs.prediction["token"] == facts["predicted_next_token"]["token"]
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        np.testing.assert_array_equal(a, b)
    assert path.stat().st_size < 0.42 * saved.stat().st_size  # a header of 5 kB in it
    assert ours.nbytes < path.stat().st_size


# -- going on from a file -----------------------------------------------------------------------------

OPTIONS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 3},
    "penalised": {"temperature": 0.7, "repetition_penalty": 1.2, "seed": 1},
    "lookup": {"lookup": 4},
    "beams": {"num_beams": 3},
}


def files(model, prompt, folder):
    """The same keys and values in the three kinds of file."""
    extract_to_file(model, prompt, folder / "a.json")
    extract_to_file(model, prompt, folder / "b.safetensors")
    model.trace(prompt, keep="attn.qkv").save(folder / "c.safetensors")
    return [folder / name for name in ("a.json", "b.safetensors", "c.safetensors")]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_resumed_tokens_are_those_of_a_cache_that_never_left(tiny, tmp_path, options):
    whole = tiny.generate(TEXT, max_new_tokens=25, **options).finish()
    memory = tiny.generate(
        TEXT, past=tiny.trace(TEXT, keep="attn.qkv"), max_new_tokens=25, **options
    ).finish()
    assert memory.token_ids == whole.token_ids
    for path in files(tiny, TEXT, tmp_path):
        done = load_kv(path, tiny).generate(max_new_tokens=25, **options).finish()
        assert (done.token_ids, done.text, done.stopped_by) == (whole.token_ids, whole.text, whole.stopped_by)
        np.testing.assert_array_equal(done.probabilities, memory.probabilities)  # bit for bit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_trace_of_the_continuation_starts_at_the_last_token(dtype, tmp_path):
    model, prompt = random_model(dtype=dtype), [3, 1, 4, 1, 5]
    whole = model.generate(prompt, max_new_tokens=9, keep="*").finish().trace
    for path in files(model, prompt, tmp_path):
        done = load_kv(path, model).generate(max_new_tokens=9, keep="*").finish()
        trace, start = done.trace, len(prompt) - 1
        assert list(trace.positions) == list(range(start, len(whole.token_ids)))
        assert trace.token_ids == whole.token_ids
        assert len(trace.verify().checked) > 20
        tolerance = 1e-4 if dtype == "float32" or path.suffix == ".json" else 1e-10
        for name in whole.names():
            rows = slice(None) if "attn.scores" in name or "attn.pattern" in name else slice(start, None)
            expected = whole[name][rows] if rows.start else whole[name][:, start:]
            np.testing.assert_allclose(trace[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
        trace.save(tmp_path / "continued.safetensors")
        again = gpt2np.Trace.open(tmp_path / "continued.safetensors", model=model)
        np.testing.assert_array_equal(again["h.1.mlp.out"], trace["h.1.mlp.out"])
        assert done.steps[0]["h.1.mlp.out"].shape == (1, 16)


@pytest.mark.parametrize(
    "keep",
    [["attn.heads", "ln_2.normalized", "probabilities", "loss"], {"positions": slice(1, None, 3)}, "logits"],
    ids=str,
)
def test_other_keeps_of_a_continuation(tmp_path, keep):
    model, prompt = random_model(), [3, 1, 4, 1, 5]
    whole = model.generate(prompt, max_new_tokens=9, keep=keep).finish().trace
    past = model.trace(prompt, keep="attn.qkv")
    trace = model.generate(prompt, max_new_tokens=9, keep=keep, past=past).finish().trace
    kept = [position for position in whole.positions if position >= 4]
    assert list(trace.positions) == kept
    for name in whole.names():
        quadratic = SITES[name.split(".", 2)[-1] if name.startswith("h.") else name].quadratic
        expected = whole[name][:, -len(kept) :] if quadratic else whole[name][-len(kept) :]
        np.testing.assert_allclose(trace[name], expected, rtol=1e-9, atol=1e-9, err_msg=name)


def test_going_on_with_more_text_and_from_a_longer_cache(tiny, saved):
    cache = load_kv(saved, tiny)
    more = tiny.tokenizer.encode(" and then")
    whole = tiny.generate(cache.token_ids + more, max_new_tokens=10).finish()
    assert cache.generate(" and then", max_new_tokens=10).finish().token_ids == whole.token_ids
    assert cache.generate(more, max_new_tokens=10).finish().token_ids == whole.token_ids
    part = tiny.generate(cache.token_ids[:5], past=cache, max_new_tokens=10).finish()
    assert part.token_ids == tiny.generate(cache.token_ids[:5], max_new_tokens=10).finish().token_ids
    assert "17 tokens" in repr(cache)


def test_a_generations_trace_can_be_gone_on_with(tiny, tmp_path):
    first = tiny.generate("Elizabeth was", max_new_tokens=10, keep="attn.qkv", eos=None).finish()
    first.trace.save(tmp_path / "t.safetensors")
    cache = load_kv(tmp_path / "t.safetensors", tiny)
    whole = tiny.generate("Elizabeth was", max_new_tokens=20, eos=None).finish()
    assert cache.generate(max_new_tokens=11, eos=None).finish().token_ids == whole.token_ids


def test_one_token_and_a_full_context(tmp_path):
    model = random_model(dtype="float32", n_positions=32)
    for ids in ([7], list(range(32))):
        for path in files(model, ids, tmp_path):
            cache = load_kv(path, model)
            done = cache.generate(max_new_tokens=1).finish()
            assert done.token_ids == model.generate(ids, max_new_tokens=1).finish().token_ids
    with pytest.raises(InputError, match="context"):
        cache.generate(max_new_tokens=2)
    slid = cache.generate(max_new_tokens=5, on_overflow="slide").finish()
    assert slid.token_ids == model.generate(ids, max_new_tokens=5, on_overflow="slide").finish().token_ids


def test_another_copy_of_the_weights_is_the_same_model(tiny, saved, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in tiny.checkpoint.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    copied = gpt2np.load(folder)
    assert copied.checkpoint.fingerprint != tiny.checkpoint.fingerprint  # it has another time of change
    assert load_kv(saved, copied).generate(max_new_tokens=3).finish().trace is None


# -- wrong input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at", [(4, 0, 0), (0, 4, 0), (0, 0, 17), (-1, 0, 0), (0, 0, -1), (0.0, 0, 0), (True, 0, 0)]
)
def test_coordinates_out_of_range(extractor, at):
    result = extractor.extract_kv_cache(TEXT)
    with pytest.raises(InputError, match=r"is not one of 0 to (3|16)"):
        extractor.get_coordinate_kv(result, *at)


def test_texts_that_cannot_be_run(extractor):
    for text in ("", "a " * 500, [99999]):
        with pytest.raises(InputError):
            extractor.extract_kv_cache(text)
    with pytest.raises(InputError, match="at least 1"):
        extractor.extract_kv_cache(TEXT, top_k=0)


@pytest.mark.parametrize("given", [5, b"x", 1.5, ["tiny"], True])
def test_models_that_are_none(given):
    with pytest.raises(InputError, match="model_name must be a name, a folder or a Model, not"):
        GPT2KVCacheExtractor(given)


@pytest.mark.parametrize("text", [[[1]], [[1, 2], [3]], ["a", "b"], 5, b"x", None, [1.5], [True], []])
def test_texts_that_are_none(extractor, tmp_path, text):
    with pytest.raises(InputError, match=r"token id|prompt"):
        extractor.extract_kv_cache(text)


@pytest.mark.parametrize("top_k", ["a", 1.5, None, True, 0, -1])
def test_top_k_that_is_none(extractor, tiny, tmp_path, top_k):
    for call in (
        lambda: extractor.extract_kv_cache(TEXT, top_k=top_k),
        lambda: extract_to_file(tiny, TEXT, tmp_path / "kv.json", top_k),
        lambda: extract_to_file(tiny, TEXT, tmp_path / "kv.safetensors", top_k),
    ):
        with pytest.raises(InputError, match=r"top_k=.*: must be a whole number of at least 1"):
            call()
    assert os.listdir(tmp_path) == []
    assert len(extractor.extract_kv_cache(TEXT, np.int64(2))["predicted_next_token"]["top_k_candidates"]) == 2


FOREIGN = {
    "nothing": ({}, "'input_tokens'|'model'"),
    "None": (None, "found None"),
    "a list": ([], r"found \[\]"),
    "a number for kv_cache": ({"input_tokens": [], "kv_cache": 5}, "kv_cache: .*found 5|'model'"),
}
FOREIGN_PARTS = {
    "kv_cache": (5, "kv_cache: expected layer_0 and so on, found 5"),
    "kv_cache__layer_1": ({"head": 3}, r"kv_cache\.layer_1: expected head_0 and so on, found \['head'\]"),
    "kv_cache__layer_1__head_2": (None, r"kv_cache\.layer_1\.head_2\.tokens: expected 17 entries"),
    "kv_cache__layer_1__head_2__tokens": ([1], r"layer_1\.head_2\.tokens: expected 17 entries, found \[1\]"),
    "input_tokens": ("abc", "input_tokens: expected a list"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_results_that_are_none(extractor, tmp_path, case):
    given, message = FOREIGN[case]
    with pytest.raises(InputError, match=message):
        extractor.get_coordinate_kv(given, 0, 0, 0)
    with pytest.raises(InputError, match=message):
        extractor.save_to_json(given, tmp_path / "kv.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", FOREIGN_PARTS)
def test_results_with_something_wrong(extractor, saved, place):
    value, message = FOREIGN_PARTS[place]
    changed(saved, **{place: value})
    given = json.loads(saved.read_text("utf-8"))
    with pytest.raises(InputError, match=message):
        extractor.get_coordinate_kv(given, 0, 0, 0)
    with pytest.raises(InputError, match=message):
        extractor.save_to_json(given, saved.parent / "kv.json")
    assert os.listdir(saved.parent) == [saved.name]
    changed(saved, **{place: ...})
    with pytest.raises(InputError, match=place.split("__")[-1].split("_")[0]):
        extractor.save_to_json(json.loads(saved.read_text("utf-8")), saved.parent / "kv.json")


def changed(path, **values):
    """A file like this one with other values at places such as `kv_cache.layer_0`."""
    content = json.loads(path.read_text("utf-8"))
    for place, value in values.items():
        *parents, last = place.split("__")
        inner = content
        for key in parents:
            inner = inner[int(key) if key.isdecimal() else key]
        last = int(last) if last.isdecimal() else last
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    path.write_text(json.dumps(content))


TOKEN = "kv_cache__layer_1__head_2__tokens__3"
WRONG = {
    "another schema": ({"schema": "gpt2np.kv/2"}, "schema"),
    "no model": ({"model": ...}, "'model'"),
    "no kv_cache": ({"kv_cache": ...}, "'kv_cache'"),
    "model a number": ({"model": 3}, "model"),
    "text a list": ({"input_text": []}, "input_text"),
    "tokens a text": ({"input_tokens": "abc"}, "input_tokens"),
    "a token more": ({"input_tokens": ["a"] * 18}, "18"),
    "ids missing one": ({"input_token_ids": [1, 2]}, "input_token_ids"),
    "ids of text": ({"input_token_ids": ["a"] * 17}, "input_token_ids"),
    "prediction a text": ({"predicted_next_token": "a"}, "predicted_next_token"),
    "prediction half": ({"predicted_next_token__token_id": ...}, "predicted_next_token"),
    "metadata gone": ({"metadata": None}, "metadata"),
    "negative size": ({"metadata__n_heads": -1}, "metadata"),
    "a layer more": ({"metadata__n_layers": 5}, "layer_0 to layer_4"),
    "a layer less": ({"kv_cache__layer_2": ...}, "layer_0 to layer_3"),
    "a head less": ({"kv_cache__layer_2__head_0": ...}, r"kv_cache\.layer_2"),
    "a head a list": ({"kv_cache__layer_2__head_0": []}, r"layer_2\.head_0"),
    "tokens missing": ({"kv_cache__layer_2__head_0__tokens": []}, r"layer_2\.head_0\.tokens"),
    "a token without key": ({f"{TOKEN}__key": ...}, r"layer_1\.head_2\.tokens\[3\]"),
    "out of order": ({f"{TOKEN}__token_idx": 4}, r"tokens\[3\]\.token_idx"),
    "a key too short": ({f"{TOKEN}__key": [1.0] * 47}, r"tokens\[3\]\.key: expected 48"),
    "a value of texts": ({f"{TOKEN}__value": ["1"] * 48}, r"tokens\[3\]\.value"),
    "a value of nulls": ({f"{TOKEN}__value": [None] * 48}, r"tokens\[3\]\.value"),
    "a value of lists": ({f"{TOKEN}__value": [[1.0]] * 48}, r"tokens\[3\]\.value"),
    "too large": ({f"{TOKEN}__value": [1e39] * 48}, "float32"),
    "huge integers": ({f"{TOKEN}__value": [10**400] * 48}, r"tokens\[3\]\.value"),
    "not a number": ({f"{TOKEN}__value__0": float("nan")}, "NaN"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_json_with_something_wrong(saved, values, message):
    changed(saved, **values)
    with pytest.raises(TraceError, match=message) as caught:
        read_kv(saved)
    assert str(saved) in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "3", '"kv"', "{}", '{"model": "gpt2"}', "[" * 100_000, "\x00\xff", "NaN"],
)
def test_foreign_files(tmp_path, content, tiny):
    path = tmp_path / "kv.json"
    path.write_bytes(content.encode("latin-1"))
    for read in (read_kv, lambda path: load_kv(path, tiny)):
        with pytest.raises(TraceError, match=r"kv\.json"):
            read(path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.99999])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_truncated_files(tmp_path, tiny, share, suffix):
    path = tmp_path / f"kv{suffix}"
    extract_to_file(tiny, TEXT, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TraceError, match=r"kv\."):
        load_kv(path, tiny)


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(TraceError, match=str(path)):
            read_kv(path)


def test_another_programs_file_is_read_but_not_gone_on_with(saved, tiny):
    changed(saved, schema=..., input_token_ids=..., fingerprint=..., digest=...)
    kv = read_kv(saved)
    assert kv.tokens == tiny.trace(TEXT).tokens
    assert kv.find("fox") == [range(4, 6)]
    with pytest.raises(TraceError, match="input_token_ids"):
        load_kv(saved, tiny)


def test_a_file_of_another_model(saved, tiny, tmp_path):
    with pytest.raises(TraceError, match="n_layers is 4, random has 2"):
        load_kv(saved, random_model())
    a, b = random_model(seed=1, dtype="float32"), random_model(seed=2, dtype="float32")
    for path in files(a, [5, 6, 7, 8], tmp_path):
        assert load_kv(path, a)
        if path.suffix == ".json":
            changed(path, fingerprint="theirs")
        with pytest.raises(TraceError, match=r"damaged|of another model"):
            load_kv(path, b)
    few = random_model(dtype="float32", vocab_size=6)
    with pytest.raises(TraceError, match="is not one of 0 to 5"):
        load_kv(path, few)


@pytest.mark.parametrize(
    "at", [f"kv_cache__layer_{i}__head_1__tokens__{t}__key__7" for i in (0, 3) for t in (16, 2)]
)
def test_a_number_changed_by_hand(saved, tiny, at):
    changed(saved, **{at: 1e6})
    with pytest.raises(TraceError, match="damaged"):
        load_kv(saved, tiny)


def flipped(path, layer, head, token, part="key", digest=True):
    """Write a file again with one vector times -2, with its digest or without."""
    if path.suffix == ".json":
        content = json.loads(path.read_text("utf-8"))
        vectors = content["kv_cache"][f"layer_{layer}"][f"head_{head}"]["tokens"][token]
        vectors[part] = [-2 * x for x in vectors[part]]
        if not digest:
            del content["digest"]
        path.write_text(json.dumps(content))
        return
    arrays = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays[f"h.{layer}.attn.{part[0]}"][token, head] *= -2
    if not digest:
        facts = json.loads(metadata["gpt2np"])
        del facts["digest"]
        metadata["gpt2np"] = json.dumps(facts)
    safetensors.numpy.save_file(arrays, path, metadata)


@pytest.mark.parametrize("digest", [True, False], ids=["digest", "no digest"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_vector_changed_anywhere(tiny, tmp_path, suffix, digest):
    rng, path = np.random.default_rng(5), tmp_path / f"kv{suffix}"
    extract_to_file(tiny, TEXT, path)
    whole = path.read_bytes()
    for part in ("key", "value") * 6:
        path.write_bytes(whole)
        flipped(path, *rng.integers([4, 4, 17]).tolist(), part, digest)
        with pytest.raises(TraceError, match="damaged"):
            load_kv(path, tiny)


def test_a_saved_trace_has_no_digest_and_is_run_again(tiny, tmp_path):
    path = tmp_path / "t.safetensors"
    tiny.trace(TEXT, keep=["attn.k", "attn.v"]).save(path)
    assert load_kv(path, tiny).generate(max_new_tokens=2).finish()
    arrays = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays["h.0.attn.k"][3, 2] *= -2
    safetensors.numpy.save_file(arrays, path, metadata)
    with pytest.raises(TraceError, match="is damaged: its text, run again, comes out otherwise"):
        load_kv(path, tiny)


def test_the_digest_of_the_file_by_hand(saved):
    content = json.loads(saved.read_text("utf-8"))
    digest = hashlib.sha256(np.array(content["input_token_ids"], "<i8").tobytes())
    for heads in content["kv_cache"].values():
        for part in ("key", "value"):
            vectors = [[token[part] for token in head["tokens"]] for head in heads.values()]
            digest.update(np.array(vectors, "<f4").transpose(1, 0, 2).tobytes())
    assert content["digest"] == digest.hexdigest()


def test_another_model_that_differs_where_the_last_token_does_not_look(tmp_path):
    a = random_model(dtype="float32", n_layer=1)
    wte = np.array(a.weights["wte.weight"])
    wte[5] *= -1
    b, ids = a.with_weights({"wte.weight": wte}), [5, 6, 7, 8]
    for path in files(a, ids, tmp_path):
        if path.suffix == ".json":
            changed(path, predicted_next_token=None)
        assert load_kv(path, a)
        with pytest.raises(TraceError, match="of another model than random: its text, run again"):
            load_kv(path, b)
    same = replace(random_model(dtype="float32", n_layer=1).checkpoint, fingerprint="another")
    assert load_kv(path, gpt2np.Model(same, "float32"))


@pytest.mark.parametrize("token_id", [2048, 10**9, -1])
def test_a_predicted_token_outside_the_vocabulary(saved, tiny, token_id):
    changed(saved, predicted_next_token__token_id=token_id)
    with pytest.raises(TraceError, match=r"predicted_next_token.*(not one of 0 to 2047|expected)"):
        load_kv(saved, tiny)
    changed(saved, predicted_next_token__token_id=2047, predicted_next_token__top_k_candidates=[])
    assert load_kv(saved, tiny)


def test_tokens_changed_by_hand(saved, tiny):
    changed(saved, input_tokens__3="zebra")
    with pytest.raises(TraceError, match="input_tokens"):
        load_kv(saved, tiny)


def test_traces_without_keys(tmp_path, tiny):
    path = tmp_path / "t.safetensors"
    for keep, message in (
        ("attn.z", "attn.qkv"),
        ("h.0.attn.qkv", r"h\.1\.attn\.qkv"),
        ({"patterns": "attn.qkv", "positions": slice(2, None)}, "every position"),
    ):
        tiny.trace(TEXT, keep=keep).save(path)
        with pytest.raises(TraceError, match=message):
            read_kv(path)
    tiny.trace(TEXT, keep={"patterns": "attn.qkv", "dtype": "float16"}).save(path)
    assert read_kv(path).layers[0][0].shape == (17, 4, 48)
    for resume in (load_kv, lambda path, model: model.generate(TEXT, past=gpt2np.Trace.open(path))):
        with pytest.raises(Gpt2npError, match="float16"):
            resume(path, tiny)


def test_a_past_that_does_not_fit(tiny):
    past = tiny.trace(TEXT, keep="attn.qkv")
    with pytest.raises(InputError, match="token 0"):
        tiny.generate("Elizabeth was here", past=past)
    with pytest.raises(InputError, match="one prompt"):
        tiny.generate([TEXT, TEXT], past=past)
    with pytest.raises(TraceError, match="past: this trace is of another model"):
        random_model(vocab_size=2048).generate(past.token_ids, past=past, max_new_tokens=2)
    late = tiny.trace(TEXT, keep={"patterns": "attn.qkv", "positions": slice(1, None)})
    with pytest.raises(InputError, match="expected"):
        tiny.generate(TEXT, past=late)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_places_that_cannot_be_written(tiny, tmp_path, suffix):
    (tmp_path / "file").touch()
    (tmp_path / f"folder{suffix}").mkdir()
    for path in (tmp_path / f"no/x{suffix}", tmp_path / f"file/x{suffix}", tmp_path / f"folder{suffix}"):
        with pytest.raises(Gpt2npError, match="cannot"):
            extract_to_file(tiny, TEXT, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", f"folder{suffix}"]
    for path in ("x.txt", "x", "", "."):
        with pytest.raises(InputError, match="format"):
            extract_to_file(tiny, TEXT, path)
    with pytest.raises(InputError, match="file name"):
        write_json({}, "")


@pytest.fixture
def small_disk():
    """Files cannot grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["kv.json", "kv.safetensors"])
def test_a_disk_that_fills_up_in_the_middle(tiny, tmp_path, small_disk, name):
    (tmp_path / name).write_text("as it was")
    with pytest.raises(Gpt2npError, match="cannot"):
        extract_to_file(tiny, TEXT * 3, tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "as it was"


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_results_that_json_cannot_hold(extractor, tmp_path, value):
    result = extractor.extract_kv_cache("a") | {"mine": value}
    with pytest.raises(InputError, match="JSON"):
        extractor.save_to_json(result, tmp_path / "kv.json")
    kv = gpt2_shape(2)
    kv.layers[3][1][1, 5, 7] = np.inf
    with pytest.raises(InputError, match="not finite"):
        write_json(document(kv, kv.text), tmp_path / "kv.json")
    assert os.listdir(tmp_path) == []
