"""Threads: the work of one operation in pieces, on as many cores as one knob allows.

A pass of many rows computes its pieces in threads of its own, and keeps BLAS at one thread meanwhile: two
pools that spin for the same cores would take turns waiting for each other. So does a pass of very few rows
where its products are cut into small ones (`ops/few_rows.py`). Passes in between, for which handing over
costs more than it gains, leave the threads to BLAS, and one of a small model has BLAS compute on one
thread: its products take microseconds, and a second thread that has to wait for a core takes milliseconds to
come, so that a busy machine would be 6 to 40 times slower. Without `threadpoolctl`, which is what tells
BLAS, BLAS keeps its threads and there are no others.
"""

import contextvars
import functools
import os
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from gpt2np import processors
from gpt2np.errors import InputError, whole_number

_T = TypeVar("_T")
_Queue = queue.SimpleQueue[Callable[[], None] | None]

# From here on threads of our own are as fast as those of BLAS or faster, and idle less. With fewer rows, to
# wake them for every product takes too long: those of BLAS wait awake. So it is on AMD and on Intel.
MANY_ROWS = 224
MANY_ROWS_OF_SMALL = 384  # with a small model, whose operations on fewer rows take microseconds
# Up to here, but not for one, products may be cut into small ones, of which BLAS shares none. More rows are
# multiplied faster with a weight that BLAS copies; measured on one processor with such kernels.
FEW_ROWS = 32
# Numbers of a weight: 4 MB, which one core reads from its cache in less time than another takes to wake.
SMALL_WEIGHT = 1 << 20
_WITH_SMALL_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")  # what OpenBLAS calls those with AVX-512
MOST = 256  # threads that may be asked for


def checked(threads: Any) -> int | None:
    """The number of threads that a caller asks for; None for as many as BLAS has.

    Raises:
        InputError: it is no whole number of 1 to `MOST`.
    """
    return None if threads is None else whole_number("threads", threads, 1, MOST)


class Pool:
    """Threads that wait for work; the caller is one of them."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pid = os.getpid()  # a forked child has no threads
        self._work: list[_Queue] = [queue.SimpleQueue() for _ in range(n - 1)]
        self._done: _Queue = queue.SimpleQueue()
        self._ids = [0]  # of its threads, for the system; 0 is the caller
        try:
            for i, work in enumerate(self._work):
                thread = threading.Thread(
                    target=_helper, args=(work, self._done), daemon=True, name=f"gpt2np {i}"
                )
                thread.start()
                self._ids.append(thread.native_id or 0)
        except RuntimeError:
            raise InputError(f"threads={n}: the system cannot start that many threads") from None

    @property
    def usable(self) -> bool:
        """Whether its threads belong to this process, and nobody was interrupted while they worked."""
        return self._pid == os.getpid()

    def spread(self, found: list[int]) -> None:
        """Keep its threads to processors of their own, of which there are enough."""
        for i, thread in enumerate(self._ids):
            processors.keep(thread, found[i :: self.n])

    def gather(self, found: list[int]) -> None:
        """Let its threads run on all of these again."""
        for thread in self._ids:
            processors.keep(thread, found)

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
        helpers = self._work[: len(pieces) - 1]
        for helper in helpers:
            helper.put(functools.partial(contextvars.copy_context().run, work))  # numpy's errstate, too
        work()
        for _ in helpers:
            self._done.get()
        self._pid = pid
        try:
            if errors:
                raise errors[0]
        finally:
            errors.clear()  # else error, traceback and this frame would hold each other

    def __del__(self) -> None:
        """Its threads end when it is dropped and they have done what they were given."""
        for helper in getattr(self, "_work", ()):  # it may have been interrupted while it was made
            helper.put(None)


def _helper(work: _Queue, done: _Queue) -> None:
    while (task := work.get()) is not None:
        task()
        del task  # it refers to arrays of the pass, which nobody may hold when that is over
        done.put(None)


_pools: dict[int, Pool] = {}
_current = threading.local()  # .pool while a pass runs in this thread


def each(function: Callable[[_T], Any], pieces: list[_T]) -> None:
    """Call a function with every piece of an operation, in the threads of the pass that runs."""
    if len(pieces) == 1:
        function(pieces[0])
        return
    pool = getattr(_current, "pool", None)
    if pool is None or not pool.usable:
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


def using(
    n: int | None, n_rows: int, own: bool = False, small: bool = False, apart: bool = False
) -> AbstractContextManager[None]:
    """Run a pass of so many rows with n threads; None: with as many as BLAS has.

    `own`: with threads of our own however few the rows, as operations have work that is not BLAS'. `small`:
    with one thread where the rows are few, unless n says otherwise, as the weights are (`is_small`).
    `apart`: with threads of our own on processors of their own. Not where functions of a caller run in the
    pass: threads that those start would be kept to the same processors for good.

    Passes of several threads of the caller at once share the cores: the first has the pool.
    """
    many = own or n_rows >= (MANY_ROWS_OF_SMALL if small else MANY_ROWS)
    many = many or (1 < n_rows <= FEW_ROWS and not small and has_small_kernels())
    n = 1 if n is None and small and not many else n
    blas = _blas() if many or n is not None else None
    if blas is None:
        return nullcontext()
    return _Running(blas, n or max(library.num_threads for library in blas.lib_controllers), many, apart)


class _Running:
    """A pass with n threads: of our own, or else of BLAS."""

    def __init__(self, blas: Any, n: int, many: bool, apart: bool) -> None:
        self._blas, self._n, self._many, self._apart = blas, n, many, apart
        self._pool: Pool | None = None
        self._processors: list[int] = []

    def __enter__(self) -> None:
        self._before = getattr(_current, "pool", None)
        try:
            n, many = self._n, self._many
            has_pool = _shared.enter(self, self._blas, 1 if many else n, many and n > 1)
            self._pool = _current.pool = _pool_of(n) if has_pool else None
            if self._pool is not None and self._apart and len(found := processors.of_this_thread()) >= n:
                self._processors = found
                self._pool.spread(found)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            self._leave()
        except BaseException:  # interrupted
            self._leave()
            raise

    def _leave(self) -> None:
        _current.pool = self._before
        if self._pool is not None and self._processors:
            self._pool.gather(self._processors)
        _shared.leave(self)


def is_small(config: Any) -> bool:
    """Whether the weights of a model's blocks are so small that BLAS does best to compute on one thread."""
    return bool(config.n_embd * max(config.d_mlp, config.n_head * config.d_head) < SMALL_WEIGHT)


