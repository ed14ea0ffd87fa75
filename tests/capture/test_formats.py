"""Captures: every key and shape of the data format reference, the trace's own values, files read back."""

import copy
import json
import resource
import shutil
from itertools import pairwise

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from documents.capture_formats_steps import LOADING_INTERNALS, LOADING_RAW
from support import tiny_checkpoint

import gpt2np
from gpt2np.capture.capture_files import check_capture
from gpt2np.capture.formats import (
    internals_sites,
    layer_internals,
    load_capture,
    raw_residual,
    residual_sites,
    save_capture,
)
from gpt2np.errors import InputError, TraceError

PROMPT, LAYER, NEW = "Elizabeth was not", 2, 6
N, D, H, LAYERS = 4, 192, 4, 4  # tokens of the prompt; n_embd, heads and layers of tiny


@pytest.fixture(scope="module")
def generated(tiny):
    return tiny.generate(PROMPT, max_new_tokens=NEW, keep="*", eos=None).finish()


@pytest.fixture(scope="module")
def internals(generated):
    return layer_internals(generated, LAYER)


@pytest.fixture(scope="module")
def raw(generated):
    return raw_residual(generated)


def shapes(node):
    """The same nested dict with shapes for arrays."""
    if isinstance(node, dict):
        return {
            key: shapes(child) for key, child in node.items() if key not in ("text", "tokens", "token_ids")
        }
    return [shapes(child) for child in node] if isinstance(node, list) else node.shape


