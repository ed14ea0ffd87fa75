"""Workers: processes that run functions, of which one that dies costs its task and nothing else.

A task is a function of a module with arguments that can be pickled. Who runs it is anything with a `submit`
that returns a future: `Workers` (processes of this machine), `Here` (this process), an executor of
`concurrent.futures`, or the client of a Dask cluster. `results` hands tasks out and takes them back.

A worker is a Python process of its own, with *one* BLAS thread, that reads tasks from a pipe. It does not run
the caller's script anew, as those of `multiprocessing` do, and ends when the pipe does: when the caller ends,
however that ends.
"""

import contextlib
import inspect
import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Protocol, Self, TypeVar

from gpt2np.errors import Gpt2npError, InputError, TraceError, short, whole_number

T = TypeVar("T")
MOST = 256  # processes that may be asked for
ATTEMPTS = 4  # of a task whose worker dies
_AT_ONCE = 1_000  # tasks that an executor of which we do not know the size is given
_START = "import sys; sys.path[:] = {!r}; from gpt2np.capture.workers import serve; serve()"
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Submits(Protocol):
    """What runs tasks: `submit(function, *args)` returns a future; Dask's also takes a `key`."""

    @property
    def submit(self) -> Callable[..., Any]:
        """Start a task; returns its future, with `result()` and `add_done_callback(function)`."""


class WorkerDied(Gpt2npError):
    """Raised for a task whose worker ended before the task did."""


class Runner:
    """What runs tasks until a block ends: `Here` or `Workers`."""

    n: int  # tasks that run at a time

    def submit(self, function: Callable[..., T], /, *args: Any, key: str | None = None) -> "Future[T]":
        """Give it a function; returns its future. `key` is the task's name, which Dask's clusters use."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started for it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Here(Runner):
    """Runs every task at once, in this process."""

    n = 1

    def submit(self, function: Callable[..., T], /, *args: Any, key: str | None = None) -> "Future[T]":
        """Run a function; returns its future, which is done."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Workers(Runner):
    """Processes that run tasks; each starts with its first, and another one takes the place of a dead one.

    As a context manager they end with the block: idle ones of their own accord, others are killed.

    Example:
        >>> with Workers(2) as workers:
        ...     workers.submit(divmod, 7, 2).result()
        (3, 1)
    """

    def __init__(self, n: int) -> None:
        self.n = whole_number("workers", n, 1, MOST)
        self._threads = ThreadPoolExecutor(self.n, "gpt2np worker")  # one waits for each process
        self._own = threading.local()
        self._started: list[_Process] = []
        self._closed = False

    def submit(self, function: Callable[..., T], /, *args: Any, key: str | None = None) -> "Future[T]":
        """Give a function to the next worker that is free; returns its future.

        The future raises what the function raises, and WorkerDied if its process ends first.
        """
        return self._threads.submit(self._run, function, args)

    def pids(self) -> list[int]:
        """Return the numbers of the processes that are alive."""
        return [worker.process.pid for worker in list(self._started) if worker.process.poll() is None]

    def close(self) -> None:
        """End the workers; what they are at is given up."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._started:  # one that starts meanwhile is ended by its thread
            worker.end()
        self._threads.shutdown()

    def _run(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        worker: _Process | None = getattr(self._own, "worker", None)
        if worker is None or worker.process.poll() is not None:
            worker = self._own.worker = _Process()
            self._started.append(worker)
        if self._closed:
            worker.end()
            raise WorkerDied("the workers are closed")
        done, result = worker.run(pickle.dumps((function, args)))
        if done:
            return result  # type: ignore[no-any-return]  # what the function returned, over there
        raise result


class _Process:
    """One worker, as its owner sees it."""

    def __init__(self) -> None:
        one_thread = dict.fromkeys(_ONE_THREAD, "1")
        apart: Any = {}  # Ctrl-C is for the caller, who ends its workers
        if os.name == "posix":
            apart["process_group"] = 0
        else:
            apart["creationflags"] = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        start = _START.format([os.path.abspath(path) for path in sys.path])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **one_thread},
                **apart,
            )
        except OSError as error:
            raise TraceError(f"a worker cannot be started ({error.strerror})") from None

    def run(self, task: bytes) -> tuple[bool, Any]:
        """Have it run a task; whether that was done, and the result, or the error.

        Raises:
            WorkerDied: it was not there any more, or ended meanwhile.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            _send(self.process.stdin, task)
            answer = _receive(self.process.stdout)
        except (EOFError, OSError, ValueError):  # the last for a pipe that was closed here
            self.end()
            code = self.process.returncode
            how = f"was killed (signal {-code})" if code < 0 else f"ended (exit {code})"
            raise WorkerDied(f"the worker {how}") from None
        found: tuple[bool, Any] = pickle.loads(answer)
        return found

    def end(self) -> None:
        """End it, and wait until it has ended."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


def serve() -> None:
    """Be a worker: run what comes in through stdin, in the order of coming, until that ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a function prints is no answer
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()
    while True:
        try:
            function, args = pickle.loads(tasks.get())
            answer = pickle.dumps((True, function(*args)))
        except Exception as error:
            answer = _of_error(error)
        try:
            _send(answers, answer)
        except OSError:  # the caller has gone
            os._exit(1)


