"""What a node says about parameters, in words."""

from collections.abc import Sequence

from dode.files.compatibility import Match
from dode.files.parameter_file import Entry, ParameterFile
from dode.files.words import gain, summary, warnings
from dode.recipe import recipe_text

from ..host import say_once


def stopped_early(missing: Sequence[tuple[int, float]]) -> str:
    """What a fit that was stopped has not come to: pairs of a number of steps and a guidance scale."""
    steps: dict[float, list[str]] = {}
    for number, scale in missing:
        steps.setdefault(scale, []).append(str(number))
    left = "; ".join(f"{', '.join(numbers)} steps at guidance {scale:g}" for scale, numbers in steps.items())
    return f"Stopped early: the best found so far was kept.{left and f' Missing: {left}.'}"


def warn_of(name: str, match: Match) -> None:
    """Say once in the log what differs without being wrong."""
    for warning in warnings(name, match):
        say_once(warning)


def comparison(match: Match) -> str:
    """Several lines: everything that was compared, and the outcome."""
    marks = {"same": "=", "unknown": "?", "soft": "≈", "hard": "✗"}
    head = "Fits this model." if match and not match.soft else "May fit this model." if match else "Does not fit this model."
    return "\n".join([head, *(f"{marks[each.verdict]} {each}" for each in match.compared)])


def words(content: ParameterFile) -> str:
    """One or more lines: who made a file, under which terms, and what they say of it."""
    made = [content.author and f"by {content.author}", content.licence, f"with {content.software}"]
    return "\n".join(filter(None, [", ".join(filter(None, made)), content.notes]))


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
    lines.append(f"λ ({parameters.directions} differences):")
    lines += ["  " + "  ".join(f"{v:+.4f}" for v in row) for row in parameters.values]
    if parameters.guidance is not None:
        lines.append("γ (change of the guidance scale):")
        lines += ["  " + "  ".join(f"{v:+.4f}" for v in row) for row in parameters.guidance]
    if entry.recipe:
        lines.append("Recipe: " + "; ".join(f"{name} {recipe_text(value)}" for name, value in entry.recipe.items()))
    return "\n".join(lines)
