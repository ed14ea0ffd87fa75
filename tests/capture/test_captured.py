"""Reading captured prompts: by any name, across shards, by prompt, in shuffled batches."""

import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.captured_folder import write_captured

from gpt2np.capture import Captured, open_capture
from gpt2np.capture.captured_manifest import ShardFacts
from gpt2np.capture.row_batches import Piece, filled, shuffled_pieces
from gpt2np.errors import InputError, TraceError, UnknownSiteError

TEXTS = [
    "Elizabeth was",
    "Mr. Darcy walked to the",
    "It is a truth",
    "She",
    "Where is he now, my dear?",
    "No.",
]
TEXTS += ["The end of the day was near, and they went home.", "A"]
KEEP = ["resid_post", "attn.pattern", "attn.z", "top_k_tokens"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("captured") / "caps"
    write_captured(tiny, TEXTS, folder, KEEP)
    return folder


@pytest.fixture(scope="module")
def traces(tiny):
    return [tiny.trace(text, keep=KEEP) for text in TEXTS]


@pytest.fixture
def copy(folder, tmp_path):
    """A folder to be damaged."""
    target = tmp_path / "caps"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_what_is_no_path_is_refused():
    for wrong in (5, None, {}, []):
        with pytest.raises(InputError, match=r"^a capture is opened by the path of its folder, not "):
            open_capture(wrong)


def test_it_says_what_it_is(folder, tiny):
    captured = open_capture(folder)
    assert captured.n_prompts == len(captured.prompts) == len(TEXTS)
    assert captured.n_rows == sum(len(tiny.token_ids(text)) for text in TEXTS)
    assert captured.config == tiny.config
    assert captured.model["name"] == "tiny"
    assert captured.unfinished == []
    assert list(captured) == captured.names
    assert len(captured) == 4 * 3 + 1
    assert f"{len(TEXTS)} prompts, 13 sites, {captured.n_rows} rows" in repr(captured)


def test_rows_of_a_prompt_are_those_of_its_trace(folder, traces):
    captured = open_capture(folder)
    for prompt, trace in enumerate(traces):
        for number in (prompt, prompt - len(traces)):
            assert captured.token_ids(number).tolist() == trace.token_ids
            assert captured.positions(number).tolist() == list(range(len(trace.token_ids)))
            rows = captured.rows(number)
            assert rows.keys() == set(trace.names())
            for name, found in rows.items():
                expected = trace[name].transpose(1, 0, 2) if name.endswith("pattern") else trace[name]
                assert np.array_equal(found, expected)
                assert not found.flags.writeable


@pytest.mark.parametrize("positions", [slice(-1, None), slice(0, 2), slice(1, 8, 2)], ids=str)
def test_only_some_positions(tiny, traces, tmp_path, positions):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, positions)
    captured = open_capture(tmp_path / "caps")
    for prompt, trace in enumerate(traces):
        kept = np.arange(len(trace.token_ids))[positions]
        assert captured.positions(prompt).tolist() == kept.tolist()
        assert captured.token_ids(prompt).tolist() == trace.token_ids
        rows = captured.rows(prompt)
        assert np.array_equal(rows["h.1.attn.z"], trace["h.1.attn.z"][kept])
        assert np.array_equal(rows["h.2.attn.pattern"], trace["h.2.attn.pattern"].transpose(1, 0, 2)[kept])
    ids = np.asarray(captured["token_id"])
    where = zip(captured["prompt"][:].tolist(), captured["position"][:].tolist(), strict=True)
    at = [(traces[prompt].token_ids, position) for prompt, position in where]
    assert ids.tolist() == [given[position] for given, position in at]
    behind = [given[position + 1] if position + 1 < len(given) else -1 for given, position in at]
    assert captured["next_token_id"][:].tolist() == behind


@pytest.mark.parametrize(
    "key", ["h.3.resid_post", "blocks.3.hook_resid_post", ("resid_post", 3), ("resid_post", -1)]
)
def test_sites_by_any_name(folder, traces, key):
    array = open_capture(folder)[key]
    assert array.name == "h.3.resid_post"
    assert np.array_equal(array, np.concatenate([trace["h.3.resid_post"] for trace in traces]))


