"""Compare: the same noise through the undistilled solver, the distilled one, and many steps."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dode.coordinate import coordinate_of
from dode.errors import FitError
from dode.files.parameter_file import Entry
from dode.fit.held_out import rms
from dode.methods import METHODS
from dode.recipe import start_of
from dode.sampling import make_sampler
from dode.teacher import Teacher, nested_grid

from .host import CATEGORY, Params, feature, io, ui
from .host.guided import without_negative
from .host.latents import flat, picture_of
from .host.model_info import model_info, sigma_range, with_channels_of
from .page.cards import compared
from .page.plot import side_by_side
from .sampler import entry_sampler

CFGGuider: Any = feature("comfy.samplers:CFGGuider")
KSAMPLER: Any = feature("comfy.samplers:KSAMPLER")


class DODECompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODECompare",
            display_name="Compare D-ODE",
            category=CATEGORY,
            description="Samples the same noise three times and shows undistilled, distilled and many steps side by side.",
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                Params.Input("parameters", tooltip="From Distill Sampler or Load D-ODE Parameters."),
                io.Conditioning.Input("positive", tooltip="The prompt. One that was not distilled over says most."),
                io.Conditioning.Input("negative", optional=True, tooltip="It may stay open where guidance is 1."),
                io.Latent.Input("latent", tooltip="An empty latent; a batch gives a row for each."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance scale, as in KSampler."
                ),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Of the noise that all three start from. Take another than the one that was fitted.",
                ),
                io.Combo.Input(
                    "reference", options=list(METHODS), default="heun", advanced=True, tooltip="The solver with many steps."
                ),
                io.Int.Input(
                    "reference_substeps",
                    default=10,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip="Its steps for each step of the others.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="The three side by side, with their errors."),
                io.Image.Output(display_name="images", tooltip="The pictures by themselves: all undistilled, then all "
                                "distilled, then all references."),
                io.String.Output(display_name="report", tooltip="The errors in words."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        parameters: Entry,
        positive: Any,
        latent: dict[str, Any],
        vae: Any,
        cfg: float,
        seed: int,
        reference: str,
        reference_substeps: int,
        negative: Any = None,
    ) -> Any:
        if negative is None and cfg != 1.0:
            raise FitError(f"Guidance {cfg:g} needs a negative prompt. Connect one, or set cfg to 1.")
        guider = CFGGuider(model if negative is not None else without_negative(model))
        guider.set_conds(positive, positive if negative is None else negative)
        guider.set_cfg(cfg)
        coordinate = coordinate_of(model_info(model).prediction)
        fine = Teacher(reference, substeps=reference_substeps, coordinate=coordinate)
        lowest, _ = sigma_range(model.get_model_object("model_sampling"))
        grid, levels = parameters.parameters.sigmas, parameters.parameters.base().levels
        undistilled = replace(parameters, parameters=start_of(parameters))
        runs = (
            (entry_sampler(undistilled), undistilled.parameters.sigmas),
            (entry_sampler(parameters), grid),
            (KSAMPLER(make_sampler(reference, coordinate=coordinate)), tuple(nested_grid(levels, reference_substeps, lowest))),
        )
        steps = sum(len(sigmas) - 1 for _, sigmas in runs)
        results = _sample(guider, latent, seed, runs, _Steps(cls.hidden.unique_id, steps))
        names = (undistilled.parameters.method, f"{parameters.parameters.method} distilled", reference)
        evaluations = (undistilled.evaluations, parameters.evaluations, fine.tableau(levels, lowest).evaluations)
        errors = [rms(flat(result), flat(results[2])) for result in results]
        captions = [f"{n}\n{e} evaluations" for n, e in zip(names, evaluations, strict=True)]
        captions = [f"{c}\nerror {e:.4g}" for c, e in zip(captions, errors[:2], strict=False)] + [captions[2] + "\nreference"]
        pictures = [_decode(vae, result) for result in results]
        picture = side_by_side(list(zip(*pictures, strict=True)), captions)
        report = _report(names, evaluations, errors)
        saved = [ui.PreviewImage(part, cls=cls).as_dict()["images"] for part in pictures]
        solvers = (names[0], parameters.parameters.method, reference)
        shown = compared(zip(solvers, evaluations, (*errors[:2], None), saved, strict=True))
        return io.NodeOutput(picture, torch.cat(pictures), report, ui={"text": (report,), "dode": (shown,)})


class _Steps:
    """One progress bar over the three runs."""

    def __init__(self, node_id: str | None, total: int):
        self.bar = feature("comfy.utils:ProgressBar")(total, node_id=node_id)
        self.total, self.done = total, 0

    def __call__(self, step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        self.done += 1
        self.bar.update_absolute(self.done, self.total)


def _sample(guider: Any, latent: dict[str, Any], seed: int, runs: Any, steps: _Steps) -> list[Any]:
    """As the host's own sampling nodes do: the noise of a latent that comes from a batch is its part of the batch's, and what a
    mask leaves out stays."""
    prepare_noise = feature("comfy.sample:prepare_noise")
    start = with_channels_of(guider.model_patcher, latent, latent["samples"])
    options = {"denoise_mask": latent.get("noise_mask"), "callback": steps, "disable_pbar": True, "seed": seed}
    results: list[Any] = []
    for sampler, sigmas in runs:
        noise = prepare_noise(start, seed, latent.get("batch_index"))
        levels = torch.tensor(sigmas, dtype=torch.float32)
        results.append(guider.sample(noise, start, sampler, levels, **options).cpu())
    return results


def _decode(vae: Any, latents: Any) -> Tensor:
    pictures = vae.decode(picture_of(latents))
    return pictures.reshape(-1, *pictures.shape[-3:]) if pictures.ndim == 5 else pictures


def _report(names: tuple[str, ...], evaluations: tuple[int, ...], errors: list[float]) -> str:
    change = f" ({100 * (errors[1] / errors[0] - 1):+.0f} %)" if errors[0] > 0 else ""
    return "\n".join(
        [
            f"Distance to {names[2]} with {evaluations[2]} evaluations, root mean square of the latents:",
            f"{names[0]}, {evaluations[0]} evaluations: {errors[0]:.4g}",
            f"{names[1]}, {evaluations[1]} evaluations: {errors[1]:.4g}{change}",
        ]
    )


NODES = [DODECompare]
