"""What the machine can do at best, through NumPy: GEMM rate, read bandwidth, the cost of fresh pages."""

import time

import numpy as np

READ = 1 << 28  # bytes, far beyond any cache
REPEATS = 2


def best(work) -> float:
    """The shortest of a few runs."""
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)


class Machine:
    def __init__(self, folder, threads):
        self.first_token = None

    def gemm(self, rows, n_embd, n_mid, vocab, copies):
        """FLOP/s of [rows, n_embd] x [n_embd, n_mid], each of `copies` matrices once, and of the unembedding.

        As in a model, a weight is not in the cache when its turn comes.
        """
        x = np.ones((rows, n_embd), np.float32)
        weights = [np.full((n_embd, n_mid), 0.01, np.float32) for _ in range(copies)]
        out = np.empty((rows, n_mid), np.float32)
        block = best(lambda: [np.matmul(x, weight, out=out) for weight in weights])
        table, logits = np.full((vocab, n_embd), 0.01, np.float32), np.empty((rows, vocab), np.float32)
        unembed = best(lambda: np.matmul(x, table.T, out=logits))
        return {
            "block": 2 * rows * n_embd * n_mid * copies / block,
            "unembed": 2 * rows * n_embd * vocab / unembed,
        }

    def memory(self):
        """Bytes/s: reading (the better of dot and gemv), writing pages for the first time, and again."""
        x = np.ones(READ // 4, np.float32)
        matrix, vector = x.reshape(-1, 4096), np.ones(4096, np.float32)
        read = min(best(lambda: np.dot(x, x)), best(lambda: matrix @ vector))
        fresh, again = [], []
        for _ in range(REPEATS):
            block = np.empty(READ, np.uint8)
            for spent in (fresh, again):
                start = time.perf_counter()
                block.fill(1)
                spent.append(time.perf_counter() - start)
            del block
        return {
            "read": READ / read,
            "first_touch": READ / min(fresh),
            "touched": READ / min(again),
        }
