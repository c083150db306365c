"""The sampler: the saved parameters that fit a run, else the undistilled solver, and a word on which it was."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dode.coordinate import coordinate_of
from dode.errors import DodeError
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry
from dode.files.words import summary, warnings
from dode.sampling import make_sampler, sample
from dode.tableau import Tableau

from .choosing import FALLBACK_SOLVER, asked_by, find
from .guidance import both_outputs, scale_of
from .host import feature, option, say_once
from .model_info import model_info, prediction_of, stock_start

INFOTEXT = "D-ODE"


def constructor() -> Callable[[Any], Any]:
    """What the host calls with a checkpoint to have a sampler: its own k-diffusion sampler around ``sample_dode``."""
    kind: Any = feature("modules.sd_samplers_kdiffusion:KDiffusionSampler")

    class DodeSampler(kind):
        def get_sigmas(self, p: Any, steps: int) -> Tensor:
            with asked_by(p):
                return super().get_sigmas(p, steps)

    return lambda checkpoint: DodeSampler(sample_dode, checkpoint)


def sample_dode(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: bool | None = None
) -> Tensor:
    """The saved parameters that fit the model, guidance and σ; else DPM-Solver++(2M). A run that is a fit is made into one."""
    work = getattr(model.p, "dode_fit", None)
    if work is not None:
        return work(model, x, sigmas, extra_args or {})
    if len(sigmas) < 2:
        return x
    arguments = {"extra_args": extra_args, "callback": callback, "disable": disable}
    choice, reason = find(model, sigmas, extra_args or {})
    if choice.entry is not None:
        tell(model.p, f"{choice.name}: {summary(choice.entry)}")
        scale = scale_of(model, (extra_args or {}).get("cond_scale", 1.0))
        for line in warnings(choice.name, compare(choice.entry, model_info(model.inner_model.inner_model), scale)):
            say_once(line)
        wanted = sigmas.new_tensor(choice.sigmas) if choice.own_grid else sigmas
        try:
            return run_entry(choice.entry, model, moved(model, x, sigmas, wanted), wanted, **arguments)
        except DodeError as error:
            reason, model.step = str(error).rstrip("."), 0
    tell(model.p, f"plain {FALLBACK_SOLVER}: {reason}")
    coordinate = coordinate_of(prediction_of(model.inner_model.inner_model))
    return make_sampler(FALLBACK_SOLVER, coordinate=coordinate)(model, x, sigmas, **arguments)


def run_entry(
    entry: Entry,
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Any = None,
    callback: Any = None,
    disable: bool | None = None,
) -> Tensor:
    """Sample on the host's model with an entry, on noise levels that are its own or a part of them.

    Raises:
        ParameterError: the parameters cannot run here. ModelError: they need both outputs of guidance, and there are none.
    """
    sigmas = stock_start(model.inner_model.inner_model, entry.parameters.method, entry.parameters.order, sigmas)
    tableau = entry.parameters.tableau(sigmas.tolist())
    scale = scale_of(model, (extra_args or {}).get("cond_scale", 1.0)) if tableau.guided else 1.0
    with both_outputs(model, scale) as denoiser:
        counted = _Counted(denoiser, model, tableau)
        return sample(counted, x, tableau, extra_args=extra_args, callback=callback, disable=disable)


def moved(model: Any, x: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """The host's start at one noise level as it would be at another, where it is a mix of noise and of a picture's latent."""
    one, other = float(given[0]), float(wanted[0])
    if one == other:
        return x
    image = model.init_latent
    if image is None:
        return x * (start_of(other) / start_of(one))
    flow = prediction_of(model.inner_model.inner_model) == "flow"
    kept, kept_there = (1 - one, 1 - other) if flow else (1.0, 1.0)
    return (x - kept * image) * (other / one) + kept_there * image


def start_of(sigma: float) -> float:
    """By how much the host multiplies unit noise to start at a noise level."""
    return (1 + sigma**2) ** 0.5 if option("sgm_noise_multiplier", False) else sigma


class _Counted:
    """The denoiser with the step told that an evaluation belongs to.

    The host counts calls, and takes their number for the step where prompts change on the way ([cat:dog:0.5]): with two
    evaluations a step these would be through at half time.
    """

    def __init__(self, denoiser: Callable[..., Any], model: Any, tableau: Tableau):
        self.denoiser, self.model, self.steps = denoiser, model, [0]
        step = 0
        for row in tableau.rows:
            step += row.commit
            if row.evaluate:
                self.steps.append(step)
        self.steps.reverse()

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Any:
        self.model.step = self.steps.pop()
        return self.denoiser(x, sigma, **arguments)


def tell(p: Any, text: str) -> None:
    """Into the picture's parameters, for both passes of hires fix, and into the console."""
    say_once(f"{text}.")
    key = f"Hires {INFOTEXT}" if getattr(p, "is_hr_pass", False) else INFOTEXT
    p.extra_generation_params[key] = text