@pytest.mark.parametrize(
    ("key", "error", "says"),
    [
        ("h.3.resid_pots", UnknownSiteError, "the nearest is 'h.3.resid_post'"),
        ("h.4.resid_post", UnknownSiteError, "layer 4 is not one of 0 to 3"),
        ("resid_post", UnknownSiteError, "say which"),
        ("h.0.mlp.out", TraceError, "h.0.mlp.out was not captured: .* has h.0.attn.pattern, "),
        ("h.0.attn.pattern", TraceError, r"captured.rows\(prompt\) has it, \[query, head, key\]"),
        (3, UnknownSiteError, "a site is a name"),
    ],
)
def test_sites_that_are_not_there(folder, key, error, says):
    captured = open_capture(folder)
    with pytest.raises(error, match=says):
        captured[key]
    assert key not in captured


KEYS = [
    0, -1, np.int64(3), slice(None), slice(2, 11), slice(5, 5), slice(30, 2), slice(20, 2, -3),
    slice(None, None, 9), slice(None, None, -1), slice(None, None, -10), [4, 0, -2, 4], [],
    np.arange(12).reshape(3, 4), np.zeros((0, 2), int), (), ..., (..., 3), (..., 0, 1), (2, ..., 1),
    (slice(3, 20), 1), (slice(None), [0, 2], 5), (slice(None), slice(1, 3)), ([1, 2], [3, 0]),
    ([1, 2], slice(None), 4), (0, slice(None), [1, 5]), ([[1], [2]], [0, 3], [4, 5]), (1, None, 2),
    (slice(None), [0, 1], slice(None)), ([0, 5], ..., None), (slice(2, 9), [1, 0], [2, 3]),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_an_index_gives_what_numpy_gives(folder, key):
    array = open_capture(folder)["h.1.attn.z"]
    whole = np.asarray(array)
    assert np.array_equal(array[key], whole[key])
    assert array[key].dtype == whole.dtype
    assert array[key].shape == whole[key].shape


def test_a_mask_of_rows(folder):
    array = open_capture(folder)["h.1.attn.z"]
    whole = np.asarray(array)
    mask = whole[:, 0, 0] > 0
    assert 0 < mask.sum() < len(mask)
    assert np.array_equal(array[mask], whole[mask])
    assert np.array_equal(array[mask, 1], whole[mask, 1])
    with pytest.raises(IndexError, match="a mask is of all"):
        array[mask[:-1]]


@pytest.mark.parametrize(
    "key", [10**6, -(10**6), [0, 10**6], 1.0, "x", ([0], 0, 0, 0), (..., ...), (None, 0), True]
)
def test_an_index_that_numpy_refuses_too(folder, key):
    with pytest.raises(IndexError):
        open_capture(folder)["h.1.attn.z"][key]


def test_an_array_is_read_shard_by_shard(folder, traces):
    array = open_capture(folder)["h.1.attn.z"]
    parts = list(array.shards())
    assert [len(part) for part in parts] == [
        sum(len(t.token_ids) for t in traces[i : i + 3]) for i in range(0, len(traces), 3)
    ]
    assert all(not part.flags.owndata and not part.flags.writeable for part in parts)
    assert np.array_equal(np.concatenate(parts), list(array))
    assert not array[1:4].flags.owndata  # of one shard: a view of its file
    assert (array.shape, array.ndim, len(array)) == ((array.shape[0], 4, 48), 3, array.shape[0])
    assert array.nbytes == np.asarray(array).nbytes == array.size * 4
    assert np.asarray(array, "float64").dtype == np.float64
    with pytest.raises(ValueError, match="is a copy"):
        np.array(array, copy=False)


@given(
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    most=st.integers(1, 50),
    room=st.integers(1, 60),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_pieces_cover_every_row_once_and_fill_the_buffer(rows, most, room, seed):
    pieces = list(shuffled_pieces(rows, most, np.random.default_rng(seed)))
    assert all(0 <= start < stop <= rows[shard] and stop - start <= most for shard, start, stop in pieces)
    parts = list(filled(pieces, room))
    sizes = [sum(stop - start for _, start, stop in part) for part in parts]
    assert all(size == room for size in sizes[:-1])
    assert all(0 < size <= room for size in sizes[-1:])
    there = [(shard, row) for part in parts for shard, start, stop in part for row in range(start, stop)]
    assert sorted(there) == [(shard, row) for shard, n in enumerate(rows) for row in range(n)]


def test_pieces_that_are_cut():
    assert list(filled([Piece(0, 0, 5), Piece(1, 0, 5)], 8)) == [[(0, 0, 5), (1, 0, 3)], [(1, 3, 5)]]


@pytest.mark.parametrize("buffer", [1, 20_000, 10**9])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_have_every_row_once_an_epoch(folder, traces, size, buffer):
    captured = open_capture(folder)
    found = list(captured.batches(["h.2.resid_post", "prompt", "position"], size, epochs=2, buffer=buffer))
    epoch = found[: len(found) // 2]
    assert [len(b["prompt"]) for b in found] == [len(b["prompt"]) for b in epoch] * 2
    assert all(len(batch["prompt"]) == size for batch in epoch[:-1])
    orders = []
    for batches in (epoch, found[len(epoch) :]):
        where = [
            pair for b in batches for pair in zip(b["prompt"].tolist(), b["position"].tolist(), strict=True)
        ]
        assert sorted(where) == [
            (p, i) for p, trace in enumerate(traces) for i in range(len(trace.token_ids))
        ]
        orders.append(where)
        rows = np.concatenate([batch["h.2.resid_post"] for batch in batches])
        assert np.array_equal(rows, [traces[p]["h.2.resid_post"][i] for p, i in where])
    assert orders[0] != orders[1]
    if buffer > 10**6:
        assert orders[0] != sorted(orders[0])


def test_batches_are_those_of_their_seed(folder):
    captured = open_capture(folder)
    first, again, other = (
        np.concatenate(list(captured.batches("resid_post[1]", 5, seed=seed))) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(first[:, 0]), np.sort(other[:, 0]))


def test_batches_of_patterns_and_without_the_last(folder):
    captured = open_capture(folder)
    found = list(captured.batches(["resid_post", "token_id", "h.1.resid_post"], 10, drop_last=True))
    assert list(found[0]) == [*(f"h.{i}.resid_post" for i in range(4)), "token_id"]
    assert len(found) == captured.n_rows // 10
    found[0]["token_id"][:] = 0  # a batch is the caller's
    endless = captured.batches("token_id", captured.n_rows, epochs=None)
    assert len({tuple(next(endless)) for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("sites", "options", "error", "says"),
    [
        ("h.0.resid_post", {"size": 0}, InputError, "size=0"),
        ("h.0.resid_post", {"size": 2.5}, InputError, "size=2.5"),
        ("h.0.resid_post", {"size": 4, "seed": -1}, InputError, "seed=-1"),
        ("h.0.resid_post", {"size": 4, "epochs": 0}, InputError, "epochs=0"),
        ("h.0.resid_post", {"size": 4, "buffer": 0}, InputError, "buffer=0"),
        (
            "h.0.resid_post",
            {"size": 10**6, "drop_last": True},
            InputError,
            "rows, too few for a batch of 1,000,000; ",
        ),
        ([], {"size": 4}, InputError, "batches of no sites"),
        ("resid_post", {"size": 4}, UnknownSiteError, "say which"),
        (["resid_pots"], {"size": 4}, UnknownSiteError, "nearest"),
        (["mlp.out"], {"size": 4}, TraceError, "was not captured"),
        (["attn.pattern"], {"size": 4}, TraceError, r"captured.rows\(prompt\)"),
    ],
)
def test_batches_that_cannot_be(folder, sites, options, error, says):
    with pytest.raises(error, match=says):
        open_capture(folder).batches(sites, **options)


@pytest.mark.parametrize("prompt", [len(TEXTS), -len(TEXTS) - 1, 1.5, "0", True])
def test_no_such_prompt(folder, prompt):
    for read in (open_capture(folder).rows, open_capture(folder).token_ids, open_capture(folder).positions):
        with pytest.raises(InputError, match=r"prompt=.*must be a whole number from -8 to 7"):
            read(prompt)


def test_an_unfinished_capture_opens_with_what_is_there(tiny, traces, tmp_path):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, finish=[0, 2])
    with (tmp_path / "caps" / "shards.jsonl").open("a") as file:
        file.write('{"file": "shard_00001.safe')  # of a run that was killed
    with pytest.warns(UserWarning, match="2 of 3 shards are finished; run the capture again to finish it"):
        captured = open_capture(tmp_path / "caps")
    assert captured.unfinished == ["shard_00001.safetensors"]
    assert captured.prompts == [0, 1, 2, 6, 7]
    assert "2 of 3 shards are finished" in repr(captured)
    assert np.array_equal(captured.rows(7)["h.0.resid_post"], traces[7]["h.0.resid_post"])
    expected = np.concatenate([traces[i]["h.0.resid_post"] for i in captured.prompts])
    assert np.array_equal(captured["h.0.resid_post"], expected)
    assert sorted(set(captured["prompt"][:].tolist())) == captured.prompts
    with pytest.raises(TraceError, match=r"prompt 4 is in shard_00001\.safetensors, which is not finished"):
        captured.rows(4)


def test_a_capture_that_has_only_begun(tiny, tmp_path):
    write_captured(tiny, TEXTS, tmp_path / "caps", KEEP, finish=[])
    (tmp_path / "caps" / "shards.jsonl").unlink()
    with pytest.warns(UserWarning, match="0 of 3 shards are finished"):
        captured = open_capture(tmp_path / "caps")
    assert captured["h.0.attn.z"][:].shape == (0, 4, 48)
    assert captured["h.0.attn.z"][:, 1].shape == (0, 48)
    assert np.asarray(captured["h.0.resid_post"]).shape == (0, 192)
    with pytest.raises(InputError, match="has 0 rows so far"):
        captured.batches("h.0.attn.z", 3, epochs=None)


def test_other_processes_get_it_by_its_folder(folder):
    captured = open_capture(folder)
    again = pickle.loads(pickle.dumps(captured))
    assert isinstance(again, Captured)
    assert again.names == captured.names
    array = pickle.loads(pickle.dumps(captured["h.0.resid_post"]))
    assert np.array_equal(array, captured["h.0.resid_post"])
    assert len(pickle.dumps(captured["token_id"])) < 20_000


def test_many_shards_do_not_hold_many_files_open(tiny, tmp_path):
    write_captured(tiny, ["A"] * 150, tmp_path / "caps", ["embed"], per_shard=1)
    code = "import resource, sys, gpt2np.capture as c, numpy as np\n"
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    code += "a = c.open_capture(sys.argv[1])\n"
    code += "print(len(np.asarray(list(a.batches('embed', 1)))), a['embed'][:].shape)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "caps"], capture_output=True, text=True)
    assert done.stdout == "150 (150, 192)\n", done.stderr


@pytest.mark.needs("torch")
def test_shards_are_read_by_safetensors_and_torch(folder, traces):
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    for number in range(3):
        path = folder / f"shard_{number:05}.safetensors"
        group = traces[3 * number : 3 * number + 3]
        expected = np.concatenate([trace["h.2.resid_post"] for trace in group])
        found = load_file(path)
        assert found["h.2.resid_post"].dtype == torch.float32
        assert np.array_equal(found["h.2.resid_post"].numpy(), expected)
        with safe_open(path, "numpy") as file:
            assert np.array_equal(file.get_tensor("h.2.resid_post"), expected)


def test_opening_is_quick_to_import(folder):
    code = "import gpt2np.capture, sys; print('numpy' in sys.modules, gpt2np.capture.open_capture.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False open_capture\n", done.stderr


# -- folders that are something else, or damaged ------------------------------------------------------------


def changed(manifest, path, value):
    """The manifest with another value at a path of keys."""
    content = json.loads(manifest.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["schema"], "gpt2np.captured/9", "schema is 'gpt2np.captured/9', expected 'gpt2np.captured/1'"),
        (["sites"], None, "sites is missing"),
        (["sites", "h.0.resid_post", "dtype"], "bfloat16", "sites is "),
        (
            ["sites", "h.7.resid_post"],
            {"axes": "pos n_embd", "row": [192], "dtype": "float16"},
            "layer 7 is not one",
        ),
        (["sites", "h.0.resid_post", "axes"], "pos vocab", "has axes 'pos vocab'"),
        (["config", "n_layer"], "many", "n_layer"),
        (["texts", "prompts"], 9, "shards hold 8 prompts of .* texts are 9"),
        (["shards", 1, "first_prompt"], 4, "shard_00001.safetensors begins at prompt 4, expected 3"),
        (["shards", 1, "file"], "../shard_00001.safetensors", "is no file in this folder"),
        (["shards", 1, "file"], "shard_00000.safetensors", "two have the same file"),
        (["shards", 1, "rows"], "3", "shards is "),
        (["model"], [], "model is "),
        (["model", "name"], 3, "model is "),
        (["options", "pack_tokens"], "many", "options is "),
        (["shards", 1, "rows"], 2**60, "shards is "),
    ],
)
def test_a_damaged_manifest_is_refused_by_a_line(copy, path, value, says):
    changed(copy / "manifest.json", path, value)
    with pytest.raises(TraceError, match=says) as caught:
        open_capture(copy)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("manifest.json", b"{", "is not JSON"),
        ("manifest.json", b"[]", "schema is"),
        ("manifest.json", b"\xff", "not UTF-8"),
        ("manifest.json", b"{", "run the capture again, which can write it anew, or put back a copy of it"),
        ("shards.jsonl", b"x\n", "line 1: is not JSON"),
        ("shards.jsonl", b"x\n", "run the capture again, and it makes the shard anew, or delete the line"),
        ("shards.jsonl", b'{"file": "x", "bytes": 1, "sha256": ""}\n', "'x' is no shard of the manifest"),
        ("shards.jsonl", b'{"bytes": 1}\n', "line 1: file is missing"),
    ],
)
def test_files_that_are_no_json_of_ours(copy, file, content, says):
    (copy / file).write_bytes(content)
    with pytest.raises(TraceError, match=says):
        open_capture(copy)


