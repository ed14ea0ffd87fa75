"""What `--dask` is given: what is no scheduler is refused in one line, at once."""

import re
import subprocess
import sys
import time

import pytest

from gpt2np.capture import cluster
from gpt2np.errors import InputError

FILES = {
    "texts.txt": ("Elizabeth was\n", "is not JSON"),
    "five.json": ('{"address": 5}', "it has no address"),
    "empty.json": ("{}", "it has no address"),
    "list.json": ("[]", "it has no address"),
    "model.bin": (b"\x80\0", "is not UTF-8"),
}


@pytest.mark.parametrize("name", FILES)
def test_another_file_is_no_scheduler_file(tmp_path, name):
    content, says = FILES[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as told:
        cluster.scheduler_address(str(tmp_path / name))
    assert str(told.value).startswith(f"dask='{tmp_path / name}': is no scheduler file")
    assert says in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.needs("distributed")
@pytest.mark.parametrize("address", ["garbage://", "garbage://host:1", "tcp://", "tcp://host:x", ":"])
def test_what_is_no_address_is_refused_before_a_client_tries_it(address):
    with pytest.raises(InputError, match=r"^dask='.*': is no address such as tcp://HOST:8786 \("):
        cluster.connect(address)


@pytest.mark.needs("distributed")
def test_another_service_is_refused(monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.2)
    with pytest.raises(InputError, match=r"^dask='http://127.0.0.1:1': "):
        cluster.connect("http://127.0.0.1:1")


@pytest.mark.needs("distributed")
def test_the_address_in_a_scheduler_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.2)
    for address, says in (("zzz://h:1", "is no address"), ("tcp://127.0.0.1:1", "no scheduler answers")):
        (tmp_path / "scheduler.json").write_text(f'{{"address": "{address}"}}')
        with pytest.raises(InputError, match=f"scheduler.json': '{address}' in it: {says}"):
            cluster.connect(str(tmp_path / "scheduler.json"))


@pytest.mark.needs("distributed")
def test_the_command_says_one_line_and_ends(tmp_path):
    (tmp_path / "texts.txt").write_text("Elizabeth was\n")
    (tmp_path / "empty.json").write_text("{}")
    for address in ("empty.json", "garbage://"):
        argv = ["-m", "gpt2np", "capture", "--text", "texts.txt", "--out", "caps", "--dask", address]
        start = time.monotonic()
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert re.match(rf"gpt2np: --dask '?{address}'?: is no ", done.stderr)
        assert time.monotonic() - start < 12
