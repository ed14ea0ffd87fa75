"""Least squares with coefficients that cannot be negative."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np


def fit(terms: Mapping[str, Sequence[float]], seconds: Sequence[float]) -> dict:
    """`seconds` as a sum of terms times coefficients of at least 0, by least squares of relative errors.

    Returns the coefficients by name, and the largest relative error. With so few terms every choice of those
    that are not 0 is tried, which is exact.

    Example:
        >>> fit({"constant": [1, 1, 1], "T": [1, 2, 3]}, [3, 5, 7])["coefficients"]
        {'constant': 1.0, 'T': 2.0}
    """
    y = np.asarray(seconds, float)
    matrix = np.array([np.asarray(column, float) / y for column in terms.values()]).T
    best, least = np.zeros(matrix.shape[1]), np.inf
    for n in range(1, matrix.shape[1] + 1):
        for columns in itertools.combinations(range(matrix.shape[1]), n):
            found = np.linalg.lstsq(matrix[:, columns], np.ones(len(y)), rcond=None)[0]
            error = float(np.sum((matrix[:, columns] @ found - 1) ** 2))
            if (found >= 0).all() and error < least * (1 - 1e-9):
                best, least = np.zeros(matrix.shape[1]), error
                best[list(columns)] = found
    return {
        "coefficients": {name: float(f"{c:.6g}") for name, c in zip(terms, best, strict=True)},
        "largest_relative_error": float(np.abs(matrix @ best - 1).max()),
    }


def in_tokens(lengths: Sequence[int], seconds: Sequence[float]) -> dict:
    """Constant, linear and quadratic parts in the number of tokens."""
    n = np.asarray(lengths, float)
    return fit({"constant": np.ones_like(n), "linear": n, "quadratic": n * n}, seconds)


def in_layers(layers: Sequence[int], seconds: Sequence[float]) -> dict:
    """Constant part and part of each layer."""
    n = np.asarray(layers, float)
    return fit({"constant": np.ones_like(n), "linear": n}, seconds)
