"""Distilled ODE samplers for diffusion models, in pure PyTorch.

The public face: build a solver's table, sample with it, distill it on a model, save and load the result. A model is a denoiser
in k-diffusion's convention, ``denoiser(x, sigma, **extra_args)`` with sigma of shape (B,), returning an estimate of x0.
"""

from dode.correction import Parameters
from dode.errors import DodeError
from dode.files.parameter_file import Entry, ModelInfo, ParameterFile, load_parameters, save_parameters
from dode.fit.all_numbers import distill_students
from dode.fit.distill import distill
from dode.fit.free_parameters import Freedom
from dode.methods import METHODS, build_tableau, get_method, steps_within
from dode.report import Distillation, Report
from dode.sampling import Guided, make_sampler, sample
from dode.schedules import schedule
from dode.stepper import Stepper
from dode.tableau import Row, Tableau
from dode.teacher import Teacher
from dode.version import __version__

__all__ = [
    "METHODS",
    "Distillation",
    "DodeError",
    "Entry",
    "Freedom",
    "Guided",
    "ModelInfo",
    "ParameterFile",
    "Parameters",
    "Report",
    "Row",
    "Stepper",
    "Tableau",
    "Teacher",
    "__version__",
    "build_tableau",
    "distill",
    "distill_students",
    "get_method",
    "load_parameters",
    "make_sampler",
    "sample",
    "save_parameters",
    "schedule",
    "steps_within",
]
