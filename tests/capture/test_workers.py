"""Workers: what they return, what they raise, and what is left when one dies."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpt2np.capture.workers import Here, Workers, results
from gpt2np.errors import InputError, TraceError


def half(n: int) -> int:
    if n % 2:
        raise InputError(f"{n} is odd")
    return n // 2


def pid_or_death(folder: str, number: int, deaths: int) -> int:
    """Kill the own process the first times that this is called with a number."""
    marks = Path(folder) / str(number)
    marks.mkdir(exist_ok=True)
    n = len(list(marks.iterdir()))
    if n < deaths:
        (marks / str(n)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.fixture
def workers():
    with Workers(2) as workers:
        yield workers


@pytest.mark.parametrize("kind", [Here, lambda: Workers(2), lambda: ThreadPoolExecutor(2)])
def test_every_task_has_its_result(kind):
    with kind() as executor:
        found = dict(results(executor, half, [(f"task {n}", (n,)) for n in range(0, 40, 2)]))
    assert found == {f"task {n}": n // 2 for n in range(0, 40, 2)}


@pytest.mark.parametrize("kind", [Here, lambda: Workers(2)])
def test_what_a_function_refuses_is_raised_as_it_is(kind):
    with kind() as executor, pytest.raises(InputError, match=r"^3 is odd$"):
        list(results(executor, half, [("two", (2,)), ("three", (3,))]))


def test_another_error_comes_with_the_place_where_it_was_raised(workers):
    with pytest.raises(TypeError) as raised:
        list(results(workers, half, [("text", ("two",))], attempts=1))
    assert "in half" in raised.value.__notes__[0]


def test_a_killed_worker_costs_its_task_only(workers, tmp_path):
    retried = []
    tasks = [(str(n), (str(tmp_path), n, 1 if n == 3 else 0)) for n in range(12)]
    found = dict(results(workers, pid_or_death, tasks, on_retry=lambda key, _: retried.append(key)))
    assert set(found) == {str(n) for n in range(12)}
    assert retried == ["3"]
    assert os.getpid() not in found.values()


def test_a_task_that_kills_every_worker_is_given_up(workers, tmp_path):
    with pytest.raises(TraceError, match=r"^1: the worker was killed \(signal 9\), 3 times"):
        list(results(workers, pid_or_death, [("1", (str(tmp_path), 1, 9))], attempts=3))
    assert len(list((tmp_path / "1").iterdir())) == 3


def test_workers_compute_on_one_thread_and_leave_the_script_alone(workers):
    assert workers.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "1"
    assert workers.submit(eval, "__import__('sys').argv").result() == ["-c"]


def test_what_a_function_prints_is_no_answer(workers, capfd):
    assert workers.submit(print, "hello").result() is None
    assert capfd.readouterr().out == ""
    assert workers.submit(half, 8).result() == 4


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_no_worker_is_left_behind(tmp_path):
    with Workers(2) as workers:
        pids = [workers.submit(os.getpid).result() for _ in range(2)]
        workers.submit(time.sleep, 600)
        workers.submit(time.sleep, 600)
    assert wait_until(lambda: not any(map(is_alive, pids)))


CALLER = """
import sys, time
from gpt2np.capture.workers import Workers
workers = Workers(1)
print(workers.submit(eval, "__import__('os').getpid()").result(), flush=True)
workers.submit(time.sleep, 600)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_workers_end_with_a_caller_that_is_killed():
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE)
    pid = int(caller.stdout.readline())
    assert is_alive(pid)
    caller.kill()
    caller.communicate()
    assert wait_until(lambda: not is_alive(pid))
