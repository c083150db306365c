"""What several commands of the command line share."""

from argparse import Namespace

from dode.cli.models import Model, load_model
from dode.errors import ModelError, ParameterError
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry


def model_of(options: Namespace, guidance: float | None = None) -> Model:
    """The model at a guidance scale, that of --guidance if there is no other."""
    asked = options.guidance if guidance is None else guidance
    return load_model(
        options.model,
        k_diffusion=options.k_diffusion,
        shape=options.shape,
        sigma_min=options.sigma_min,
        sigma_max=options.sigma_max,
        guidance=1.0 if asked is None else asked,
        device=options.device,
    )


def check_counts(options: Namespace) -> None:
    """Raises ModelError where there is nothing to sample."""
    if options.count < 1 or options.micro_batch < 1:
        raise ModelError("--count and --micro-batch must be at least 1.")


def table_text(rows: list[list[str]], left: bool = False) -> str:
    """Rows of cells as text, the first row as a head; all columns but the first to the right, or all to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i and not left else cell.ljust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    lines = [line.rstrip() for line in lines]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def warn_of_differences(entry: Entry, model: Model, guidance: float) -> None:
    """Refuse parameters of another kind of model; say what else differs."""
    match = compare(entry, model.info, guidance)
    if not match:
        raise ParameterError(f"These parameters belong to another kind of model: {'; '.join(match.hard)}.")
    for difference in match.soft:
        print(f"Note: {difference}.")
