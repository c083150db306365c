"""Samples whose error says little of the others.

A trajectory near the border between two pictures ends in one or the other. Few such samples make up most of a mean square, and
their derivatives say nothing of the rest.
"""

import math

import numpy as np

from dode.tableau import Array

_LIMIT = 2.0  # times the median RMS error
_SAMPLES = 64  # up to which that holds


def outlier_limit(errors: Array) -> float:
    """RMS error from which on a sample counts as an outlier, of the samples' mean squared errors (N,).

    Twice the median up to 64 samples. With more it grows like the root of their number (adaptive Huber regression: Sun, Zhou
    and Fan 2020): outliers then are not the luck of a few, and their part of the mean square can be fitted.
    """
    return _LIMIT * math.sqrt(max(1.0, len(errors) / _SAMPLES)) * float(np.sqrt(np.median(errors)))


def outlier_weights(errors: Array, limit: float) -> Array:
    """Weights of the samples in the normal equations, (N,): Huber 1964."""
    return np.minimum(1.0, limit / np.maximum(np.sqrt(errors), 1e-300))


def robust_mean(errors: Array, limit: float) -> float:
    """Huber's loss of mean squared errors (N,): their mean up to the limit (an RMS error), growing linearly in the RMS beyond.

    Infinite if one of them is.
    """
    if not np.isfinite(errors).all():
        return math.inf
    return float(np.where(errors <= limit**2, errors, 2 * limit * np.sqrt(errors) - limit**2).mean())
