"""What the machine can do at best, through NumPy: GEMM rate by rows, reading, writing, the disk."""

import contextlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

REPEATS = 2
FEW = 32  # rows up to which the ways of few rows are tried
INNER, OUTER = (64, 128), 128  # of an axis of the weight: products of so many are not copied by BLAS
SMALL = 10**6  # multiplications in a product that is not


def best(work) -> float:
    """The shortest of a few runs."""
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)


# -- ways to multiply [rows, n_in] and [n_in, n_out] ------------------------------------------------


def plain(x, w, out):
    np.matmul(x, w, out=out)


def one_by_one(x, w, out):
    """A matrix and a vector for every row."""
    np.matmul(x[:, None], w, out=out[:, None])


def inner_blocks(size):
    """Batches of small products along the inner axis, and their sum."""

    def run(x, w, out):
        n_blocks, n_columns = len(w) // size, max(16, SMALL // (len(x) * size) // 16 * 16)
        n = n_blocks * size
        blocks = x[:, :n].reshape(len(x), n_blocks, size).transpose(1, 0, 2)
        for start in range(0, w.shape[1], n_columns):
            y = out[:, start : start + n_columns]
            part = w[:n, start : start + n_columns].reshape(n_blocks, size, y.shape[1])
            np.add.reduce(np.matmul(blocks, part), axis=0, out=y)
        if n < len(w):
            out += np.matmul(x[:, n:], w[n:])

    return run


def outer_blocks(x, w, out):
    """A batch of small products, each of some columns: for a table, whose columns are rows in memory."""
    n = w.shape[1] // OUTER * OUTER
    blocks = w.T[:n].reshape(-1, OUTER, len(w)).transpose(0, 2, 1)
    np.matmul(x, blocks, out=out[:, :n].reshape(len(x), -1, OUTER).transpose(1, 0, 2))
    np.matmul(x, w[:, n:], out=out[:, n:])


class Machine:
    def __init__(self, folder, threads):
        self.folder, self.threads = Path(folder), threads
        self.pool, self.blas = ThreadPoolExecutor(threads), ThreadpoolController().select(user_api="blas")
        self.first_token, self.weights, self.made_for = None, [], None

    def cut(self, length, step=16):
        """A slice for each thread."""
        ends = [length * i // self.threads // step * step for i in range(self.threads)] + [length]
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def each(self, work, pieces):
        """All pieces at once, a thread each."""
        others = [self.pool.submit(work, piece) for piece in pieces[1:]]
        work(pieces[0])
        for other in others:
            other.result()

    def threads_of(self, own):
        """BLAS with one thread, if they are ours."""
        return self.blas.limit(limits=1) if own else contextlib.nullcontext()

    def ways(self, rows):
        """Every way that may be the fastest for so many rows, and whether it has threads of its own."""
        few = [*map(inner_blocks, INNER), outer_blocks, one_by_one] if rows <= FEW else []
        simple = [plain, *few]

        def by_columns(way):
            def run(x, w, out):
                self.each(lambda part: way(x, w[:, part], out[:, part]), self.cut(out.shape[1]))

            return run

        def by_rows(x, w, out):
            self.each(lambda part: plain(x[part], w, out[part]), self.cut(rows))

        found = [(way, False) for way in simple]
        if self.threads > 1:
            found += [(by_columns(way), True) for way in simple]
            found += [(by_rows, True)] if rows > 4 * FEW else []
        return found

    def rates(self, gemm, nbytes, disk):
        """All of them: GEMM at several sizes, and memory and disk with so many bytes."""
        found = {"gemm": {}, "memory": self.memory(nbytes)} | ({"disk": self.disk(nbytes)} if disk else {})
        for sizes in gemm:
            found["gemm"].setdefault(str(sizes["n_embd"]), {})[str(sizes["rows"])] = self.gemm(**sizes)
        return found

    def gemm(self, rows, n_embd, n_mid, vocab, copies):
        """FLOP/s of the four products of a block, `copies` blocks in a row, and of the unembedding.

        As in a model, a weight is not in the cache when its turn comes. Each product is done in the way that
        is the fastest for it.
        """
        if self.made_for != (n_embd, n_mid, vocab, copies):
            self.made_for = n_embd, n_mid, vocab, copies
            shapes = [(n_embd, 3 * n_embd), (n_embd, n_embd), (n_embd, n_mid), (n_mid, n_embd)]
            self.weights = [
                (i, np.full(s, 0.01, np.float32)) for _ in range(copies) for i, s in enumerate(shapes)
            ]
            self.weights.append((4, np.full((vocab, n_embd), 0.01, np.float32).T))
        inputs = {n: np.ones((rows, n), np.float32) for n in (n_embd, n_mid)}
        outs = {i: np.zeros((rows, w.shape[1]), np.float32) for i, w in self.weights}
        least = dict.fromkeys(outs, float("inf"))
        for (way, own), _ in itertools.product(self.ways(rows), range(REPEATS)):
            spent = dict.fromkeys(outs, 0.0)
            with self.threads_of(own):
                for i, w in self.weights:
                    start = time.perf_counter()
                    way(inputs[len(w)], w, outs[i])
                    spent[i] += time.perf_counter() - start
            least = {i: min(least[i], spent[i]) for i in least}
        numbers = sum(w.size for i, w in self.weights if i < 4)
        return {
            "block": 2 * rows * numbers / sum(least[i] for i in range(4)),
            "unembed": 2 * rows * n_embd * vocab / least[4],
        }

    def memory(self, nbytes):
        """Bytes/s: reading (the best of dot and gemv), writing pages for the first time, and again."""
        x = np.ones(nbytes // 4, np.float32)
        matrix, vector = x.reshape(-1, 4096), np.ones(4096, np.float32)
        parts = self.cut(len(matrix))
        read = min(best(lambda: np.dot(x, x)), best(lambda: matrix @ vector))
        with self.threads_of(True):
            read = min(read, best(lambda: self.each(lambda part: matrix[part] @ vector, parts)))
        fresh, again = zip(*(self.filling(nbytes) for _ in range(REPEATS)), strict=True)
        return {"read": nbytes / read, "first_touch": nbytes / min(fresh), "touched": nbytes / min(again)}

    def filling(self, nbytes):
        """Seconds to write a block for the first time, and again."""
        block, spent = np.empty(nbytes, np.uint8), []
        for _ in range(2):
            start = time.perf_counter()
            self.each(lambda part: block[part].fill(1), self.cut(nbytes))
            spent.append(time.perf_counter() - start)
        return spent

    def disk(self, nbytes):
        """Bytes/s into a file: until the system has them, and until they are on the disk.

        Both can be done at once, of different bytes: the slower one is the limit.
        """
        block, path = np.random.default_rng(0).bytes(nbytes), self.folder / "disk"
        with open(path, "wb", buffering=0) as file:
            start = time.perf_counter()
            file.write(block)
            written = time.perf_counter()
            os.fsync(file.fileno())
            synced = time.perf_counter()
        path.unlink()
        return {
            "unsynced": nbytes / (written - start),
            "synced": nbytes / max(written - start, synced - written),
        }