@functools.cache
def has_small_kernels() -> bool:
    """Whether NumPy's BLAS is an OpenBLAS that multiplies small matrices without copying them first."""
    libraries = [] if (blas := _blas()) is None else blas.lib_controllers
    return any(getattr(library, "architecture", None) in _WITH_SMALL_KERNELS for library in libraries)


def using_those_of(subject: Any, own: bool = False) -> AbstractContextManager[None]:
    """Compute what is made of a model, or of a trace, on as many threads as a short pass of it.

    `own`: with threads of our own, which sleep between products: for what is mostly not BLAS' work.
    """
    small = is_small(subject.config)
    return using(getattr(subject, "threads", None), n_rows=1, own=own and not small, small=small)


def keep_one() -> None:
    """Have BLAS compute on one thread from here on, which is faster for small products on a busy machine."""
    if (blas := _blas()) is not None:
        _shared.keep_one(blas)


class _Shared:
    """What the passes of a process share: how many threads BLAS has, and who has the pool.

    The first pass sets BLAS, the last one leaves it as it was. To leave again, or without having entered,
    changes nothing, so that whoever is interrupted can be sure to have left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passes: set[object] = set()
        self._before: list[tuple[Any, int]] = []
        self._owner: object | None = None

    def enter(self, this: object, blas: Any, n: int, wants_pool: bool) -> bool:
        """Whether this pass has the pool."""
        with self._lock:
            if not self._passes:
                # Only those that are changed will be restored: a token of a small model notices each call.
                now = [(library, library.num_threads) for library in blas.lib_controllers]
                self._before = [(library, before) for library, before in now if before != n]
                self._passes.add(this)
                for library, _ in self._before:
                    library.set_num_threads(n)
            self._passes.add(this)
            if wants_pool and self._owner is None:
                self._owner = this
            return self._owner is this

    def keep_one(self, blas: Any) -> None:
        """One thread from here on, also after the passes that run now."""
        with self._lock:
            self._before = [(library, 1) for library in blas.lib_controllers]
            if not self._passes:
                for library, n in self._before:
                    library.set_num_threads(n)

    def leave(self, this: object) -> None:
        with self._lock:
            if self._owner is this:
                self._owner = None
            if self._passes == {this}:
                for library, n in self._before:
                    library.set_num_threads(n)
            self._passes.discard(this)


_shared = _Shared()


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
