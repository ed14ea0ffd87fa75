"""Threads: the work of one operation in pieces, on as many cores as one knob allows.

A pass of many rows computes its pieces in threads of its own, and keeps BLAS at one thread meanwhile: two
pools that spin for the same cores would take turns waiting for each other. A pass of few rows, where handing
over costs more than it gains, leaves the threads to BLAS. Without `threadpoolctl`, which is what tells
BLAS, BLAS keeps its threads and there are no others.
"""

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gpt2np.errors import InputError, short

_T = TypeVar("_T")

MANY_ROWS = 384  # from here on threads of our own are faster than those of BLAS


def checked(threads: int | None) -> int | None:
    """The number of threads that a caller asks for; None for as many as BLAS has.

    Raises:
        InputError: it is no whole number of at least 1.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a whole number of at least 1, not {short(threads)}")
    return threads


class Pool:
    """Threads that wait for work; the caller is one of them."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pid = os.getpid()  # a forked child has no threads
        self._work: dict[int, Callable[[], None]] = {}
        self._go = [threading.Semaphore(0) for _ in range(n - 1)]
        self._done = threading.Semaphore(0)
        for i in range(n - 1):
            threading.Thread(target=self._wait, args=(i,), daemon=True, name=f"gpt2np {i}").start()

    @property
    def usable(self) -> bool:
        """Whether its threads are alive, and all of them wait."""
        return self._pid == os.getpid()

    def each(self, function: Callable[[_T], Any], pieces: list[_T]) -> None:
        """Call the function with every piece, several at a time; the first error is raised."""
        remaining = iter(pieces)  # of a list, so that it is taken from by one thread at a time
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for piece in remaining:
                    function(piece)
            except BaseException as error:
                errors.append(error)

        pid, self._pid = self._pid, -1  # whoever is interrupted here leaves threads that are still at work
        helpers = self._go[: len(pieces) - 1]
        for i, go in enumerate(helpers):
            self._work[i] = functools.partial(contextvars.copy_context().run, work)  # numpy's errstate, too
            go.release()
        work()
        for _ in helpers:
            self._done.acquire()
        self._pid = pid
        if errors:
            raise errors[0]

    def _wait(self, i: int) -> None:
        while True:
            self._go[i].acquire()
            self._work.pop(i)()
            self._done.release()


_pools: dict[int, Pool] = {}
_in_use = threading.Lock()
_current = threading.local()  # .pool while a pass runs in this thread


def each(function: Callable[[_T], Any], pieces: list[_T]) -> None:
    """Call a function with every piece of an operation, in the threads of the pass that runs."""
    pool = getattr(_current, "pool", None)
    if pool is None or len(pieces) < 2:
        for piece in pieces:
            function(piece)
        return
    _current.pool = None  # a piece is not cut again
    try:
        pool.each(function, pieces)
    finally:
        _current.pool = pool


def shares() -> int:
    """In how many pieces an operation is best cut."""
    pool = getattr(_current, "pool", None)
    return 1 if pool is None else pool.n


@contextmanager
def using(n: int | None, n_rows: int) -> Iterator[None]:
    """Run a pass of so many rows with n threads; None: with as many as BLAS has.

    Passes of several threads of the caller at once share the cores: the first has the pool.
    """
    many = n_rows >= MANY_ROWS
    blas = _blas() if many or n is not None else None
    if blas is None:
        yield
        return
    n = n or max(library.num_threads for library in blas.lib_controllers)
    alone = many and n > 1 and _in_use.acquire(blocking=False)
    _limit.enter(blas, 1 if many else n)
    try:
        _current.pool = _pool_of(n) if alone else None
        yield
    finally:
        _current.pool = None
        _limit.leave()
        if alone:
            _in_use.release()


class _Limit:
    """How many threads BLAS has, in all of the process: the first pass sets it, the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passes = 0
        self._set: Any = None

    def enter(self, blas: Any, n: int) -> None:
        with self._lock:
            if self._passes == 0:
                self._set = blas.limit(limits=n)
            self._passes += 1

    def leave(self) -> None:
        with self._lock:
            self._passes -= 1
            if self._passes == 0:
                self._set.restore_original_limits()


_limit = _Limit()


def _pool_of(n: int) -> Pool:
    if n not in _pools or not _pools[n].usable:
        _pools[n] = Pool(n)
    return _pools[n]


@functools.cache
def _blas() -> Any:
    """What sets the number of threads of NumPy's BLAS; None where that is not possible."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    controller = ThreadpoolController().select(user_api="blas")
    return controller if controller.lib_controllers else None
