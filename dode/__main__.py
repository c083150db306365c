"""The command line: ``python -m dode``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dode import __version__
from dode.errors import DodeError
from dode.fit.paper import FAMILIES
from dode.methods import METHODS
from dode.schedules import SCHEDULES
from dode.tableau import DIRECTIONS

_MODEL_HELP = (
    "'embedded' (the small model that comes with the package) or package.module:function, a function without arguments that "
    "returns a denoiser(x, sigma, **extra_args)"
)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default in (None, "", False) or "default" in (action.help or "")
        return action.help if plain else super()._get_help_string(action)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 4,64,64") from None
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must hold numbers from 1 up")
    return values


def _scales(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= 1000 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of guidance scales, such as 3,5,7.5")
    return values


def _add_model_options(parser: argparse.ArgumentParser, scales: bool = False, unset: str = "1, none") -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="embedded", metavar="MODEL", help=_MODEL_HELP)
    group.add_argument(
        "--k-diffusion",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="a k-diffusion model instead: its JSON config and its weights (.safetensors or .pth)",
    )
    group.add_argument(
        "--shape", type=_numbers, metavar="C,H,W", help="shape of one sample, where the denoiser has no such attribute"
    )
    group.add_argument("--sigma-min", type=float, metavar="S", help="smallest noise level of the schedule before the final 0")
    group.add_argument("--sigma-max", type=float, metavar="S", help="largest noise level")
    if scales:
        group.add_argument(
            "--guidance", type=_scales, default=(1.0,), metavar="G,…", help="classifier-free guidance scales; default 1, none"
        )
    else:
        group.add_argument("--guidance", type=float, metavar="G", help=f"classifier-free guidance scale; default {unset}")
    group.add_argument("--device", default="cpu", help="where the denoiser wants its input, such as cuda")


def _command(commands: Any, name: str, help: str, description: str = "") -> argparse.ArgumentParser:
    text = description or help[0].upper() + help[1:] + "."
    return commands.add_parser(name, help=help, description=text, formatter_class=_Help)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="python -m dode", description="Distilled ODE samplers for diffusion models.")
    parser.add_argument("--version", action="version", version=f"dode {__version__}")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", help="distill on the embedded model, compare, draw a picture sheet and plots")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the results")
    demo.add_argument("--samples", type=int, default=40, help="noise samples to distill on")
    demo.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale")

    distill = _command(
        commands,
        "distill",
        help="fit D-ODE samplers on a model and save them",
        description="Fit D-ODE versions of a solver, one for each number of evaluations, and save them in one file.",
    )
    distill.add_argument("output", type=Path, metavar="FILE", help="the parameter file to write (.safetensors)")
    distill.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    distill.add_argument(
        "--mode",
        default="balanced",
        choices=["balanced", "best", "paper"],
        help="balanced: learns the noise levels and the guidance of each step too. best: learns more, takes longer. paper: one "
        "number a row, as published",
    )
    distill.add_argument(
        "--method",
        help="base solver; default: the best of several (in mode paper: of the paper's with one evaluation a step); one of "
        f"{', '.join((*METHODS, *(family.name for family in FAMILIES)))}",
    )
    distill.add_argument("--order", type=int, help="order, for solvers that come in several; mode paper")
    distill.add_argument(
        "--evaluations", type=_numbers, default=(6,), metavar="N,…", help="evaluations a sample may cost; default 6"
    )
    distill.add_argument(
        "--schedule",
        choices=list(SCHEDULES),
        help="kind of σ grid, to start from; default: the best of several (karras in mode paper)",
    )
    distill.add_argument(
        "--directions",
        choices=DIRECTIONS,
        help="difference denoised (data) or noise outputs, or the slopes of successive steps; mode paper; default: the "
        "paper's, for DDIM by the model's prediction",
    )
    distill.add_argument(
        "--samples",
        type=int,
        help="noise samples, fitted and held out; by default as many as the mode and the evaluations need",
    )
    distill.add_argument(
        "--no-guard",
        dest="guard",
        action="store_false",
        help="keep corrections that do not help on held-out samples, as published; mode paper",
    )
    distill.add_argument("--held-out", type=float, default=0.25, help="part of the samples that only judges")
    distill.add_argument("--teacher", metavar="METHOD", help="teacher's solver; default: a usual one (mode paper: the paper's)")
    distill.add_argument(
        "--substeps",
        type=int,
        help="teacher steps for each step of the student (of ten steps, but in mode paper; in that for D-EDM for each "
        "evaluation); default 10 in mode paper",
    )
    distill.add_argument("--micro-batch", type=int, default=16, help="samples given to the model at once")
    distill.add_argument("--seed", type=int, default=0, help="of the noise")
    distill.add_argument("--author", default="", help="written into the file")
    distill.add_argument("--licence", default="", help="written into the file")
    distill.add_argument("--notes", default="", help="written into the file")
    _add_model_options(distill, scales=True)

    sample = _command(commands, "sample", help="sample a model with a solver or with distilled parameters")
    sample.add_argument(
        "output", type=Path, metavar="OUT", help="a .safetensors for the latents, or a .png sheet of three-channel samples"
    )
    sample.add_argument(
        "--parameters", type=Path, metavar="FILE", help="a parameter file; without it, --method samples undistilled"
    )
    sample.add_argument(
        "--evaluations", type=int, default=6, help="which entry of the file, or how many evaluations; default 6"
    )
    sample.add_argument("--method", help="solver without FILE (default euler), or which solver's entry of FILE")
    sample.add_argument("--order", type=int, help="order, for solvers that come in several")
    sample.add_argument("--schedule", default="karras", choices=list(SCHEDULES), help="σ grid without FILE")
    sample.add_argument("--strength", type=float, default=1.0, help="0 is the base solver, 1 is as fitted")
    sample.add_argument("--count", type=int, default=16, help="how many samples")
    sample.add_argument("--micro-batch", type=int, default=16, help="samples given to the model at once")
    sample.add_argument("--seed", type=int, default=0, help="of the noise")
    sample.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    _add_model_options(sample, unset="1, none; named, it also chooses or interpolates the entry of FILE")

    info = _command(commands, "info", help="everything a parameter file says")
    info.add_argument("file", type=Path, metavar="FILE")
    info.add_argument("--json", action="store_true", help="for programs")

    check = _command(
        commands,
        "check",
        help="measure a parameter file's claim again on a model",
        description="Sample fresh noise with the base solver, the distilled one and the file's teacher. Where the file says "
        "how it was fitted, and this is that model, measure what it claims on the same held-out samples too. The exit status "
        "is 1 if a distilled sampler is worse than its base, or a claim does not hold.",
    )
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--count", type=int, default=32, help="fresh samples")
    check.add_argument("--seed", type=int, default=1, help="of the noise; not the one that was fitted")
    check.add_argument("--micro-batch", type=int, default=16, help="samples given to the model at once")
    _add_model_options(check, unset="the one that each entry was fitted at")

    listed = _command(
        commands,
        "list",
        help="the samplers in a folder, and which of them fit a model",
        description="List the samplers of all parameter files in a folder and its subfolders. With --model or --k-diffusion, "
        "say of each whether it fits that model, and why not. The exit status is 1 if a file cannot be read.",
    )
    listed.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="default: this one")
    listed.add_argument("--json", action="store_true", help="for programs")
    _add_model_options(listed)
    listed.set_defaults(model=None)

    plot = _command(commands, "plot", help="draw λ per row and the error per step")
    plot.add_argument("file", type=Path, metavar="FILE")
    plot.add_argument("--output", type=Path, metavar="PNG", help="FILE with .png, if not given")
    plot.add_argument("--overwrite", action="store_true", help="replace PNG if it exists")

    _command(commands, "methods", help="list the solvers that can be distilled")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    from dode.cli.commands import COMMANDS

    try:
        return COMMANDS[options.command](options)
    except DodeError as error:
        print(f"dode: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dode: stopped; nothing was saved that was not finished.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
