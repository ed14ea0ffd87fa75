"""A hundred thousand prompts, killed at random, by any number of workers: the same bytes in little memory."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc"),
]
N, KILLS, SHARD_MB = 100_000, 20, 32
WORDS = "Elizabeth was not the only one who had been to see her sister and Mr Darcy in town again".split()
WORKER_MB = 120  # that a worker may take beside weights and one shard


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng, path = random.Random(0), tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = (" ".join(rng.choices(WORDS, k=rng.randint(2, 24))) for _ in range(N))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def started(file, folder, *options):
    argv = ["capture", "--text", file, "--out", folder, "--shard-mb", SHARD_MB, "--json", *options]
    command = [sys.executable, "-m", "gpt2np", *map(str, argv)]
    where = Path(folder).parent  # so that it imports the package that the tests do
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=where)


def hashes(folder):
    """Every file of a capture but its log, by hash."""
    paths = [path for path in sorted(Path(folder).iterdir()) if path.name != "run.log"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def n_finished(folder):
    path = Path(folder) / "shards.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def workers_of(process):
    paths = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in paths for pid in path.read_text().split()]


def resident(pid):
    """Bytes of a process that are its own, and all that it has in memory, mapped files too."""
    rows = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kb = {name: int(value.split()[0]) for name, value in rows.items()}
    return (kb["Private_Dirty"] + kb["Private_Clean"]) * 1024, kb["Rss"] * 1024


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """The hashes of an uninterrupted run on all cores, and the memory of its workers as shards finish."""
    folder, memory = tmp_path_factory.mktemp("whole") / "capture", {}
    start = time.perf_counter()
    process = started(file, folder)
    while process.poll() is None:
        time.sleep(0.02)
        done = n_finished(folder)
        for pid in workers_of(process):
            try:
                memory.setdefault(done, []).append(resident(pid))
            except (OSError, KeyError, ValueError):  # it has just ended
                continue
    out, said = process.communicate()
    assert process.returncode == 0, said
    facts, seconds = json.loads(out), time.perf_counter() - start
    rates = f"{facts['tokens'] / seconds:,.0f} tokens/s, {facts['bytes'] / seconds / 1e6:.0f} MB/s"
    print(f"{facts['tokens']:,} tokens, {facts['bytes']:,} bytes in {seconds:.0f} s: {rates}")
    return hashes(folder), memory, facts


def test_memory_is_bounded_and_does_not_grow(whole, tiny):
    _, memory, facts = whole
    last = facts["shards"] - 1
    weights = sum(weight.nbytes for weight in tiny.weights.held.values())
    most = {done: max(all_ for _, all_ in found) for done, found in memory.items()}
    print({done: f"{n / 1e6:.0f} MB" for done, n in most.items()})
    assert last > 10
    assert max(most.values()) < weights + (SHARD_MB + WORKER_MB) * 1_000_000
    early = max(n for done, n in most.items() if 4 <= done <= 6)
    late = max(n for done, n in most.items() if last - 3 <= done < last)
    assert late <= 1.02 * early + 1_000_000


def test_killed_twenty_times_it_ends_as_the_same_bytes(file, whole, tmp_path):
    folder, rng, lost = tmp_path / "capture", random.Random(1), 0
    share = whole[2]["shards"] / (KILLS + 1)
    for kill in range(KILLS):
        process = started(file, folder)
        while process.poll() is None and n_finished(folder) < share * kill:
            time.sleep(0.01)
        time.sleep(rng.random() * 2)
        before = n_finished(folder)
        process.kill()
        process.communicate()
        lost += n_finished(folder) < before
    process = started(file, folder)
    _, said = process.communicate()
    assert (process.returncode, lost) == (0, 0), said
    assert hashes(folder) == whole[0]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_bytes(file, whole, tmp_path, workers):
    process = started(file, tmp_path / "capture", "--workers", workers)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert hashes(tmp_path / "capture") == whole[0]


@pytest.mark.needs("distributed")
def test_a_cluster_of_which_a_worker_is_killed_writes_the_same_bytes(file, whole, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        process = started(file, tmp_path / "capture", "--dask", cluster.scheduler_address)
        while process.poll() is None and n_finished(tmp_path / "capture") < 3:
            time.sleep(0.05)
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert hashes(tmp_path / "capture") == whole[0]
