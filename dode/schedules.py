"""σ grids by name, in float64."""

from collections.abc import Callable

import numpy as np

from dode.errors import GridError, MethodError
from dode.tableau import MAX_STEPS, Array


def _karras(steps: int, low: float, high: float) -> Array:
    """Karras et al. 2022, eq. 5 with ρ = 7; k-diffusion's get_sigmas_karras."""
    return (high ** (1 / 7) + np.linspace(0, 1, steps) * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def _exponential(steps: int, low: float, high: float) -> Array:
    """Uniform in ln σ; k-diffusion's get_sigmas_exponential."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def _linear(steps: int, low: float, high: float) -> Array:
    """Uniform in σ from ``high`` down to 0, as flow-matching models use it."""
    return np.linspace(high, 0, steps + 1)[:-1]


def _cosine(steps: int, low: float, high: float) -> Array:
    """For flow matching: dense at both ends, like ComfyUI's "beta"."""
    return (0.5 - 0.5 * np.cos(np.pi * _linear(steps, low, high) / high)) * high


def _log_snr(steps: int, low: float, high: float) -> Array:
    """For flow matching: from ``high`` to half log-SNR -4, uniform in it up to 4."""
    inner = 1 / (1 + np.exp(np.linspace(-4.0, 4.0, steps - 1)))
    return np.concatenate([[high], inner]) if steps > 1 else np.array([high])


SCHEDULES: dict[str, Callable[[int, float, float], Array]] = {
    "karras": _karras,
    "exponential": _exponential,
    "linear": _linear,
    "cosine": _cosine,
    "log_snr": _log_snr,
}


def teacher_schedule(coordinate: str) -> str:
    """The name of the schedule that a teacher subdivides: one that is dense at both ends for flow matching, where they matter,
    else Karras's."""
    return "cosine" if coordinate == "flow" else "karras"


def usual_schedule(coordinate: str, steps: int, sigma_min: float, sigma_max: float) -> Array:
    """The schedule of a kind of model where none is asked for: uniform in σ for flow matching, else Karras's."""
    return schedule("linear" if coordinate == "flow" else "karras", steps, sigma_min, sigma_max)


def schedule(name: str, steps: int, sigma_min: float, sigma_max: float) -> Array:
    """A grid of ``steps`` noise levels from sigma_max down, and a final 0: float64 (steps + 1,).

    Raises:
        MethodError: unknown name. GridError: unusable numbers.

    Example:
        >>> schedule("exponential", 3, 0.1, 10.0).round(3).tolist()
        [10.0, 1.0, 0.1, 0.0]
    """
    if name not in SCHEDULES:
        raise MethodError(f"Unknown schedule {name!r}. Choose one of: {', '.join(SCHEDULES)}.")
    if not 1 <= steps <= MAX_STEPS or not 0 < sigma_min < sigma_max < float("inf"):
        raise GridError(
            f"A schedule needs 1 to {MAX_STEPS} steps and 0 < sigma_min < sigma_max, "
            f"got {steps} steps, {sigma_min} and {sigma_max}."
        )
    grid = SCHEDULES[name](steps, sigma_min, sigma_max)
    grid[0] = sigma_max
    return np.append(grid, 0.0)
