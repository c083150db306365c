"""What a host says of an entry, in words."""

from collections.abc import Sequence

from dode.files.compatibility import Match
from dode.files.parameter_file import Entry, ModelInfo
from dode.methods import get_method


def summary(entry: Entry) -> str:
    """One line: solver, steps, guidance."""
    parameters = entry.parameters
    orders = get_method(parameters.method).convergence
    solver = parameters.method if len(orders) == 1 else f"{parameters.method} of order {parameters.order}"
    guidance = "" if entry.guidance is None else f", guidance {entry.guidance:g}"
    return f"{solver}, {len(parameters.sigmas) - 1} steps, {entry.evaluations} evaluations{guidance}"


def gain(entry: Entry) -> str:
    """How much closer to the teacher the distilled solver comes, on samples that were not fitted."""
    report = entry.report
    if report is None:
        return "No measurements in the file."
    before, after = report.error_base, report.error_distilled
    change = f" ({100 * (after / before - 1):+.0f} %)" if before > 0 else ""
    return (
        f"Error against the teacher on {report.held_out} held-out sample{'s' * (report.held_out != 1)}: "
        f"{report.error_base:.4g} undistilled, {report.error_distilled:.4g} distilled{change}."
    )


def none_fit(model: ModelInfo, steps: int, guidance: float | None, reasons: Sequence[str]) -> str:
    """That there are no parameters for what is to be sampled, and why."""
    scale = "" if guidance is None else f" at guidance {guidance:g}"
    return f"no saved parameters fit {model.name or model.family}, {steps} steps{scale} ({'; '.join(reasons)})"


def no_levels(steps: int) -> str:
    """That no parameters bring noise levels for so many steps."""
    return f"no saved parameters bring noise levels for {steps} steps"


def warnings(name: str, match: Match) -> list[str]:
    """What differs between a file and a model without being wrong, a line each."""
    return [f"{name}: {difference}. The parameters may fit less well." for difference in match.soft]
