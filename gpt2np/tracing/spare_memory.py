"""Large blocks of memory that are used again, as pages that were written before are written much faster.

The system takes a large block back as soon as it is freed, and clears the pages of the next one, which takes
up to a tenth of the time of a trace. So the last blocks are kept here, and one is used again when nobody
holds it, or an array that lies in it.
"""

import sys
import threading

import numpy as np

from gpt2np.ops import Array

_AT_MOST = 2  # blocks: of who makes a trace in a loop, one is held while the next is made
_TOGETHER = 1 << 28  # bytes; a block that is larger is the only one
_blocks: list[Array] = []  # the last that was given out comes last
_lock = threading.Lock()


def block(n_bytes: int) -> Array:
    """At least so many bytes, few more, with anything in them: a spare block that fits, or a new one."""
    with _lock:
        for i in reversed(range(len(_blocks))):
            if _is_free(i) and 0.9 * _blocks[i].nbytes <= n_bytes <= _blocks[i].nbytes:
                _blocks.append(_blocks.pop(i))
                return _blocks[-1]
        # Before its successor is made, so that large ones never exist together.
        while len(_blocks) == _AT_MOST or (_blocks and sum(b.nbytes for b in _blocks) + n_bytes > _TOGETHER):
            del _blocks[0]
        _blocks.append(np.empty(n_bytes, np.uint8))
        return _blocks[-1]


def _is_free(i: int) -> bool:
    """Whether a block is referred to from here only; every view of it would refer to it, too."""
    return sys.getrefcount(_blocks[i]) == sys.getrefcount([np.empty(0)][0]) + 1
