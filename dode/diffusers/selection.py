"""Which entry of a parameter file a pipeline's request for steps, noise levels or timesteps means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dode.correction import SIGMA_TOLERANCE, Parameters
from dode.diffusers.levels import Levels, usual
from dode.errors import GridError, ParameterError
from dode.files.interpolation import interpolate
from dode.files.parameter_file import Entry
from dode.tableau import Array, Tableau

_TIMESTEP_TOLERANCE = 0.51  # they may have been rounded on their way


@dataclass(frozen=True)
class Selected:
    """A sampler and the part of its grid that was asked for.

    Attributes:
        parameters: the sampler.
        first: index in its grid of the first level.
    """

    parameters: Parameters
    first: int = 0

    def tableau(self, strength: float) -> Tableau:
        """The table on that part."""
        grid = self.parameters.sigmas[self.first :] if self.first else None
        return self.parameters.tableau(grid, strength)


class Selection:
    """Entries to choose from.

    Args:
        guidance: the guidance scale that the pipeline will be called with; None where all entries are for the same one.
    """

    def __init__(self, entries: Sequence[Entry], levels: Levels, guidance: float | None):
        self._entries, self._levels, self._guidance = entries, levels, guidance

    def steps(self, count: int) -> Selected:
        """The sampler with so many steps.

        Raises:
            ParameterError: there is none, or there are some for several guidance scales and none was said.
        """
        there = [entry for entry in self._entries if len(entry.parameters.sigmas) - 1 == count]
        if not there:
            known = ", ".join(map(str, sorted({len(entry.parameters.sigmas) - 1 for entry in self._entries})))
            raise ParameterError(
                f"These parameters are for {known or 'no'} steps, not for {count}. Call the pipeline with one of those as "
                "num_inference_steps, or distill for this one."
            )
        return Selected(self._one(there))

    def sigmas(self, given: Sequence[float] | Array, mu: float | None) -> Selected:
        """The sampler whose grid, or the last part of it, these levels are: as given, or as the configuration shifts them.
        What a pipeline passes where nobody asked for noise levels means so many steps.

        Raises:
            GridError: levels that are none. ParameterError: no sampler has them.
        """
        levels = np.array(given, dtype=np.float64)
        if levels.ndim != 1 or not len(levels) or not np.isfinite(levels).all():
            raise GridError(f"sigmas must be a flat list of noise levels, got {given!r}.")
        if len(levels) > 1 and levels[-1] == 0:
            levels = levels[:-1]
        if self._levels.flow and np.allclose(levels, usual(len(levels)), rtol=SIGMA_TOLERANCE, atol=0):
            return self.steps(len(levels))
        shifted = self._levels.shifted(levels, mu)
        return self._ending(lambda p: p.sigmas[:-1], [levels, shifted], SIGMA_TOLERANCE, 0.0, "noise levels")

    def timesteps(self, given: Sequence[float] | Array, of: Callable[[Parameters], Sequence[float]]) -> Selected:
        """The sampler whose timesteps, or the last of them, these are; ``of`` says those of a sampler's steps.

        Raises:
            ParameterError: no sampler has them.
        """
        return self._ending(of, [np.array(given, dtype=np.float64)], 0.0, _TIMESTEP_TOLERANCE, "timesteps")

    def _ending(
        self,
        of: Callable[[Parameters], Sequence[float]],
        wanted: Sequence[Array],
        relative: float,
        absolute: float,
        what: str,
    ) -> Selected:
        count, unusable = len(wanted[0]), list[ParameterError]()
        for alike in self._by_steps():
            try:
                parameters = self._one(alike)
            except ParameterError as error:  # says which guidance scales there are
                unusable.append(error)
                continue
            own = np.array(of(parameters))
            if len(own) >= count and any(np.allclose(own[-count:], each, rtol=relative, atol=absolute) for each in wanted):
                return Selected(parameters, len(own) - count)
        if unusable:
            raise unusable[0]
        shown = ", ".join(f"{value:.4g}" for value in wanted[0][:12])
        raise ParameterError(
            f"None of these parameters was fitted on a grid that ends with the {count} {what} [{shown}]. Call the pipeline "
            "with num_inference_steps alone: the fitted noise levels come with the file."
        )

    def _by_steps(self) -> list[list[Entry]]:
        """The entries of each number of steps."""
        found: dict[int, list[Entry]] = {}
        for entry in self._entries:
            found.setdefault(len(entry.parameters.sigmas), []).append(entry)
        return [found[count] for count in sorted(found)]

    def _one(self, alike: Sequence[Entry]) -> Parameters:
        if self._guidance is None and len(alike) > 1:
            scales = sorted({entry.guidance for entry in alike if entry.guidance is not None})
            if len(scales) > 1:
                raise ParameterError(
                    f"There are parameters for the guidance scales {', '.join(f'{scale:g}' for scale in scales)}. Say which "
                    "one the pipeline will be called with: DODEScheduler.from_parameters(…, guidance_scale=…)."
                )
        return interpolate(list(alike), self._guidance).parameters
