"""Every way a checkpoint may be stored gives the same arrays and the same run; where one is looked for."""

import json
import mmap
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import needs

import gpt2np
from gpt2np.architectures.gpt2.config import RELEASED, Config
from gpt2np.architectures.gpt2.weights import parameter_shapes
from gpt2np.checkpoints import checkpoint, hub
from gpt2np.checkpoints.checkpoint import default_name, load_checkpoint, shipped_folder
from gpt2np.checkpoints.config_file import read_config_file
from gpt2np.errors import CheckpointError, ConfigError, HubError, InputError

GOLDENS = Path(__file__).parents[1] / "goldens"
GOLDEN, UNTIED = GOLDENS / "gelu_new", GOLDENS / "untied"
IDS = [3, 17, 17, 30, 0, 8, 3]
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16", "bool": "BOOL"}


@pytest.fixture
def tensors():
    """A golden checkpoint's parameters, under HF's own names: `transformer.wte.weight`."""
    return load_file(GOLDEN / "model.safetensors")


@pytest.fixture
def no_hub(monkeypatch):
    def fetch(repo_id, *_, **__):
        raise AssertionError(f"asked the Hub for {repo_id!r}")

    monkeypatch.setattr(hub, "fetch", fetch)


# -- writers --------------------------------------------------------------------------------------------


def write_safetensors(path, tensors, padding=0):
    """The format by hand, so that bfloat16 (here its bits, as uint16) and any alignment can be written."""
    header, at = {}, 0
    for name, array in tensors.items():
        place = [at, at := at + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + padding)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


