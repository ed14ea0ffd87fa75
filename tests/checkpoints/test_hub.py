import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from support.fake_hub import FakeHub, commit_id, running

from gpt2np.checkpoints import hub
from gpt2np.errors import CheckpointError, HubError

MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"never wanted",
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"#version: 0.2\n",
    "tokenizer_config.json": b"{ }",
    "README.md": b"never wanted",
}
SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]


def index(*names: object) -> bytes:
    return json.dumps(
        {"weight_map": {f"tensor.{n}": name for n, name in enumerate([*names, *names])}}
    ).encode()


SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": index(*SHARDS),
    **{name: name.encode() * 100 for name in SHARDS},
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running() as server:
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        # what huggingface_hub read from the environment when it was first imported; the list of harnesses
        # is fetched from the real Hub unless there is one
        harnesses = tmp_path / "harnesses.json"
        harnesses.write_text('{"standardEnvVars": [], "harnesses": {}}')
        for name, value in {
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN_PATH": str(tmp_path / "hf/token"),
            "AGENT_HARNESSES_PATH": str(harnesses),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value, raising=False)
        yield server


def names(snapshot: hub.Snapshot) -> set[str]:
    return {file.name for file in snapshot.folder.iterdir()}


def unreachable(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the fake Hub is gone: nothing listens at its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


def test_a_model_is_downloaded_file_by_file(
    fake: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = fake.add("org/model", MODEL)
    snapshot = hub.fetch("org/model")
    folder = tmp_path / "hf/hub/models--org--model/snapshots" / commit
    assert snapshot == hub.Snapshot(folder, commit, "org/model", None)
    assert names(snapshot) == MODEL.keys() - {"pytorch_model.bin", "README.md"}
    for name in names(snapshot):
        assert (folder / name).read_bytes() == MODEL[name]
    order = [line.split("/")[-1] for line in fake.requests if line.startswith("GET /org")]
    assert order == ["config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"]
    assert capfd.readouterr() == ("", "")  # no progress bar unless on a terminal


def test_a_second_fetch_asks_only_whether_the_branch_has_moved(fake: FakeHub) -> None:
    first = fake.add("org/model", MODEL)
    hub.fetch("org/model")
    fake.requests.clear()
    hub.fetch("org/model")
    assert {line for line in fake.requests if "resolve" in line} == {
        "HEAD /org/model/resolve/main/config.json"
    }
    second = fake.add("org/model", {**MODEL, "config.json": b"{ }"})
    assert hub.fetch("org/model").commit == second != first
    assert fake.asked_for("model.safetensors") == 0  # unchanged files are shared between commits
    assert hub.fetch("org/model", first).commit == first


@pytest.mark.parametrize("large", [False, True])
def test_shards_and_files_at_another_origin(fake: FakeHub, large: bool) -> None:
    fake.add("org/model", SHARDED)
    fake.large = set(SHARDS) if large else set()
    snapshot = hub.fetch("org/model")
    assert names(snapshot) == set(SHARDED)
    for name in SHARDS:
        assert (snapshot.folder / name).read_bytes() == SHARDED[name]


@pytest.mark.parametrize("sharded", [False, True])
def test_pytorch_weights_if_there_is_nothing_else(fake: FakeHub, sharded: bool) -> None:
    weights = (
        {"pytorch_model.bin.index.json": index("a.bin"), "a.bin": b"x"}
        if sharded
        else {"pytorch_model.bin": b"x"}
    )
    fake.add("model", {"config.json": b"{}", **weights})
    assert names(hub.fetch("model")) == {"config.json", *weights}


def test_a_branch_that_moves_between_two_files(fake: FakeHub) -> None:
    new = {name: b"new " + content for name, content in MODEL.items()}
    moved, old = fake.add("org/model", new), fake.add("org/model", MODEL)
    fake.moves_after["config.json"] = ("org/model", "main", moved)
    snapshot = hub.fetch("org/model")
    assert snapshot.commit == old
    assert all((snapshot.folder / name).read_bytes() == MODEL[name] for name in names(snapshot))
    assert hub.fetch("org/model").commit == moved


def test_a_renamed_model_and_other_revisions(fake: FakeHub) -> None:
    commit = fake.add("openai-community/gpt2", MODEL)
    fake.renamed["gpt2"] = "openai-community/gpt2"
    assert hub.fetch("gpt2").commit == commit
    pull_request = fake.add("openai-community/gpt2", SHARDED, branch="v1.0")
    assert hub.fetch("gpt2", "v1.0").commit == pull_request
    assert hub.fetch("gpt2", commit).commit == commit


def test_a_mirror_that_answers_a_plain_404(fake: FakeHub) -> None:
    fake.add("org/model", SHARDED)
    fake.plain_404 = True
    assert names(hub.fetch("org/model")) == set(SHARDED)
    with pytest.raises(HubError, match=r"org/other has no config.json at this revision, or is no model"):
        hub.fetch("org/other")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.safetensors": b""}, "org/model .revision main. .* has no config.json"),
        ({"config.json": b"{}"}, "has no weights: neither model.safetensors nor pytorch_model.bin"),
        ({**SHARDED, SHARDS[1]: None}, f"has no {SHARDS[1]}, which its model.safetensors.index.json names"),
    ],
)
def test_incomplete_models(fake: FakeHub, files: dict[str, bytes | None], message: str) -> None:
    fake.add("org/model", {name: content for name, content in files.items() if content is not None})
    with pytest.raises(HubError, match=message):
        hub.fetch("org/model")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a/b", "a\\b", ".hidden", "a..b", "", "a\n", 5, None]
)
def test_shard_names_are_plain_file_names(fake: FakeHub, name: object) -> None:
    fake.add("org/model", {**SHARDED, "model.safetensors.index.json": index(SHARDS[0], name)})
    with pytest.raises(CheckpointError, match=r"index\.json.* not a plain file name"):
        hub.fetch("org/model")
    assert fake.asked_for(SHARDS[0]) == 0


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"\xff", b'{"weight_map": {"a": {}}}'],
)
def test_a_broken_index(fake: FakeHub, content: bytes) -> None:
    fake.add("org/model", {**SHARDED, "model.safetensors.index.json": content})
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        hub.fetch("org/model")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "has no model org/other; if it is private, log in with"),
        (401, "RepoNotFound", "has no model org/other; if it is private, log in with"),
        (
            401,
            "GatedRepo",
            "org/other is gated: accept its licence .* at http.*/org/other, then log in with `hf auth login`",
        ),
        (403, "GatedRepo", "org/other is gated"),
        (401, "", "/org/other refuses access to config.json .401.: log in"),
        (403, "", "/org/other refuses access to config.json .403.: log in"),
    ],
)
def test_models_one_may_not_have(fake: FakeHub, status: int, code: str, message: str) -> None:
    fake.refused["org/other"] = (status, code)
    with pytest.raises(HubError, match=message) as caught:
        hub.fetch("org/other")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", ["hf_abcdefghijklmnopqrst", "hf_abcdefghijklm\x07nop", "another-secret"])