def leaves(node, path=""):
    """Every string, list of tokens and array of a capture, by path."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, f"{path}/{key}")
    elif isinstance(node, list) and isinstance(node[0], np.ndarray):
        for i, child in enumerate(node):
            yield f"{path}/{i}", child
    else:
        yield path, node


def assert_equal(one, other):
    """The same keys, texts, dtypes, shapes and bits."""
    one, other = dict(leaves(one)), dict(leaves(other))
    assert list(one) == list(other) or set(one) == set(other)
    for path, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == other[path].dtype, path
            np.testing.assert_array_equal(value, other[path], err_msg=path)
        else:
            assert value == other[path], path


def test_the_structure_of_layer_internals(internals):
    assert shapes(internals) == {
        "prompt": {
            "attention": {"q_proj": (N, D), "k_proj": (N, D), "v_proj": (N, D), "attn_weights": (H, N, N)},
            "mlp": {"up_proj": (N, 4 * D), "gelu": (N, 4 * D), "down_proj": (N, D)},
            "residual": {"input": (N, D), "after_attn": (N, D), "output": (N, D)},
        },
        "response": {
            "attention": {
                "q_proj": [(1, D)] * NEW,
                "k_proj": [(1, D)] * NEW,
                "v_proj": [(1, D)] * NEW,
                "attn_weights": [(H, N + i, N + i) for i in range(NEW)],  # from N to N+n-1
            },
            "mlp": {"up_proj": [(1, 4 * D)] * NEW, "gelu": [(1, 4 * D)] * NEW, "down_proj": [(1, D)] * NEW},
            "residual": {"input": (NEW, 1, D), "after_attn": (NEW, 1, D), "output": (NEW, 1, D)},
        },
    }


def test_the_structure_of_raw_residual(raw):
    def activations(rows):
        parts = ("residual_in", "after_attn", "residual_out")
        return {str(layer): dict.fromkeys(parts, (rows, D)) for layer in range(LAYERS)}

    growing = [(N + i, N + i) for i in range(NEW)]
    assert shapes(raw) == {
        "prompt": {
            "activations": activations(N),
            "attention": {f"layer_{layer}": (N, N) for layer in range(LAYERS)},
        },
        "response": {
            "activations": activations(NEW),
            "attention": {f"layer_{layer}": growing for layer in range(LAYERS)},
        },
    }


def test_texts_and_tokens(tiny, generated, internals, raw):
    for capture in (internals, raw):
        prompt, response = capture["prompt"], capture["response"]
        assert prompt["text"] == PROMPT
        assert prompt["text"] + response["text"] == generated.text
        assert prompt["token_ids"] == tiny.token_ids(PROMPT)
        assert prompt["token_ids"] + response["token_ids"] == generated.token_ids
        for phase in (prompt, response):
            assert phase["tokens"] == tiny.tokens(phase["token_ids"])
        assert len(response["tokens"]) == NEW


def test_layer_internals_are_the_bits_of_the_trace(generated, internals):
    trace, h = generated.trace, f"h.{LAYER}."
    q, k, v = (trace[h + f"attn.{name}"].reshape(-1, D) for name in "qkv")
    rows = {"q_proj": q, "k_proj": k, "v_proj": v}
    rows |= {
        "up_proj": trace[h + "mlp.pre"],
        "gelu": trace[h + "mlp.post"],
        "down_proj": trace[h + "mlp.out"],
    }
    residual = {
        "input": trace[f"h.{LAYER - 1}.resid_post"],
        "after_attn": trace[h + "resid_mid"],
        "output": trace[h + "resid_post"],
    }
    pattern = trace[h + "attn.pattern"]
    prompt, response = internals["prompt"], internals["response"]
    np.testing.assert_array_equal(prompt["attention"]["attn_weights"], pattern[:, :N, :N])
    for name, whole in rows.items():
        group = "attention" if name.endswith("_proj") and name[0] in "qkv" else "mlp"
        np.testing.assert_array_equal(prompt[group][name], whole[:N])
        for i, entry in enumerate(response[group][name]):  # the last token that the pass saw
            np.testing.assert_array_equal(entry, whole[N + i - 1][None])
            assert np.shares_memory(entry, trace[h + "attn.qkv"]) or group == "mlp"
    for name, whole in residual.items():
        np.testing.assert_array_equal(prompt["residual"][name], whole[:N])
        np.testing.assert_array_equal(response["residual"][name][:, 0], whole[N - 1 :])
        assert np.shares_memory(response["residual"][name], whole)
    for i, entry in enumerate(response["attention"]["attn_weights"]):
        np.testing.assert_array_equal(entry, pattern[:, : N + i, : N + i])
        assert np.shares_memory(entry, pattern)
        np.testing.assert_allclose(entry.sum(axis=-1), 1, atol=1e-5)  # every row is there, not only the last


def test_raw_residual_is_the_bits_of_the_trace(generated, raw):
    trace = generated.trace
    for layer in range(LAYERS):
        sites = {
            "residual_in": trace[f"h.{layer - 1}.resid_post"] if layer else trace["embed"],
            "after_attn": trace[f"h.{layer}.resid_mid"],
            "residual_out": trace[f"h.{layer}.resid_post"],
        }
        for name, whole in sites.items():
            np.testing.assert_array_equal(raw["prompt"]["activations"][str(layer)][name], whole[:N])
            np.testing.assert_array_equal(raw["response"]["activations"][str(layer)][name], whole[N - 1 :])


def test_the_head_average_is_the_mean_over_heads(generated, raw):
    for layer in range(LAYERS):
        heads = layer_internals(generated, layer)
        for phase in ("prompt", "response"):
            per_head = heads[phase]["attention"]["attn_weights"]
            averaged = raw[phase]["attention"][f"layer_{layer}"]
            pairs = [(per_head, averaged)] if phase == "prompt" else zip(per_head, averaged, strict=True)
            for one, mean in pairs:
                np.testing.assert_array_equal(one.mean(axis=0), mean)
                assert mean.dtype == np.float32


def test_entry_i_is_the_pass_that_chose_token_i(tiny, generated, internals, raw):
    """Each entry equals a run of its own over what the model had seen, which then chooses this token."""
    for i in range(NEW):
        alone = tiny.trace(generated.token_ids[: N + i])
        assert alone.top(1)[0][1] == internals["response"]["token_ids"][i]
        close = {"atol": 1e-4, "rtol": 1e-4}
        pattern = alone[f"h.{LAYER}.attn.pattern"]
        np.testing.assert_allclose(internals["response"]["attention"]["attn_weights"][i], pattern, **close)
        np.testing.assert_allclose(
            raw["response"]["attention"][f"layer_{LAYER}"][i], pattern.mean(axis=0), **close
        )
        out = alone[f"h.{LAYER}.resid_post"][-1:]
        np.testing.assert_allclose(internals["response"]["residual"]["output"][i], out, **close)


def test_an_early_end_of_text_makes_shorter_responses(tiny, generated):
    third = generated.response.token_ids[2]
    done = tiny.generate(PROMPT, max_new_tokens=50, keep="*", eos=third).finish()
    count = generated.response.token_ids.index(third) + 1
    assert done.stopped_by == "eos"
    capture = layer_internals(done, LAYER)
    assert len(capture["response"]["token_ids"]) == count  # the token that ended it is one of them
    assert capture["response"]["residual"]["input"].shape == (count, 1, D)
    assert capture["response"]["attention"]["attn_weights"][-1].shape == (H, N + count - 1, N + count - 1)
    assert raw_residual(done)["response"]["activations"]["0"]["residual_in"].shape == (count, D)
    one = layer_internals(tiny.generate("A", max_new_tokens=1, keep="*").finish(), 0)
    assert one["prompt"]["attention"]["attn_weights"].shape == (H, 1, 1)
    assert [a.shape for a in one["response"]["attention"]["attn_weights"]] == [(H, 1, 1)]
    check_capture(one, "one")


def test_only_what_a_capture_needs_has_to_be_kept(tiny, internals, raw):
    for layer in (0, LAYER):
        sites = internals_sites(layer)
        done = tiny.generate(PROMPT, max_new_tokens=NEW, keep=sites).finish()
        assert set(done.trace.names()) == set(sites)
        capture = layer_internals(done, layer)
    assert_equal(capture, internals)
    done = tiny.generate(PROMPT, max_new_tokens=NEW, keep=residual_sites(LAYERS)).finish()
    assert_equal(raw_residual(done), raw)


def test_double_precision(tiny64, tmp_path):
    done = tiny64.generate(PROMPT, max_new_tokens=2, keep="*").finish()
    for name, capture in (("a", layer_internals(done, 0)), ("b", raw_residual(done))):
        save_capture(capture, tmp_path / f"{name}.safetensors")
        back = load_capture(tmp_path / f"{name}.safetensors")
        assert_equal(back, capture)
        assert {a.dtype for a in check_capture(back, name).values()} == {np.dtype("float64")}


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["internals", "raw"])
def test_safetensors_there_and_back(kind, tmp_path, request):
    capture, path = request.getfixturevalue(kind), tmp_path / "1.safetensors"
    save_capture(capture, path, {"layer": LAYER})
    assert_equal(load_capture(path), capture)
    read = safetensors.numpy.load_file(path)  # an independent reader: the nested path is the name
    assert read.keys() == {p[1:] for p, a in leaves(capture) if isinstance(a, np.ndarray)}
    for name, array in read.items():
        node = capture
        for part in name.split("/"):
            node = node[int(part)] if isinstance(node, list) else node[part]
        np.testing.assert_array_equal(array, node, err_msg=name)
        assert array.dtype == node.dtype
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    for phase in ("prompt", "response"):
        assert metadata[f"{phase}/text"] == capture[phase]["text"]
        assert json.loads(metadata[f"{phase}/tokens"]) == capture[phase]["tokens"]
        assert json.loads(metadata[f"{phase}/token_ids"]) == capture[phase]["token_ids"]
    assert json.loads(metadata["facts"]) == {"layer": LAYER}
    example = "response/attention/q_proj/3" if kind == "internals" else "response/attention/layer_3/5"
    assert example in read


@pytest.mark.needs("torch")
@pytest.mark.parametrize("kind", ["internals", "raw"])
def test_torch_reads_both_formats(kind, tmp_path, request):
    import torch
    from safetensors.torch import load_file

    capture = request.getfixturevalue(kind)
    save_capture(capture, tmp_path / "1.safetensors")
    arrays = check_capture(capture, kind)
    for name, tensor in load_file(tmp_path / "1.safetensors").items():
        assert torch.equal(tensor, torch.from_numpy(arrays[name].copy())), name
    save_capture(capture, tmp_path / "1.pt")
    loaded = torch.load(tmp_path / "1.pt")
    assert loaded.keys() == {"prompt", "response"}
    for path, value in leaves(capture):
        node = loaded
        for part in path[1:].split("/"):
            node = node[int(part)] if isinstance(node, list) and part.isdigit() else node[part]
        if isinstance(value, np.ndarray):
            assert torch.equal(node, torch.from_numpy(value.copy())), path
            assert node.is_contiguous() or node.untyped_storage().nbytes() > node.nbytes  # one for several
        else:
            assert node == value, path
    assert_equal(load_capture(tmp_path / "1.pt"), capture)


VARIABLE_LENGTHS = """
# Always check actual shape
N = data['prompt']['activations']['16']['residual_out'].shape[0]
print(f"Prompt has {N} tokens")
"""


def adapted(code, suffix="pt"):
    """The reference's layer 16 is our layer 2."""
    code = code.replace("1_L16.pt", f"1_L2.{suffix}").replace("dynamic/1.pt", f"dynamic/1.{suffix}")
    return code.replace("'16'", "'2'").replace("'layer_16'", "'layer_2'")


