"""What parameter files are filled with in tests."""

from dode import Report, Teacher


def report() -> Report:
    """Made-up figures of a fit with three rows."""
    return Report(
        teacher=Teacher("heun", None, 7, "log_sigma"),
        teacher_error=0.01,
        samples=48,
        held_out=12,
        seed=5,
        error_base=0.2,
        error_distilled=0.1,
        step_errors_base=(0.1, 0.2, 0.2),
        step_errors_distilled=(0.1, 0.1, 0.1),
        kept=(1.0, 0.5, 1.0),
        strength=1.0,
        model_evaluations={"teacher": 100, "student": 12},
    )