def _listen(stream: IO[bytes], tasks: "queue.SimpleQueue[bytes]") -> None:
    """Take tasks as they come; at the end of them end the process, whatever it is at."""
    try:
        while True:
            tasks.put(_receive(stream))
    finally:
        os._exit(0)


def _of_error(error: Exception) -> bytes:
    """The answer that says what a function raised."""
    if not isinstance(error, Gpt2npError):
        error.add_note("in a worker:\n" + traceback.format_exc())
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
    except Exception:  # an error that cannot be copied
        answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """The next content; raises EOFError where the stream ends."""
    size = stream.read(8)
    content = stream.read(int.from_bytes(size, "little")) if len(size) == 8 else b""
    if len(size) < 8 or len(content) < int.from_bytes(size, "little"):
        raise EOFError
    return content


def results(
    executor: Submits,
    function: Callable[..., T],
    tasks: Iterable[tuple[str, tuple[Any, ...]]],
    *,
    attempts: int = ATTEMPTS,
    on_retry: Callable[[str, BaseException], object] = lambda key, error: None,
) -> Generator[tuple[str, T], None, None]:
    """Run a function with the arguments of each task, and yield key and result of each as it finishes.

    Tasks are pairs of a key, which tells them apart, and arguments. They are taken as workers become free. A
    task whose worker dies is given to another one, up to `attempts` times in all, after a call of `on_retry`.
    What the function itself refuses (a Gpt2npError) is raised at once. Whoever stops before the last result
    gives the others up.

    Raises:
        TraceError: the worker of a task died at every attempt.
        InputError: the executor returns no futures.
    """
    waiting, done = iter(tasks), queue.SimpleQueue[Any]()
    most = 2 * executor.n if isinstance(executor, Workers) else getattr(executor, "n", _AT_ONCE)
    running: dict[int, tuple[Any, str, tuple[Any, ...], int]] = {}  # by the number of each start

    def start(key: str, args: tuple[Any, ...], attempt: int, number: int) -> None:
        named = _named(executor, key if attempt == 1 else f"{key}-{attempt}")
        future = executor.submit(function, *args, **named)
        if not callable(getattr(future, "add_done_callback", None)):
            what = f"its submit must return a future, not {short(future)}"
            raise InputError(f"executor={short(executor)}: {what}")
        running[number] = future, key, args, attempt
        future.add_done_callback(lambda _: done.put(number))

    number = 0
    try:
        while True:
            while len(running) < most and (task := next(waiting, None)) is not None:
                start(*task, 1, number)
                number += 1
            if not running:
                return
            future, key, args, attempt = running.pop(done.get())
            try:
                result = future.result()
            except Exception as error:
                if isinstance(error, Gpt2npError) and not isinstance(error, WorkerDied):
                    raise
                if attempt >= attempts:
                    _give_up(key, attempts, error)
                on_retry(key, error)
                start(key, args, attempt + 1, number)
                number += 1
                continue
            yield key, result
    finally:
        for future, *_ in running.values():
            future.cancel()


def in_order(
    executor: Submits,
    function: Callable[..., T],
    tasks: Iterable[tuple[str, tuple[Any, ...]]],
) -> Generator[T, None, None]:
    """Run tasks as `results` does, and yield what each returns in the order in which they were given.

    Raises:
        TraceError: as `results`.
    """
    numbers: dict[str, int] = {}
    there: dict[int, T] = {}
    at = 0

    def numbered() -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, (key, args) in enumerate(tasks):
            numbers[key] = number
            yield key, args

    with contextlib.closing(results(executor, function, numbered())) as found:
        for key, result in found:
            there[numbers.pop(key)] = result
            while at in there:
                yield there.pop(at)
                at += 1


def _give_up(key: str, attempts: int, error: Exception) -> None:
    """Raise the error of a task that failed at every attempt."""
    if isinstance(error, WorkerDied) or type(error).__name__ == "KilledWorker":  # the second is Dask's
        what = str(error).partition("\n")[0]
        often = f"{attempts} times: is there too little memory for so many workers?"
        raise TraceError(f"{key}: {what}, {often}") from None
    raise error


def _named(executor: Submits, key: str) -> dict[str, str]:
    """The `key` argument of `submit`, where it has one."""
    return {"key": key} if "key" in inspect.signature(executor.submit).parameters else {}


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
