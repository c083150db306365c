"""What a host says of an entry, in words."""

from collections.abc import Sequence

from dode.files.compatibility import Match
from dode.files.parameter_file import Entry, ModelInfo, RecipeValue
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


def details(entry: Entry) -> str:
    """Several lines: the solver, the model, the fit, the numbers."""
    parameters, model, report = entry.parameters, entry.model, entry.report
    lines = [summary(entry), gain(entry)]
    described = [model.name or "unnamed model", model.family, model.prediction and f"{model.prediction} prediction"]
    described.append(f"{model.channels} latent channels" if model.channels else "")
    lines.append("Fitted on: " + ", ".join(filter(None, described)))
    if report is not None:
        teacher = report.teacher
        lines.append(f"Teacher: {teacher.method}, {teacher.substeps} substeps a step, own error {report.teacher_error:.4g}")
        lines.append(f"Samples: {report.samples}, {report.held_out} of them held out, seed {report.seed}")
        if report.strength < 1:
            lines.append(f"The guard kept {100 * report.strength:.0f} % of the correction.")
        lines.append("Model evaluations: " + ", ".join(f"{k} {v}" for k, v in report.model_evaluations.items()))
    lines.append("σ: " + "  ".join(f"{s:.4g}" for s in parameters.sigmas))
    if parameters.model_sigmas is not None:
        lines.append("σ that the model is told: " + "  ".join(f"{s:.4g}" for s in parameters.model_sigmas))
    lines.append(f"λ ({parameters.directions} differences of {parameters.coordinate}, a row each step):")
    lines += ["  " + "  ".join(f"{v:+.4f}" for v in row) for row in parameters.values]
    if parameters.guidance is not None:
        lines.append("γ (change of the guidance scale):")
        lines += ["  " + "  ".join(f"{v:+.4f}" for v in row) for row in parameters.guidance]
    if model.fingerprint:
        lines.append(f"Fingerprint of the checkpoint: {model.fingerprint}")
    if entry.recipe:
        lines.append("Recipe: " + "; ".join(f"{name} {_value(value)}" for name, value in entry.recipe.items()))
    return "\n".join(lines)


def _value(value: RecipeValue) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


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