def write(folder, tensors, source=GOLDEN, **changes):
    """A folder with these tensors in one file, and the golden's config with these changes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    write_config(folder, source, **changes)
    return folder


def write_config(folder, source=GOLDEN, **changes):
    config = json.loads((source / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def shards(tensors, n=3):
    """The tensors dealt out to n files, as an index file has it: names to file names."""
    return {name: f"part-{i % n}.bin" for i, name in enumerate(tensors)}


def one_file(folder, tensors):
    write_safetensors(folder / "model.safetensors", tensors)


def sharded(folder, tensors):
    place = shards(tensors)
    for shard in set(place.values()):
        write_safetensors(folder / shard, {n: a for n, a in tensors.items() if place[n] == shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def without_prefix(folder, tensors):
    one_file(folder, {name.removeprefix("transformer."): array for name, array in tensors.items()})


def half_without_prefix(folder, tensors):
    mixed = {n.removeprefix("transformer.") if i % 2 else n: a for i, (n, a) in enumerate(tensors.items())}
    one_file(folder, mixed)


def with_buffers(folder, tensors):
    """The causal mask and its fill, which older versions of transformers saved."""
    mask = np.tri(16, dtype=bool)[None, None]
    buffers = {f"transformer.h.{i}.attn.bias": mask for i in range(2)}
    buffers |= {f"transformer.h.{i}.attn.masked_bias": np.float32(-1e4)[()] * np.ones(()) for i in range(2)}
    one_file(folder, tensors | buffers)


def with_tied_lm_head(folder, tensors):
    one_file(folder, tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})


def with_other_things(folder, tensors):
    one_file(folder, tensors | {"score.weight": np.ones((2, 12), np.float32)})


def beside_a_pickle(folder, tensors):
    one_file(folder, tensors)
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")


BY_HAND = {
    f.__name__: f
    for f in (
        one_file,
        sharded,
        without_prefix,
        half_without_prefix,
        with_buffers,
        with_tied_lm_head,
        with_other_things,
        beside_a_pickle,
    )
}


def check_equals_golden(folder, tensors):
    loaded, golden = gpt2np.load(folder), gpt2np.load(GOLDEN)
    assert loaded.weights.keys() == parameter_shapes(loaded.config).keys()
    for name, array in loaded.weights.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensors[f"transformer.{name}"])
    np.testing.assert_allclose(loaded(IDS), golden(IDS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("store", BY_HAND)
def test_ways_to_store_it(tmp_path, store, tensors):
    write_config(tmp_path)
    BY_HAND[store](tmp_path, tensors)
    check_equals_golden(tmp_path, tensors)


@pytest.fixture
def torch():
    return needs.imported("torch")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one", "sharded"])
def test_pickles_by_torch(tmp_path, zipped, sharded, tensors, torch):
    def save(some, path):
        state = {name: torch.from_numpy(array) for name, array in some.items()}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)

    write_config(tmp_path)
    if sharded:
        place = shards(tensors)
        for shard in set(place.values()):
            save({n: a for n, a in tensors.items() if place[n] == shard}, tmp_path / shard)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))
    else:
        save(tensors, tmp_path / "pytorch_model.bin")
    check_equals_golden(tmp_path, tensors)


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("max_shard_size", ["5GB", "4KB"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_folders_by_transformers(tmp_path, max_shard_size, dtype, torch):
    import transformers

    theirs = transformers.GPT2LMHeadModel.from_pretrained(GOLDEN).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    n_files = len(list(tmp_path.glob("*.safetensors")))
    assert n_files == 1 if max_shard_size == "5GB" else n_files > 2
    ours = load_checkpoint(tmp_path)
    assert ours.notes == ()
    state = theirs.float().state_dict()
    assert {f"transformer.{name}" for name in ours.weights} == set(state) - {"lm_head.weight"}
    for name, array in ours.weights.items():
        np.testing.assert_array_equal(array, state[f"transformer.{name}"].numpy())
    np.testing.assert_allclose(
        gpt2np.load(tmp_path)(IDS), theirs(torch.tensor([IDS])).logits[0].detach().numpy(), atol=1e-4
    )


# -- precision ------------------------------------------------------------------------------------------


def as_bfloat16(array):
    """The upper halves, and what they mean."""
    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def as_stored(array, kind):
    return as_bfloat16(array) if kind == "bfloat16" else (array.astype(kind), array.astype(kind))


@pytest.mark.parametrize("run", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float64"])
def test_stored_precision_is_cast_to_that_of_the_run(tmp_path, kind, run, tensors):
    stored = {name: as_stored(array, kind) for name, array in tensors.items()}
    write(tmp_path, {name: bits for name, (bits, _) in stored.items()})
    model = gpt2np.load(tmp_path, dtype=run)
    for name, array in model.weights.items():
        assert array.dtype == run
        np.testing.assert_array_equal(array, stored[f"transformer.{name}"][1].astype(run))
    assert model(IDS).dtype == run


def test_float64_weights_keep_their_digits_in_a_float64_run(tmp_path, tensors):
    exact = {name: array.astype(np.float64) * (1 + 1e-12) for name, array in tensors.items()}
    weights = load_checkpoint(write(tmp_path, exact), dtype="float64").weights
    for name, array in weights.items():
        np.testing.assert_array_equal(array, exact[f"transformer.{name}"])


@pytest.mark.parametrize("dtype", ["float16", "int8", "", "complex64"])
def test_a_run_in_another_precision_is_refused(dtype):
    with pytest.raises(InputError, match="dtype must be one of float32, float64"):
        load_checkpoint(GOLDEN, dtype=dtype)


# -- no copies ------------------------------------------------------------------------------------------


def root(array):
    while getattr(array, "base", None) is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def test_float32_weights_are_views_of_the_mapped_file(tmp_path, tensors):
    weights = load_checkpoint(write(tmp_path, tensors)).weights
    mapped = {id(root(array)) for array in weights.values()}
    assert len(mapped) == 1
    assert isinstance(root(weights["wte.weight"]), mmap.mmap)
    assert not any(array.flags.writeable for array in weights.values())
    again = {name: array.copy() for name, array in weights.items()}
    os.remove(tmp_path / "model.safetensors")
    for name, array in weights.items():
        np.testing.assert_array_equal(array, again[name])


def test_the_tied_unembedding_is_the_embedding():
    model = gpt2np.load(GOLDEN)
    assert model.parameters.lm_head is model.parameters.wte is model.weights["wte.weight"]


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_a_misaligned_file_is_copied_and_equal(tmp_path, tensors, padding):
    write(tmp_path, tensors)
    write_safetensors(tmp_path / "model.safetensors", tensors, padding)
    weights = load_checkpoint(tmp_path).weights
    assert all(array.flags.aligned for array in weights.values())
    assert not isinstance(root(weights["wte.weight"]), mmap.mmap)
    check_equals_golden(tmp_path, tensors)


# -- the unembedding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie", [True, False])
def test_an_unembedding_of_its_own_is_used_whatever_the_flag_says(tmp_path, tie):
    tensors = load_file(UNTIED / "model.safetensors")
    golden = np.load(UNTIED / "sites.npz")["logits"]
    model = gpt2np.load(write(tmp_path, tensors, UNTIED, tie_word_embeddings=tie), dtype="float64")
    np.testing.assert_array_equal(model.weights["lm_head.weight"], tensors["lm_head.weight"])
    np.testing.assert_allclose(model(IDS), golden, rtol=0, atol=1e-9)
    assert model.n_parameters == model.config.n_parameters + tensors["lm_head.weight"].size


def test_an_unembedding_that_equals_the_embedding_is_tied(tmp_path, tensors):
    same = tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}
    model = gpt2np.load(write(tmp_path, same, tie_word_embeddings=False))
    assert "lm_head.weight" not in model.weights
    assert model.n_parameters == model.config.n_parameters


def test_an_unembedding_that_is_not_tied_must_be_there(tmp_path, tensors):
    write(tmp_path, tensors, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: lm_head\.weight is missing"):
        load_checkpoint(tmp_path)


# -- what does not fit ----------------------------------------------------------------------------------


def test_unknown_tensors_are_noted(tmp_path, tensors):
    more = {"score.weight": np.ones((2, 12), np.float32), "transformer.h.0.attn.bias": np.tri(16) > 0}
    notes = load_checkpoint(write(tmp_path, tensors | more)).notes
    assert notes == (f"{tmp_path}/model.safetensors: unknown tensor 'score.weight' is ignored",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, r"tensor 'h\.2\.ln_1\.weight' is missing, expected shape \[12\]"),
        ({"n_layer": 1}, r"has 'h\.1\..*', but config\.json says n_layer 1"),
        ({"vocab_size": 32}, r"wte\.weight has shape \[31, 12\], expected \[32, 12\]"),
        ({"n_positions": 15}, r"wpe\.weight has shape \[16, 12\], expected \[15, 12\]"),
        ({"n_inner": 20}, r"h\.0\.mlp\.c_fc\.weight has shape \[12, 48\], expected \[12, 20\]"),
    ],
)
def test_config_and_weights_must_fit(tmp_path, tensors, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write(tmp_path, tensors, **changes))


def test_a_transposed_weight_is_recognised(tmp_path, tensors):
    name = "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(CheckpointError, match="looks transposed"):
        load_checkpoint(write(tmp_path, tensors | {name: np.ascontiguousarray(tensors[name].T)}))


def test_the_same_parameter_twice_is_refused(tmp_path, tensors):
    with pytest.raises(CheckpointError, match=r"'wte\.weight' is there twice"):
        load_checkpoint(write(tmp_path, tensors | {"wte.weight": tensors["transformer.wte.weight"]}))


# -- where it is looked for -----------------------------------------------------------------------------


def test_the_model_that_runs_when_none_is_named(monkeypatch, no_hub):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)
    assert default_name() == "tiny"
    monkeypatch.setenv("GPT2NP_MODEL", "")
    assert default_name() == "tiny"
    monkeypatch.setenv("GPT2NP_MODEL", str(GOLDEN))
    assert default_name() == str(GOLDEN)
    assert gpt2np.load().checkpoint.folder == GOLDEN
    assert gpt2np.load(UNTIED).checkpoint.folder == UNTIED


@pytest.mark.parametrize("name", ["gpt2", "tiny", "org/model"])
def test_an_existing_folder_wins(tmp_path, monkeypatch, no_hub, tensors, name):
    write(tmp_path / name, tensors)
    monkeypatch.chdir(tmp_path)
    found = load_checkpoint(name)
    assert (found.name, found.folder, found.commit) == (name, Path(name), None)
    assert found.config.n_embd == 12


def test_a_folder_in_the_home_directory(tmp_path, monkeypatch, no_hub, tensors):
    write(tmp_path / "m", tensors)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_checkpoint("~/m").folder == tmp_path / "m"


def test_a_file_of_that_name_is_no_folder(tmp_path, monkeypatch, no_hub):
    (tmp_path / "gpt2").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; give its folder"):
        load_checkpoint("gpt2")


@pytest.mark.parametrize("name", ["./gpt2", "../x", "/no/such", "~/no such", "a/b/c", ".", "", "x/" * 3000])
def test_a_missing_folder_never_asks_the_hub(tmp_path, monkeypatch, no_hub, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((CheckpointError, ConfigError), match=r"no such f"):
        load_checkpoint(name)


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "openai-community/gpt2-xl"])
def test_a_name_without_a_folder_is_a_hub_id(tmp_path, monkeypatch, tensors, name):
    asked = []

    def fetch(*args, **options):
        asked.append((args, options))
        return hub.Snapshot(write(tmp_path / "cache", tensors), "c0ffee", name, "a note")

    monkeypatch.setattr(hub, "fetch", fetch)
    found = load_checkpoint(name, revision="v1", local_files_only=True)
    assert asked == [((name, "v1"), {"local_files_only": True})]
    assert (found.name, found.commit, found.notes) == (name, "c0ffee", ("a note",))


def test_the_hubs_own_errors_come_through(monkeypatch):
    def fetch(*_, **__):
        raise HubError("unreachable")

    monkeypatch.setattr(hub, "fetch", fetch)
    with pytest.raises(HubError, match="unreachable"):
        load_checkpoint("org/model")


@pytest.mark.parametrize("layout", ["gpt2np/_weights/tiny", "weights/tiny"], ids=["installed", "editable"])
def test_the_shipped_model_is_found_in_both_layouts(tmp_path, monkeypatch, no_hub, tensors, layout):
    write(tmp_path / layout, tensors)
    (tmp_path / "gpt2np").mkdir(exist_ok=True)
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "gpt2np" / "checkpoints" / "checkpoint.py"))
    assert shipped_folder() == tmp_path / layout
    assert load_checkpoint("tiny").folder == tmp_path / layout


# -- telling checkpoints apart --------------------------------------------------------------------------


def test_the_fingerprint_changes_with_the_file(tmp_path, tensors):
    write(tmp_path, tensors)
    path = tmp_path / "model.safetensors"

    def fingerprint():
        return load_checkpoint(tmp_path).fingerprint

    before, status = fingerprint(), path.stat()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    assert fingerprint() == before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint() != before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint() == before
    write(tmp_path, tensors | {"more": np.ones(1, np.float32)})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint() != before


def test_the_full_hash_is_of_the_contents_alone(tmp_path, tensors):
    first = load_checkpoint(write(tmp_path / "a", tensors)).full_hash()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b" / "model.safetensors", ns=(0, 0))
    assert load_checkpoint(tmp_path / "b").full_hash() == first
    tensors["transformer.ln_f.bias"][-1] += 1
    assert load_checkpoint(write(tmp_path / "b", tensors)).full_hash() != first


def test_all_shards_count(tmp_path, tensors):
    write_config(tmp_path)
    sharded(tmp_path, tensors)
    before = load_checkpoint(tmp_path)
    assert [path.name for path in before.files] == ["part-0.bin", "part-1.bin", "part-2.bin"]
    os.utime(tmp_path / "part-2.bin", ns=(0, 0))
    after = load_checkpoint(tmp_path)
    assert after.fingerprint != before.fingerprint
    assert after.full_hash() == before.full_hash()


# -- configs --------------------------------------------------------------------------------------------

# The released files, as they are quoted by projects that print them.
COMMON = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}  # fmt: skip
PUBLISHED = {
    "gpt2": {"n_embd": 768, "n_head": 12, "n_layer": 12},
    "gpt2-medium": {
        "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True,
    },
    "gpt2-large": {"n_embd": 1280, "n_head": 20, "n_layer": 36},
    "gpt2-xl": {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True},
}  # fmt: skip
DISTIL = {
    "_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    "n_embd": 768, "n_head": 12, "n_layer": 6,
}  # fmt: skip


def read(folder, values):
    (folder / "config.json").write_text(json.dumps(values))
    return read_config_file(folder / "config.json")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_released_sizes_are_built_in(tmp_path, name):
    config, notes = read(tmp_path, COMMON | PUBLISHED[name])
    assert config == RELEASED[name]
    assert notes == []
    assert set(RELEASED) == set(PUBLISHED)


def test_distilgpt2s_config(tmp_path):
    config, notes = read(tmp_path, COMMON | DISTIL)
    assert (config.n_layer, config.n_parameters, notes) == (6, 81_912_576, [])


@pytest.mark.needs("transformers")
def test_what_transformers_writes_today_is_all_known(tmp_path):
    import transformers

    transformers.GPT2Config().save_pretrained(tmp_path)
    assert read_config_file(tmp_path / "config.json") == (RELEASED["gpt2"], [])


def test_a_model_with_the_layers_of_distilgpt2_runs(tmp_path):
    rng = np.random.default_rng(0)
    config = Config(n_layer=6, n_head=12, n_embd=24, n_positions=16, vocab_size=31, eos_token_id=30)
    tensors = {n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in parameter_shapes(config).items()}
    one_file(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps(COMMON | DISTIL | config.to_dict()))
    trace = gpt2np.load(tmp_path).trace(IDS)
    assert trace.stack("attn.pattern").shape == (6, 12, 7, 7)
    trace.verify()


@pytest.mark.parametrize("n_inner", [1, 7, 49])
def test_an_mlp_of_any_width(tmp_path, n_inner):
    rng = np.random.default_rng(0)
    config = Config(n_layer=2, n_head=3, n_embd=12, n_positions=16, vocab_size=31, n_inner=n_inner)
    tensors = {n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in parameter_shapes(config).items()}
    one_file(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    trace = gpt2np.load(tmp_path).trace(IDS)
    assert trace["h.1.mlp.post"].shape == (7, n_inner)
    trace.verify()


def test_other_spellings_of_a_config(tmp_path):
    other = {
        "hidden_size": 20,
        "num_attention_heads": 5,
        "num_hidden_layers": 3,
        "max_position_embeddings": 32,
        "vocab_size": 40,
    }
    expected = Config(n_embd=20, n_head=5, n_layer=3, n_positions=32, vocab_size=40)
    assert read(tmp_path, other) == (expected, [])
    assert read(tmp_path, other | {"n_embd": 20})[0] == expected
    with pytest.raises(ConfigError, match="n_embd says 24 and n_embd says 20"):
        read(tmp_path, other | {"n_embd": 24})


def test_a_short_config_has_gpt2s_own_defaults(tmp_path):
    assert read(tmp_path, {}) == (RELEASED["gpt2"], [])


def test_unknown_keys_are_noted(tmp_path):
    _, notes = read(tmp_path, {"n_layer": 3, "flavour": "mint", "n_ctx": 7})
    assert notes == [f"{tmp_path}/config.json: unknown key 'flavour' is ignored"]


@pytest.mark.parametrize("case", sorted(folder.name for folder in GOLDENS.iterdir()))
def test_config_round_trip(case, tmp_path):
    config, notes = read_config_file(GOLDENS / case / "config.json")
    assert notes == []
    assert Config.from_dict(config.to_dict()) == config
    assert read(tmp_path, config.to_dict()) == (config, [])


def test_from_dict_says_where():
    with pytest.raises(ConfigError, match=r"the trace: n_layer must be a whole number"):
        Config.from_dict({"n_layer": 0}, "the trace")


def test_a_folder_that_only_has_the_name_does_not_hide_the_shipped_model(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert gpt2np.load("tiny").n_parameters == 2_222_208
