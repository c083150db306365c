"""The coordinate in which a multistep method interpolates: the one place where the kind of model enters."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dode.errors import GridError, MethodError

Array = NDArray[np.float64]


def _log_sigma(sigmas: Array) -> Array:
    with np.errstate(divide="ignore"):
        return -np.log(sigmas)


def _flow(sigmas: Array) -> Array:
    if np.any(sigmas > 1):
        raise GridError(
            f"The coordinate 'flow' needs 0 <= sigma <= 1, got {sigmas.max():g}. "
            "Use it with flow-matching models only; 'log_sigma' is the one for the others."
        )
    with np.errstate(divide="ignore"):
        return np.log1p(-sigmas) - np.log(sigmas)


COORDINATES: dict[str, Callable[[Array], Array]] = {
    "sigma": lambda sigmas: -sigmas,
    "log_sigma": _log_sigma,
    "flow": _flow,
}


def scale_to_unit(name: str, sigma: float) -> float:
    """What brings a noisy batch at a noise level to the variance of the noise, where the data have that too.

    Example:
        >>> scale_to_unit("flow", 1.0)
        1.0
    """
    return 1 / math.hypot(1 - sigma if name == "flow" else 1.0, sigma)


def coordinate_of(prediction: str) -> str:
    """The half log-SNR of a model's schedule, by its prediction kind as files name it.

    Example:
        >>> coordinate_of("flow"), coordinate_of("eps")
        ('flow', 'log_sigma')
    """
    return "flow" if prediction == "flow" else "log_sigma"


def coordinate(name: str, sigmas: Array) -> Array:
    """Coordinates of noise levels; they ascend as σ descends.

    Args:
        name: ``"sigma"`` (-σ), ``"log_sigma"`` (-ln σ: the half log-SNR of a variance-exploding schedule) or ``"flow"``
            (ln((1-σ)/σ): the half log-SNR of a flow-matching schedule).
        sigmas: noise levels, any shape. σ = 0 maps to +inf in the last two.

    Raises:
        MethodError: unknown name. GridError: σ outside the coordinate's range.
    """
    if name not in COORDINATES:
        raise MethodError(f"Unknown coordinate {name!r}. Choose one of: {', '.join(COORDINATES)}.")
    return COORDINATES[name](np.asarray(sigmas, dtype=np.float64))
