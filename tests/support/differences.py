"""Comparing arrays as DESIGN section 7 says; no torch here."""

import math

import numpy as np


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest difference, relative to the largest magnitude in the site (at least 1); inf where shapes,
    NaNs or infinities differ."""
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    if found.shape != truth.shape:
        return math.inf
    finite = np.isfinite(truth)
    same_rest = (found == truth) | (np.isnan(found) & np.isnan(truth)) | finite
    if not same_rest.all() or not np.isfinite(found[finite]).all():
        return math.inf
    scale = max(1.0, np.abs(truth[finite]).max(initial=0.0))
    return float(np.abs(found[finite] - truth[finite]).max(initial=0.0)) / scale
