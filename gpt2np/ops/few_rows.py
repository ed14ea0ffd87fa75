"""Products of a few rows with a large weight, as many small products that BLAS multiplies where they lie.

Before a large product, BLAS copies the whole weight into an order that suits it, which takes longer than a
few rows take to multiply. OpenBLAS has kernels without that copy for processors with AVX-512, and uses them
up to a size (`kernel/x86_64/sgemm_small_kernel_permit_skylakex.c`). The size is one of the kernels and not of
the processor, so that the bounds below hold wherever `threads.has_small_kernels` says that these kernels are
there. Elsewhere nothing is cut.
"""

import itertools

import numpy as np

from gpt2np.ops.blocks import Array
from gpt2np.threads import FEW_ROWS, has_small_kernels

# Numbers of a weight, or of a thread's part of it, and of the table of an unembedding: smaller ones are
# quickly copied, and stay in a cache.
LARGE, LARGE_TABLE = 1 << 18, 1 << 19
# Of the inner axis in one small product, the first that divides it: a larger one leaves fewer results to add,
# a smaller one is the least that the kernels are fast with.
_INNER = 128, 64
_PRODUCT = 10**6  # multiplications in one small product
_RESULT = 1200  # numbers in the result of one, where the weight is transposed


def are_few(x: Array, weight: Array, large: int) -> bool:
    """Whether rows are multiplied faster in small products: those are few, and the weight is large."""
    return 1 < len(x) <= FEW_ROWS and weight.size >= large and has_small_kernels()


def multiply_few(x: Array, weight: Array, out: Array) -> None:
    """`x @ weight`, [pos, n_in], [n_in, n_out]: blocks of the inner axis and of columns, and their sum."""
    n_in, n_out = weight.shape
    inner = next((size for size in _INNER if n_in % size == 0), _INNER[-1])
    n_blocks = n_in // inner
    n = n_blocks * inner
    blocks = x[:, :n].reshape(len(x), n_blocks, inner).transpose(1, 0, 2)
    n_parts = -(-n_out * len(x) * inner // _PRODUCT)
    ends = [n_out * i // n_parts // 16 * 16 for i in range(n_parts)] + [n_out]
    for start, stop in itertools.pairwise(ends):
        part = weight[:n, start:stop].reshape(n_blocks, inner, stop - start)
        np.add.reduce(np.matmul(blocks, part), axis=0, out=out[:, start:stop])
    if n < n_in:
        out += np.matmul(x[:, n:], weight[n:])


def unembed_few(x: Array, table: Array, out: Array) -> None:
    """`x @ table.T`, [pos, n_embd], [vocab, n_embd]: some rows of the table at a time."""
    n_tokens = min(128, _RESULT // len(x) // 16 * 16)
    n = len(table) // n_tokens * n_tokens
    if n:
        blocks = table[:n].reshape(-1, n_tokens, table.shape[1]).transpose(0, 2, 1)
        np.matmul(x, blocks, out=out[:, :n].reshape(len(x), -1, n_tokens).transpose(1, 0, 2))
    if n < len(table):
        np.matmul(x, table[n:].T, out=out[:, n:])