def test_folders_that_are_no_capture(tmp_path):
    (tmp_path / "file").write_text("x")
    for name, says in (("", "it has no manifest.json"), ("none", "no such folder"), ("file", "is no folder")):
        with pytest.raises(TraceError, match=says):
            open_capture(tmp_path / name)


def test_a_damaged_shard_is_named_when_it_is_read(copy, traces):
    path = copy / "shard_00001.safetensors"
    content = path.read_bytes()
    captured = open_capture(copy)
    for damage, says in (
        (content[:-4], "is damaged: has .* bytes, was captured with"),
        (b"\0" * len(content), "header"),
        (
            content.replace(b'"h.0.resid_post"', b'"h.0.resid_pots"'),
            "h.0.resid_post is missing, expected float32",
        ),
        (content.replace(b'"F32"', b'"I32"', 1), "expected float32"),
        (content.replace(captured.model["fingerprint"].encode(), b"0" * 16), "is of another capture"),
    ):
        path.write_bytes(damage)
        again = open_capture(copy)
        assert np.array_equal(again.rows(0)["h.0.resid_post"], traces[0]["h.0.resid_post"])
        for read in (
            lambda c=again: c.rows(3),
            lambda c=again: c["h.0.resid_post"][:],
            lambda c=again: c["prompt"][:],
        ):
            with pytest.raises(TraceError, match=f"shard_00001.*{says}.*run the capture again"):
                read()
    path.unlink()
    with pytest.raises(TraceError, match=r"shard_00001\.safetensors: no such file; run the capture again"):
        open_capture(copy).batches("h.0.resid_post", 4)