@pytest.fixture(scope="module")
def long(tiny):
    """A generation of 50 tokens, as in the reference."""
    return tiny.generate(PROMPT, keep="*", eos=None).finish()


@pytest.mark.needs("torch")
def test_working_with_captured_data_in_torch(long, tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    for folder in ("inference/raw/internals", "inference/raw/residual"):
        (tmp_path / folder / "dynamic").mkdir(parents=True)
    probe = tmp_path / "experiments/my_exp/extraction/category/trait/vectors/probe_layer16.pt"
    probe.parent.mkdir(parents=True)
    vector = torch.randn(D)
    torch.save(vector, probe)
    save_capture(layer_internals(long, 2), "inference/raw/internals/dynamic/1_L2.pt")
    save_capture(raw_residual(long), "inference/raw/residual/dynamic/1.pt")

    found = {}
    exec(adapted(LOADING_INTERNALS), found)
    assert found["prompt_attn"].shape == (H, N, N)
    assert found["first_token_attn"].shape == (H, N, N)
    assert found["last_token_attn"].shape == (H, N + 49, N + 49)
    assert len(found["response_attn"]) == 50
    assert (found["mlp_up"].shape, found["mlp_down"].shape) == ((N, 4 * D), (N, D))
    assert found["residual_after_attn"].shape == (N, D)

    exec(adapted(LOADING_RAW), found)
    assert found["layer_16_prompt"].shape == (N, D)
    assert found["layer_16_response"].shape == (50, D)
    assert found["prompt_attn_L16"].shape == (N, N)
    assert [a.shape for a in found["response_attn_L16"]] == [(N + i, N + i) for i in range(50)]
    expected = long.trace["h.2.resid_post"][N - 1 :] @ vector.numpy() / np.linalg.norm(vector.numpy())
    np.testing.assert_allclose(found["projections"].numpy(), expected, rtol=1e-4, atol=1e-4)

    exec(adapted(VARIABLE_LENGTHS), found)
    assert capsys.readouterr().out == f"Prompt has {N} tokens\n"


def test_working_with_captured_data_in_numpy(long, tmp_path, monkeypatch):
    """The same lines, with `load_capture` for `torch.load`."""
    monkeypatch.chdir(tmp_path)
    for folder in ("inference/raw/internals", "inference/raw/residual"):
        (tmp_path / folder / "dynamic").mkdir(parents=True)
    save_capture(layer_internals(long, 2), "inference/raw/internals/dynamic/1_L2.safetensors")
    save_capture(raw_residual(long), "inference/raw/residual/dynamic/1.safetensors")
    found = {"load_capture": load_capture}
    for code in (LOADING_INTERNALS, LOADING_RAW.split("# Project")[0]):
        exec(
            adapted(code, "safetensors").replace("import torch\n", "").replace("torch.load", "load_capture"),
            found,
        )
    assert found["last_token_attn"].shape == (H, N + 49, N + 49)
    assert found["layer_16_response"].shape == (50, D)
    assert (found["layer_16_response"] @ np.ones(D, np.float32)).shape == (50,)
    growth = [b.shape[-1] - a.shape[-1] for a, b in pairwise(found["response_attn_L16"])]
    assert growth == [1] * 49


# -- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, LAYERS, 99, "2", True, 1.0, None])
def test_a_layer_that_is_not_there(generated, layer):
    with pytest.raises(InputError, match=r"layer=.*: must be a whole number from 0 to 3"):
        layer_internals(generated, layer)


def test_a_generation_that_lacks_what_is_asked(tiny):
    for make in (raw_residual, lambda g: layer_internals(g, 1)):
        with pytest.raises(TraceError, match="nothing was recorded"):
            make(tiny.generate("A", max_new_tokens=1).finish())
        with pytest.raises(TraceError, match="is not in this trace"):
            make(tiny.generate("A", max_new_tokens=1, keep="attn.pattern").finish())
        with pytest.raises(TraceError, match="every position"):
            make(tiny.generate("A", max_new_tokens=3, keep={"positions": slice(1, None)}).finish())


def test_saving_what_or_where_it_does_not_go(internals, tmp_path):
    for name in ("a.bin", "a", "a.safetensors.gz", "a.PT"):
        with pytest.raises(InputError, match="safetensors or pt"):
            save_capture(internals, tmp_path / name)
        with pytest.raises(InputError, match="safetensors or pt"):
            load_capture(tmp_path / name)
    with pytest.raises(TraceError, match=r"a\.safetensors: cannot .*: No such file or directory"):
        save_capture(internals, tmp_path / "nowhere" / "a.safetensors")
    broken = internals | {"prompt": internals["prompt"] | {"mlp": {}}}
    with pytest.raises(TraceError, match="the capture: prompt/mlp/up_proj is missing"):
        save_capture(broken, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["internals", "raw"])
def test_pt_needs_no_torch(kind, tmp_path, request, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    capture = request.getfixturevalue(kind)
    save_capture(capture, tmp_path / "a.pt")
    save_capture(capture, tmp_path / "b.pt")
    assert_equal(load_capture(tmp_path / "a.pt"), capture)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def by_torch(capture):
    """The capture as `torch.load` and `torch.save` have it, each tensor with a storage of its own."""
    import torch

    def tensors(node):
        if isinstance(node, dict):
            return {key: tensors(child) for key, child in node.items()}
        if isinstance(node, list):
            return [tensors(child) for child in node]
        return torch.from_numpy(node.copy()) if isinstance(node, np.ndarray) else node

    return tensors(capture)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("kind", ["internals", "raw"])
def test_pt_without_torch_equals_that_with_it(kind, long, tmp_path, request):
    import torch

    fifty = layer_internals(long, LAYER) if kind == "internals" else raw_residual(long)
    for number, capture in enumerate((request.getfixturevalue(kind), fifty)):
        save_capture(capture, tmp_path / "ours.pt")
        torch.save(by_torch(capture), tmp_path / "theirs.pt")
        with_torch = torch.load(tmp_path / "ours.pt")
        for path in ("ours.pt", "theirs.pt"):
            assert_equal(load_capture(tmp_path / path), capture)
            assert_equal(as_numpy(torch.load(tmp_path / path)), capture)
        torch.save(with_torch, tmp_path / "again.pt")  # shares what ours shares
        assert_equal(load_capture(tmp_path / "again.pt"), capture)
        if number:
            assert 2 * (tmp_path / "ours.pt").stat().st_size < (tmp_path / "theirs.pt").stat().st_size


def as_numpy(node):
    if isinstance(node, dict):
        return {key: as_numpy(child) for key, child in node.items()}
    if isinstance(node, list):
        return [as_numpy(child) for child in node]
    return node.numpy() if hasattr(node, "numpy") else node


def test_lists_that_do_not_grow_out_of_each_other(internals, tmp_path):
    """Each entry is what it is, also where it is not part of the last one."""
    changed = copy.deepcopy(internals)
    patterns = changed["response"]["attention"]["attn_weights"]
    patterns[2] = patterns[2] + 1
    changed["response"]["mlp"]["gelu"] = [a.astype("f2") for a in changed["response"]["mlp"]["gelu"]]
    changed["response"]["attention"]["q_proj"][1] = -0.0 * changed["response"]["attention"]["q_proj"][1]
    save_capture(changed, tmp_path / "a.pt")
    assert_equal(load_capture(tmp_path / "a.pt"), changed)


@pytest.mark.needs("torch")
def test_pt_that_cannot_be_written_leaves_nothing(internals, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_capture(internals, tmp_path / "nowhere" / "a.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 4_096, 30_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(InputError, match=r"a\.pt: cannot be written \(File too large"):
                save_capture(internals, tmp_path / "a.pt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def change(name, value):
    """Sets (or with None removes) one tensor or metadata key of a file."""

    def apply(arrays, metadata):
        target = arrays if isinstance(value, np.ndarray) or name in arrays else metadata
        if value is None:
            del target[name]
        else:
            target[name] = value

    return apply


Z = np.zeros
BROKEN = {
    "another schema": (change("schema", "gpt2np.trace/1"), "schema is 'gpt2np.trace/1'"),
    "no schema": (change("schema", None), "schema is None"),
    "no text": (change("prompt/text", None), "prompt/text must be a string"),
    "ids that are no JSON": (change("response/token_ids", "[1,"), "response/token_ids: is not JSON"),
    "ids that are no numbers": (change("response/token_ids", '["1"]'), "response/token_ids must be"),
    "no ids": (change("prompt/token_ids", "[]"), "prompt/token_ids must be"),
    "deep ids": (change("prompt/token_ids", "[" * 100_000), "prompt/token_ids: is not JSON"),
    "too few tokens": (change("prompt/tokens", '["a"]'), "prompt/tokens must be 4 strings"),
    "tokens of numbers": (change("prompt/tokens", "[1, 2, 3, 4]"), "prompt/tokens must be 4 strings"),
    "a part missing": (change("prompt/mlp/gelu", None), "prompt/mlp/gelu is missing"),
    "attention missing": (change("prompt/attention/attn_weights", None), "attn_weights is missing"),
    "a last entry missing": (change("response/mlp/gelu/5", None), "response/mlp/gelu/5 is missing"),
    "a gap in a list": (
        change("response/mlp/gelu/2", None),
        "response/mlp/gelu must have the entries 0 to 4",
    ),
    "an entry too many": (change("response/mlp/gelu/6", Z((1, 768), "f4")), "gelu/6' has no place"),
    "a leading zero": (change("response/mlp/gelu/06", Z((1, 768), "f4")), "must have the entries"),
    "a wrong width": (change("response/mlp/gelu/1", Z((1, 7), "f4")), r"gelu/1 has shape \(1, 7\), expected"),
    "wrong rows": (change("prompt/mlp/gelu", Z((5, 768), "f4")), r"prompt/mlp/gelu has shape \(5, 768\)"),
    "too many axes": (
        change("prompt/mlp/gelu", Z((1, 4, 768), "f4")),
        "prompt/mlp/gelu has 3 axes, expected 2",
    ),
    "no growth": (
        change("response/attention/attn_weights/3", Z((4, 4, 4), "f4")),
        "attn_weights/3 has shape",
    ),
    "no extra axis": (change("response/residual/input", Z((6, 192), "f4")), r"expected \(6, 1, 192\)"),
    "whole numbers": (change("prompt/mlp/gelu", Z((4, 768), "i8")), "must be an array of floats"),
    "an unknown part": (change("prompt/mlp/gate", Z((4, 768), "f4")), "'prompt/mlp/gate' has no place"),
    "an unknown phase": (change("future/mlp/gelu", Z((4, 768), "f4")), "is no capture"),
    "a bare name": (change("weight", Z(3, "f4")), "is no capture"),
    "an array for a group": (change("prompt", Z(3, "f4")), "'prompt' has no place"),
    "an array for a text": (change("prompt/text/0", Z(3, "f4")), "'prompt/text/0' has no place"),
    "an array for a list": (
        change("response/mlp/more", Z((1, 3), "f4")),
        "response/mlp/more' must be a list",
    ),
    "below an array": (change("prompt/mlp/gelu/0", Z((1, 3), "f4")), "has no place"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_files(internals, tmp_path, case):
    path, (apply, message) = tmp_path / "1_L2.safetensors", BROKEN[case]
    save_capture(internals, path)
    with safetensors.safe_open(path, "numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    apply(arrays, metadata)
    safetensors.numpy.save_file(arrays, path, metadata)
    with pytest.raises(TraceError, match=message) as error:
        load_capture(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < len(str(path)) + 300


def test_malformed_raw_residual(raw, tmp_path):
    path = tmp_path / "1.safetensors"
    for drop, message in (
        ("prompt/activations/0/residual_in", "prompt/activations/0/residual_in is missing"),
        ("response/activations/2/after_attn", "response/activations/2/after_attn is missing"),
        ("prompt/attention/layer_3", "prompt/attention/layer_3 is missing"),
    ):
        save_capture(raw, path)
        with safetensors.safe_open(path, "numpy") as file:
            kept = {name: file.get_tensor(name) for name in file.keys() if name != drop}  # noqa: SIM118
            metadata = file.metadata()
        safetensors.numpy.save_file(kept, path, metadata)
        with pytest.raises(TraceError, match=message):
            load_capture(path)


def test_files_that_are_something_else(internals, tiny, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(TraceError, match="no such file"):
        load_capture(path)
    save_capture(internals, path)
    whole = path.read_bytes()
    for damaged in (b"", b"\0" * 8, whole[:100], whole[:-1], whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(TraceError, match=r"a\.safetensors: "):
            load_capture(path)
    tiny.trace("A", out=path)
    with pytest.raises(TraceError, match="schema is None"):
        load_capture(path)
    shutil.copy(tiny_checkpoint.write(tmp_path / "model") / "model.safetensors", path)
    with pytest.raises(TraceError, match="schema is None"):
        load_capture(path)


@pytest.mark.needs("torch")
def test_malformed_pt_files(internals, tmp_path):
    import torch

    path = tmp_path / "a.pt"
    with pytest.raises(TraceError, match=r"a\.pt: no such file"):
        load_capture(path)
    save_capture(internals, path)
    whole = path.read_bytes()
    for damaged in (b"", b"junk", whole[:1000], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(TraceError, match=r"a\.pt: "):
            load_capture(path)
    save_capture(internals, path)
    good = torch.load(path)
    prompt, response = good["prompt"], good["response"]
    gelu = dict(enumerate(response["mlp"]["gelu"]))
    stacked = response["mlp"] | {"gelu": torch.stack(response["mlp"]["gelu"])}
    for wrong, message in (
        (torch.zeros(3), "is no capture"),
        ([good], "is no capture"),
        ({"prompt": prompt}, "is no capture"),
        (good | {"prompt": 3}, "prompt/text must be a string"),
        (good | {"response": response | {"token_ids": torch.arange(6)}}, "response/token_ids must be"),
        (good | {"response": response | {"mlp": response["mlp"] | {"gelu": gelu}}}, "must be a list"),
        (good | {"response": response | {"mlp": stacked}}, "must be a list"),
        (good | {"prompt": prompt | {"more": "text"}}, "'prompt/more' must be an array of floats"),
    ):
        torch.save(wrong, path)
        with pytest.raises(TraceError, match=message):
            load_capture(path)


@pytest.mark.needs("torch")
def test_captures_of_other_models_load(internals, tmp_path):
    """The reference's own files: bfloat16, and keys and values narrower than queries."""
    import torch

    save_capture(internals, tmp_path / "a.pt")
    capture = torch.load(tmp_path / "a.pt")
    for phase in ("prompt", "response"):
        attention = capture[phase]["attention"]
        for name in ("k_proj", "v_proj"):
            whole = attention[name]
            narrow = [a[:, :96].bfloat16() for a in (whole if isinstance(whole, list) else [whole])]
            attention[name] = narrow if isinstance(whole, list) else narrow[0]
    torch.save(capture, tmp_path / "a.pt")
    loaded = load_capture(tmp_path / "a.pt")
    assert loaded["prompt"]["attention"]["k_proj"].shape == (N, 96)
    assert loaded["prompt"]["attention"]["k_proj"].dtype == np.float32
    assert loaded["prompt"]["attention"]["q_proj"].shape == (N, D)


def test_a_model_without_a_vocabulary(tmp_path):
    from support.random_model import random_model

    model = random_model(dtype="float32")
    done = model.generate([5, 6, 7], max_new_tokens=4, keep="*").finish()
    save_capture(layer_internals(done, 1), tmp_path / "a.safetensors")
    back = load_capture(tmp_path / "a.safetensors")
    assert back["prompt"]["tokens"] == ["<5>", "<6>", "<7>"]
    assert_equal(back, layer_internals(done, 1))
    assert gpt2np.Gpt2npError in TraceError.__mro__