@pytest.mark.parametrize("way", ["gated", "unreachable", "password", "cached"])
def test_no_token_is_ever_told(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.add("org/model", MODEL)
    if way == "cached":
        hub.fetch("org/model")
    monkeypatch.setenv("HF_TOKEN", token)
    if way == "gated":
        fake.refused["org/model"] = (403, "GatedRepo")
    if way in ("unreachable", "cached"):
        unreachable(fake, monkeypatch)
    if way == "password":
        monkeypatch.setenv("HF_ENDPOINT", fake.url.replace("://", f"://me:{token}@"))
        fake.refused["org/model"] = (401, "")
    try:
        snapshot = hub.fetch("org/model")
    except HubError as error:
        text = "".join(traceback.format_exception(error)) + repr(error)
    else:
        text = repr(snapshot)
    for told in (text, caplog.text):
        assert token not in told
        assert repr(token)[1:-1] not in told


def test_the_gate_of_one_shard_is_told_like_that_of_the_model(fake: FakeHub) -> None:
    fake.add("org/model", SHARDED)
    fake.refused_files["model-00002-of-00002.safetensors"] = (403, "GatedRepo")
    with pytest.raises(HubError, match="org/model is gated: accept its licence"):
        hub.fetch("org/model")


def test_finished_shards_are_not_fetched_again(fake: FakeHub) -> None:
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    fake.add("org/model", SHARDED)
    fake.refused_files[second] = (403, "GatedRepo")
    with pytest.raises(HubError, match="is gated"):
        hub.fetch("org/model")
    del fake.refused_files[second]
    snapshot = hub.fetch("org/model")
    assert {first, second} <= names(snapshot)
    hub.fetch("org/model", local_files_only=True)
    hub.fetch("org/model", snapshot.commit)
    assert fake.asked_for(first) == 1


@pytest.mark.parametrize("revision", ["nowhere", commit_id("nowhere"), "feature/x"])
def test_a_revision_that_does_not_exist(fake: FakeHub, revision: str) -> None:
    fake.add("org/model", MODEL)
    with pytest.raises(
        HubError, match=f"org/model has no revision {revision}: see http.*/org/model/tree/main"
    ):
        hub.fetch("org/model", revision)


@pytest.mark.parametrize(
    "repo_id", ["", " ", "a b", "a/b/c", "../x", "/x", "x/", "a--b", "x.git", "x" * 97, "modèle?"]
)
def test_impossible_ids_never_reach_the_network(fake: FakeHub, repo_id: str) -> None:
    with pytest.raises(HubError, match="is neither a folder nor a Hub id"):
        hub.fetch(repo_id)
    assert fake.requests == []


@pytest.mark.parametrize("revision", ["", "a b", "../x", "/x", "x/", "a?b", "a\n"])
def test_impossible_revisions_never_reach_the_network(fake: FakeHub, revision: str) -> None:
    with pytest.raises(HubError, match="is no revision of org/model"):
        hub.fetch("org/model", revision)
    assert fake.requests == []


@pytest.mark.timeout(30)
def test_an_unreachable_hub_and_nothing_cached(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(fake, monkeypatch)
    with pytest.raises(
        HubError, match=r"out of reach .*refused.* not in the cache .*gpt2np download org/model"
    ):
        hub.fetch("org/model")


@pytest.mark.timeout(60)
def test_a_hub_that_accepts_and_never_answers(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(HubError, match=r"out of reach .*HF_HUB_OFFLINE=1"):
            hub.fetch("org/model")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_down(fake: FakeHub, status: int) -> None:
    commit = fake.add("org/model", MODEL)
    fake.status = status
    with pytest.raises(HubError, match=f"out of reach .it answers {status}."):
        hub.fetch("org/model")
    fake.status = 200
    hub.fetch("org/model")
    fake.status = status
    assert f"it answers {status}" in str(hub.fetch("org/model").note)
    assert hub.fetch("org/model", commit).note is None


def test_a_cached_model_needs_no_hub(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = fake.add("org/model", MODEL)
    whole = hub.fetch("org/model")
    fake.requests.clear()
    assert hub.fetch("org/model", commit) == whole
    assert hub.fetch("org/model", local_files_only=True) == whole
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch("org/model") == whole
    assert fake.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    unreachable(fake, monkeypatch)
    assert hub.fetch("org/model", commit) == whole
    snapshot = hub.fetch("org/model")
    assert snapshot.folder == whole.folder
    assert f"using the cached commit {commit[:12]}" in str(snapshot.note)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors.index.json", SHARDS[1]])
def test_a_partial_cache_is_not_taken_for_whole(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    commit = fake.add("org/model", SHARDED)
    (hub.fetch("org/model").folder / lost).unlink()
    with pytest.raises(HubError, match=r"not looking on the Hub, as asked.*gpt2np download org/model"):
        hub.fetch("org/model", local_files_only=True)
    with monkeypatch.context() as patch:
        unreachable(fake, patch)
        for revision in (None, commit):
            with pytest.raises(HubError, match="out of reach"):
                hub.fetch("org/model", revision)
    assert names(hub.fetch("org/model", commit)) == set(SHARDED)


def test_a_cache_without_tokenizer_is_completed_or_noted(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = fake.add("org/model", MODEL)
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(
            "org/model", name, endpoint=fake.url, cache_dir=os.environ["HF_HOME"] + "/hub"
        )
    with monkeypatch.context() as patch:
        unreachable(fake, patch)
        assert "cache lacks vocab.json and merges.txt" in str(hub.fetch("org/model", commit).note)
    assert "vocab.json" in names(hub.fetch("org/model", commit))
    assert hub.fetch("org/model", local_files_only=True).note is None


def test_a_connection_cut_once_is_taken_up_again(fake: FakeHub) -> None:
    fake.add("org/model", MODEL)
    fake.cut["model.safetensors"] = [3000]
    with contextlib.suppress(HubError):  # huggingface_hub 1.0 gives up at once
        hub.fetch("org/model")
    assert (hub.fetch("org/model").folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


@pytest.mark.parametrize("large", [False, True])
def test_a_connection_cut_for_good_then_a_second_run(
    fake: FakeHub, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add("org/model", SHARDED)
    fake.cut[SHARDS[1]] = [1000, *[0] * 20]
    fake.large = set(SHARDS) if large else set()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: None)
        with pytest.raises(HubError, match=f"downloading {SHARDS[1]} of org/model .* failed: .* try again"):
            hub.fetch("org/model")
    with pytest.raises(HubError, match=f"has no {SHARDS[1]}"):
        hub.fetch("org/model", local_files_only=True)
    fake.cut.clear()
    fake.requests.clear()
    snapshot = hub.fetch("org/model")
    assert (snapshot.folder / SHARDS[1]).read_bytes() == SHARDED[SHARDS[1]]
    assert fake.asked_for(SHARDS[0]) == 0


def test_the_cache_is_where_the_environment_says(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add("org/model", MODEL)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert hub.fetch("org/model").folder.is_relative_to(tmp_path / "elsewhere")
    assert not (tmp_path / "hf/hub").exists()


def test_importing_opens_no_socket_and_loads_no_library(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        network = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
        sys.addaudithook(lambda event, args: event in network and os._exit(9))
        import gpt2np.checkpoints.hub
        assert "huggingface_hub" not in sys.modules
        try:
            gpt2np.checkpoints.hub.fetch("org/model")
        except gpt2np.checkpoints.hub.HubError as error:
            print(error)
    """
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"org/model (revision main) is not in the cache {tmp_path}/hub (not looking"
    )