def test_offsets_that_do_not_fit(copy):
    captured = open_capture(copy)
    facts = captured.manifest.shards[1]
    assert isinstance(facts, ShardFacts)
    path = copy / facts.file
    offsets = np.array(captured.shards.open(1).row_offsets)
    content = bytearray(path.read_bytes())
    at = content.index(offsets.tobytes())
    content[at : at + offsets.nbytes] = offsets[::-1].tobytes()
    path.write_bytes(content)
    with pytest.raises(TraceError, match="is damaged in its offsets of prompts"):
        open_capture(copy).rows(4)


def test_a_finished_capture_opens_without_a_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_capture(folder)


def test_positions_that_do_not_fit(copy):
    path = copy / "shard_00001.safetensors"
    positions = np.array(open_capture(copy).shards.open(1).positions)
    content = bytearray(path.read_bytes())
    at = content.index(positions.tobytes())
    content[at : at + positions.nbytes] = (positions + 50).tobytes()
    path.write_bytes(content)
    with pytest.raises(TraceError, match="a row is of a position behind its prompt"):
        open_capture(copy)["token_id"][:]


def mutated(content, rng, most):
    """A file's bytes with a few of the first `most` changed, left out or doubled."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(min(most, len(changed))))
        kind = rng.integers(4)
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at] = int(rng.choice(list(b'0123456789"{}[],:-')))
        elif kind == 2:
            del changed[at : at + int(rng.integers(1, 9))]
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 9))]
    return bytes(changed)


@pytest.mark.parametrize("file", ["manifest.json", "shards.jsonl", "shard_00001.safetensors"])
def test_mutated_files_are_read_or_refused(copy, file):
    content, rng = (copy / file).read_bytes(), np.random.default_rng(5)
    refused = []
    for _ in range(100):
        (copy / file).write_bytes(mutated(content, rng, 4_000))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                captured = open_capture(copy)
            for prompt in captured.prompts:
                captured.rows(prompt), captured.token_ids(prompt), captured.positions(prompt)
            for name in ("token_id", "next_token_id", "prompt", "h.2.attn.z"):
                np.asarray(captured[name])
        except TraceError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert not any("\n" in message for message in refused)
