"""A matrix of low rank in two factors: norms, eigenvalues and singular vectors without the whole matrix."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2np.ops import Array


@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix `left @ right`, [n, rank] and [rank, m], which is never multiplied out unless asked for.

    Example:
        >>> row = LowRank(np.array([[3.0], [4.0]]), np.array([[1.0, 0.0]]))
        >>> row.norm(), row.eigenvalues()
        (5.0, array([3.]))
    """

    left: Array
    right: Array
    __array_ufunc__ = None  # so that `array @ low_rank` comes to __rmatmul__

    def __repr__(self) -> str:
        return f"<LowRank {list(self.shape)} of rank {self.left.shape[1]}>"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def T(self) -> "LowRank":
        """The transpose."""
        return LowRank(self.right.T, self.left.T)

    @np.errstate(under="ignore")
    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LowRank):  # [n, r] [r, k] [k, r] [r, m]: the middle is the small one
            return LowRank(self.left, (self.right @ other.left) @ other.right)
        return self.left @ (self.right @ other)

    @np.errstate(under="ignore")
    def __rmatmul__(self, other: Array) -> Array:
        return np.asarray((other @ self.left) @ self.right)

    @np.errstate(under="ignore")
    def norm(self) -> float:
        """Return the Frobenius norm: turning the tall factors upright (QR) leaves a product [rank, rank]."""
        return float(np.linalg.norm(_triangle(self.left) @ _triangle(self.right.T).T))

    @np.errstate(under="ignore")
    def eigenvalues(self) -> Array:
        """Return those of a square product, without the zeros of its low rank (AB and BA share them)."""
        return np.linalg.eigvals(self.right @ self.left)

    @np.errstate(under="ignore")
    def svd(self) -> tuple[Array, Array, Array]:
        """Singular vectors and values, the largest first: [n, rank], [rank], [rank, m]."""
        q_left, r_left = np.linalg.qr(self.left)
        q_right, r_right = np.linalg.qr(self.right.T)
        u, s, v = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return q_left @ u, s, v @ q_right.T

    @np.errstate(under="ignore")
    def full(self) -> Array:
        """Return the whole matrix [n, m]."""
        return np.asarray(self.left @ self.right)


def _triangle(tall: Array) -> Array:
    """What QR leaves of a tall matrix when its orthonormal part is taken away: [n, rank] -> [rank, rank]."""
    return np.asarray(np.linalg.qr(tall, mode="r"))
