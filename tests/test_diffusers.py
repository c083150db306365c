"""The scheduler for diffusers, in pipelines of its own classes: against its stock schedulers, and in ComfyUI's conventions."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.correction import available_taps
from dode.diffusers import DODEScheduler
from dode.errors import FormatError, GridError, ModelError, ParameterError
from tests.comfyui import import_comfy
from tests.pipelines import CALL, KINDS, diffusers, flux, flux_prompt, sd3, sd15, sd15_prompt, sdxl, sdxl_prompt, trained, wan

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers' schedulers with NumPy 2
]
SIGMAS = (14.6146, 4.1, 1.3, 0.4, 0.0)
FLOW_SIGMAS = (1.0, 0.9, 0.7, 0.3, 0.0)


def plain(method: str, sigmas: Any, order: int | None = None, coordinate: str = "log_sigma") -> dode.Parameters:
    """A solver with λ = 0."""
    order = dode.get_method(method).default_order if order is None else order
    base = dode.build_tableau(method, sigmas, order, coordinate)
    form = "data" if base.consistent else "noise"
    return dode.Parameters(method, order, form, tuple(sigmas), np.zeros((len(base.rows), 1)), coordinate)


def distilled(
    method: str = "dpmpp_2m", sigmas: Any = SIGMAS, coordinate: str = "log_sigma", guided: bool = False, told: bool = True
) -> dode.Parameters:
    """A solver with all kinds of learned numbers, none of them 0."""
    base = plain(method, sigmas, coordinate=coordinate)
    table, random = base.base(), np.random.default_rng(0)
    usable = available_taps(table)[:, None] > np.arange(2)[None, :]
    values = np.where(usable, random.uniform(-0.2, 0.2, (len(table.rows), 2)), 0.0)
    channel = random.uniform(-0.3, 0.3, (len(table.rows), 1)) if guided else None
    levels = tuple(s * random.uniform(0.9, 1.0) for s in table.evaluation_sigmas) if told else None
    return dode.Parameters(base.method, base.order, base.directions, base.sigmas, values, coordinate, channel, levels)


def noise_like(latents: Tensor, seed: int = 3) -> Tensor:
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))


def run(kind: str, scheduler: Any, x: Tensor | None, **options: Any) -> Tensor:
    """A pipeline with a scheduler, started at x (B, …) in σ coordinates, or at noise where there is none."""
    make, prompt, call = KINDS[kind]
    pipeline = make(scheduler=scheduler)
    count = 1 if x is None else len(x)
    if x is not None:
        options["latents"] = x
    return pipeline(**prompt(count), **{**call, **CALL, **options})[0]


SHAPES = {"SD 1.5": (2, 4, 8, 8), "SDXL": (1, 4, 8, 8), "SD3": (2, 4, 8, 8), "Flux": (1, 16, 16), "Wan": (1, 4, 2, 2, 2)}


def at_start(scheduler: Any, x: Tensor, **request: Any) -> Tensor:
    """Latents that a pipeline multiplies by the scheduler's init_noise_sigma to get x, in σ coordinates."""
    scheduler.set_timesteps(**request)
    return x / getattr(scheduler, "init_noise_sigma", 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_lambda_0_is_the_stock_euler_scheduler(kind: str) -> None:
    flow = kind not in ("SD 1.5", "SDXL")
    noise = noise_like(torch.empty(SHAPES[kind]))
    if flow:
        stock = KINDS[kind][0]().scheduler
        stock.set_timesteps(4, mu=0.6 if kind == "Flux" else None)
        image = {"num_inference_steps": 4}
        wanted = run(kind, None, noise, **image)
        # What Flux makes of its small picture's size is in its own sigmas.
        pipeline = KINDS[kind][0]()
        pipeline(**KINDS[kind][1](1), **KINDS[kind][2], **CALL, **image)
        grid = pipeline.scheduler.sigmas.tolist()
        got = run(kind, DODEScheduler.from_parameters(plain("euler", grid, coordinate="flow"), stock), noise, **image)
    else:
        stock = KINDS[kind][0]().scheduler
        ours = DODEScheduler.from_parameters(plain("euler", SIGMAS), stock, round_timesteps=False)
        wanted = run(kind, stock, at_start(stock, 14 * noise, sigmas=SIGMAS), sigmas=list(SIGMAS))
        got = run(kind, ours, at_start(ours, 14 * noise, num_inference_steps=4), num_inference_steps=4)
    assert wanted.std() > 0.1
    torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-4)


STOCK: dict[str, tuple[str, dict[str, Any], str, int | None]] = {
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}, "ddim", None),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, "dpmpp_2m", None),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "dpmpp_2m", None),
    "UniPC": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing", "solver_order": 3}, "uni_pc_bh2", None),
    "Heun": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, "heun", None),
    "LMS": ("LMSDiscreteScheduler", {}, "lms_k_diffusion", 4),
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", STOCK)
def test_lambda_0_is_the_stock_scheduler_of_that_solver(name: str, prediction: str) -> None:
    kind, options, method, order = STOCK[name]
    stock = getattr(diffusers, kind)(**trained(prediction, steps_offset=1) | options)
    stock.set_timesteps(5)
    if name == "DDIM":
        kept = stock.alphas_cumprod[stock.timesteps].double()
        grid = [*((1 - kept) / kept).sqrt().tolist(), 0.0]
    else:
        grid = list(dict.fromkeys(stock.sigmas.tolist()))
    ours = DODEScheduler.from_parameters(plain(method, grid, order), stock, round_timesteps=name.startswith("D"))
    x = grid[0] * noise_like(torch.empty(2, 4, 8, 8))
    preserving = name.startswith(("D", "U"))  # those hold x divided by √(1 + σ²)
    scaled = x / math.hypot(1, grid[0]) if preserving else at_start(stock, x, num_inference_steps=5)
    wanted = run("SD 1.5", stock, scaled, num_inference_steps=5)
    got = run("SD 1.5", ours, at_start(ours, x, num_inference_steps=5), num_inference_steps=5)
    assert ours.order == stock.order
    assert len(ours.timesteps) == len(stock.timesteps)
    torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3)


def test_lambda_0_of_heun_is_the_stock_flow_scheduler() -> None:
    stock = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    stock.set_timesteps(4)
    grid = list(dict.fromkeys(stock.sigmas.tolist()))
    ours = DODEScheduler.from_parameters(plain("heun", grid, coordinate="flow"), stock)
    noise = noise_like(torch.empty(1, 4, 8, 8))
    torch.testing.assert_close(
        run("SD3", ours, noise, num_inference_steps=4), run("SD3", stock, noise, num_inference_steps=4), rtol=2e-4, atol=2e-4
    )


class ComfyUI:
    """A pipeline's network as a denoiser in ComfyUI's way, on ComfyUI's own classes."""

    def __init__(self, pipeline: Any, kind: str, prompt: dict[str, Tensor], scale: float, guided: bool):
        import_comfy()
        sampling: Any = __import__("comfy.model_sampling").model_sampling
        self.flow = kind == "flow"
        prediction = {"epsilon": sampling.EPS, "v_prediction": sampling.V_PREDICTION, "flow": sampling.CONST}[kind]
        levels = sampling.ModelSamplingDiscreteFlow if self.flow else sampling.ModelSamplingDiscrete
        self.sampling: Any = type("Sampling", (levels, prediction), {})()
        if self.flow:
            self.sampling.set_parameters(shift=3.0)
        self.pipeline, self.prompt, self.scale, self.guided = pipeline, prompt, scale, guided

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor | dode.Guided:
        conditional, unconditional = (self._denoised(x, sigma, name) for name in ("", "negative_"))
        difference = conditional - unconditional
        denoised = unconditional + self.scale * difference
        return dode.Guided(denoised, difference) if self.guided else denoised

    def _denoised(self, x: Tensor, sigma: Tensor, which: str) -> Tensor:
        inside, timestep = self.sampling.calculate_input(sigma, x), self.sampling.timestep(sigma).float()
        prompt = self.prompt[f"{which}prompt_embeds"]
        with torch.no_grad():
            if self.flow:
                pooled = self.prompt[f"{which}pooled_prompt_embeds"]
                output = self.pipeline.transformer(
                    hidden_states=inside, timestep=timestep, encoder_hidden_states=prompt, pooled_projections=pooled
                )
            else:
                output = self.pipeline.unet(inside, timestep, encoder_hidden_states=prompt)
        return self.sampling.calculate_denoised(sigma, output.sample, x)

    def latent(self, parameters: dode.Parameters, noise: Tensor) -> Tensor:
        """What the sampler node gives for a noise and an empty latent."""
        sigmas = torch.tensor(parameters.sigmas)
        full = math.isclose(float(self.sampling.sigma_max), parameters.sigmas[0], rel_tol=1e-5)
        x = self.sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), full)
        return dode.make_sampler(parameters)(self, x, sigmas, extra_args={}, disable=True)


@pytest.mark.parametrize("guided", [False, True], ids=["", "guidance channel"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_a_file_gives_the_latent_that_comfyui_gives(kind: str, guided: bool, tmp_path: Path) -> None:
    if kind == "flow":
        pipeline, prompt = sd3(), sdxl_prompt(2)
        parameters = distilled("dpmpp_2m", (0.95, 0.8, 0.4, 0.1, 0.0), "flow", guided)
    else:
        pipeline, prompt = sd15(prediction=kind), sd15_prompt(2)
        parameters = distilled("dpmpp_2m", SIGMAS, guided=guided)
    noise = noise_like(torch.empty(2, 4, 8, 8))
    wanted = ComfyUI(pipeline, kind, prompt, 3.0, guided).latent(parameters, noise)
    entry = dode.Entry(parameters, dode.ModelInfo(prediction={"epsilon": "eps", "v_prediction": "v"}.get(kind, kind)))
    file = dode.save_parameters(tmp_path / "made_in_comfyui.safetensors", [entry])
    DODEScheduler.from_parameters(file, pipeline.scheduler).attach(pipeline)
    call = {"height": 8, "width": 8, "guidance_scale": 3.0, "num_inference_steps": 4}
    got = pipeline(**prompt, **call, **CALL, latents=noise)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    undistilled = ComfyUI(pipeline, kind, prompt, 3.0, guided).latent(
        plain("dpmpp_2m", parameters.sigmas, None, parameters.coordinate), noise
    )
    assert (got - undistilled).abs().max() > 0.01, "the learned numbers do nothing"


def test_a_second_picture_is_like_the_first() -> None:
    pipeline = sd15()
    DODEScheduler.from_parameters(distilled(guided=True), pipeline.scheduler).attach(pipeline)
    x = noise_like(torch.empty(1, 4, 8, 8))
    call = {**sd15_prompt(), **CALL, "latents": x, "guidance_scale": 3.0, "num_inference_steps": 4}
    assert torch.equal(pipeline(**call)[0], pipeline(**call)[0])


@pytest.mark.parametrize("method", ["dpmpp_2m", "heun", "uni_pc"])
def test_image_to_image_runs_the_last_part_of_the_grid(method: str) -> None:
    parameters = distilled(method, SIGMAS, told=False)
    pipeline = sd15(kind="StableDiffusionImg2ImgPipeline")
    pipeline.scheduler = DODEScheduler.from_parameters(parameters, pipeline.scheduler)
    image, prompt = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), sd15_prompt()
    seen: list[float] = []
    pipeline.unet.register_forward_hook(lambda module, args, output: seen.append(float(args[1])))
    call = {**prompt, **CALL, "guidance_scale": 3.0, "num_inference_steps": 4, "strength": 0.5, "image": image}
    got = pipeline(**call, generator=torch.Generator().manual_seed(1))[0]
    part = parameters.tableau(SIGMAS[2:])
    assert len(seen) == part.evaluations
    random = torch.Generator().manual_seed(1)
    latent = pipeline.vae.encode(image * 2 - 1).latent_dist.sample(random) * pipeline.vae.config.scaling_factor
    noise = torch.randn(latent.shape, generator=random)
    denoiser = ComfyUI(pipeline, "epsilon", prompt, 3.0, False)
    with torch.no_grad():
        wanted = dode.sample(denoiser, latent + SIGMAS[2] * noise, part)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_inpainting_keeps_what_is_outside_the_mask() -> None:
    pipeline = sd15(kind="StableDiffusionInpaintPipeline")
    pipeline.scheduler = DODEScheduler.from_parameters(distilled(), pipeline.scheduler)
    image, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    call = {**sd15_prompt(), **CALL, "guidance_scale": 3.0, "num_inference_steps": 4, "image": image, "mask_image": mask}
    random = torch.Generator().manual_seed(1)
    got = pipeline(**call, height=8, width=8, strength=1.0, generator=random)[0]
    latent = pipeline.vae.encode(image * 2 - 1).latent_dist
    assert (got[..., :4] - latent.mean[..., :4] * pipeline.vae.config.scaling_factor).abs().max() < 1.0
    again = pipeline(**call, height=8, width=8, strength=0.75, generator=random)[0]
    assert torch.isfinite(again).all()
    stock = sd15(kind="StableDiffusionInpaintPipeline")
    stock.scheduler = diffusers.EulerDiscreteScheduler.from_config(stock.scheduler.config)
    ours = sd15(kind="StableDiffusionInpaintPipeline")
    stock.scheduler.set_timesteps(4)
    grid = stock.scheduler.sigmas.tolist()
    ours.scheduler = DODEScheduler.from_parameters(plain("euler", grid), stock.scheduler, round_timesteps=False)
    both = [
        each(**call, height=8, width=8, strength=0.75, generator=torch.Generator().manual_seed(2))[0] for each in (stock, ours)
    ]
    torch.testing.assert_close(both[1], both[0], rtol=2e-4, atol=2e-4)


def test_flux_image_to_image_is_the_stock_schedulers() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    call = {**flux_prompt(), **CALL, "num_inference_steps": 4, "strength": 0.5, "image": image, "height": 8, "width": 8}
    stock = flux(kind="FluxImg2ImgPipeline")
    wanted = stock(**call, generator=torch.Generator().manual_seed(1))[0]
    grid = stock.scheduler.sigmas.tolist()
    ours = flux(kind="FluxImg2ImgPipeline")
    ours.scheduler = DODEScheduler.from_parameters(plain("euler", grid, coordinate="flow"), stock.scheduler)
    got = ours(**call, generator=torch.Generator().manual_seed(1))[0]
    torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-4)


def test_the_guider_of_a_modular_pipeline_gives_the_guidance_channel() -> None:
    parameters, prompt = distilled(guided=True), sdxl_prompt()
    x = noise_like(torch.empty(1, 4, 8, 8))
    ordinary = sdxl()
    DODEScheduler.from_parameters(parameters, ordinary.scheduler).attach(ordinary)
    call = {"num_inference_steps": 4, "height": 8, "width": 8}
    wanted = ordinary(**prompt, **call, **CALL, guidance_scale=3.0, latents=x)[0]

    blocks: Any = diffusers.modular_pipelines.SequentialPipelineBlocks
    steps: Any = __import__("diffusers.modular_pipelines.stable_diffusion_xl", fromlist=["x"])
    before = __import__(f"{steps.__name__}.before_denoise", fromlist=["x"])
    denoise = __import__(f"{steps.__name__}.denoise", fromlist=["x"])
    modular = blocks.from_blocks_dict(
        {
            "input": before.StableDiffusionXLInputStep(),
            "timesteps": before.StableDiffusionXLSetTimestepsStep(),
            "latents": before.StableDiffusionXLPrepareLatentsStep(),
            "conditioning": before.StableDiffusionXLPrepareAdditionalConditioningStep(),
            "denoise": denoise.StableDiffusionXLDenoiseStep(),
        }
    ).init_pipeline()
    scheduler = DODEScheduler.from_parameters(parameters, sdxl().scheduler)
    modular.update_components(unet=sdxl().unet, vae=sdxl().vae, scheduler=scheduler, guider=scheduler.guider(3.0))
    # The pipeline takes the picture's size from the latent's, eight times as large here.
    got = modular(**prompt, num_inference_steps=4, height=8, width=8, latents=x, output="latents")
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_saved_with_a_pipeline_it_comes_back(tmp_path: Path) -> None:
    pipeline = sd15()
    pipeline.scheduler = DODEScheduler.from_parameters([dode.Entry(distilled(), guidance=3.0)], pipeline.scheduler)
    pipeline.save_pretrained(tmp_path)
    rest = dict.fromkeys(("safety_checker", "feature_extractor", "text_encoder", "tokenizer", "image_encoder"))
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, **rest)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is DODEScheduler
    call = {**sd15_prompt(), **CALL, "latents": noise_like(torch.empty(1, 4, 8, 8)), "num_inference_steps": 4}
    assert torch.equal(pipeline(**call)[0], again(**call)[0])
    alone = DODEScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert alone.config == again.scheduler.config
    copied = DODEScheduler.from_config(alone.config, strength=0.0)
    copied.set_timesteps(4)
    assert copied.config["strength"] == 0
    assert copy.deepcopy(copied).timesteps.tolist() == copied.timesteps.tolist()


def test_half_precision_stays_half() -> None:
    scheduler = DODEScheduler.from_parameters(distilled(), sd15().scheduler)
    scheduler.set_timesteps(4)
    x = noise_like(torch.empty(1, 4, 8, 8)).bfloat16()
    given = x.clone()
    found = scheduler.step(x * 0.1, scheduler.timesteps[0], x, return_dict=False)[0]
    assert found.dtype == torch.bfloat16
    assert torch.equal(x, given)


def several() -> list[dode.Entry]:
    grids = [SIGMAS, SIGMAS, (14.6146, 1.0, 0.0)]
    return [dode.Entry(distilled("euler", grid), guidance=scale) for grid, scale in zip(grids, (3.0, 7.0, 3.0), strict=True)]


def scheduler_of(entries: Any, **options: Any) -> DODEScheduler:
    return DODEScheduler.from_parameters(entries, diffusers.EulerDiscreteScheduler(**trained()), **options)


def test_the_request_chooses_among_entries() -> None:
    scheduler = scheduler_of(several(), guidance_scale=5.0)
    scheduler.set_timesteps(4)
    whole = scheduler.timesteps
    scheduler.set_timesteps(timesteps=whole[2:].tolist())
    assert torch.equal(scheduler.timesteps, whole[2:])
    scheduler.set_timesteps(sigmas=[1.3, 0.4])
    assert torch.equal(scheduler.timesteps, whole[2:])

    with pytest.raises(ParameterError, match="at guidance 3, this is 5"):
        scheduler.set_timesteps(2)
    scheduler = scheduler_of(several(), guidance_scale=3.0)
    requests: list[dict[str, Any]] = [{"num_inference_steps": 2}, {"sigmas": [14.6146, 1.0]}, {"sigmas": [14.6146, 1.0, 0.0]}]
    for request in requests:
        scheduler.set_timesteps(**request)
        assert len(scheduler.timesteps) == 2


def test_noise_levels_of_a_flow_model_are_shifted() -> None:
    evenly = np.linspace(1, 0.25, 4)
    stock = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(sigmas=[0.9, 0.5, 0.2])
    scheduler = DODEScheduler.from_parameters(plain("euler", stock.sigmas.tolist(), coordinate="flow"), stock)
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.2])
    assert torch.allclose(scheduler.timesteps, stock.timesteps)
    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    dynamic.set_timesteps(sigmas=[0.9, 0.5, 0.2], mu=0.7)
    scheduler = DODEScheduler.from_parameters(plain("euler", dynamic.sigmas.tolist(), coordinate="flow"), dynamic)
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.2], mu=0.7)
    assert torch.allclose(scheduler.timesteps, dynamic.timesteps)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 3, 3), mu=0.7)  # what pipelines pass for three steps
    assert torch.allclose(scheduler.timesteps, dynamic.timesteps)
    with pytest.raises(GridError, match="pass mu"):
        scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.3])
    with pytest.raises(ParameterError, match="for 3 steps, not for 4"):
        scheduler.set_timesteps(sigmas=evenly, mu=0.7)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"num_inference_steps": 7}, "for 2, 4 steps, not for 7"),
        ({"sigmas": [9.0, 2.0]}, "ends with the 2 noise levels"),
        ({"timesteps": [900, 3]}, "ends with the 2 timesteps"),
        ({"sigmas": [float("nan")]}, "flat list"),
        ({}, "Pass one of"),
    ],
)
def test_a_request_for_what_is_not_there_says_what_there_is(request_: dict[str, Any], said: str) -> None:
    with pytest.raises((ParameterError, GridError), match=said):
        scheduler_of(several(), guidance_scale=3.0).set_timesteps(**request_)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ParameterError, match=r"guidance scales 3, 7.*guidance_scale="):
        scheduler_of(several()).set_timesteps(4)
    with pytest.raises(ParameterError, match="variance-preserving"):
        scheduler_of(plain("euler", FLOW_SIGMAS, coordinate="flow"))
    with pytest.raises(ParameterError, match="prediction kind 'v'"):
        scheduler_of([dode.Entry(distilled(), dode.ModelInfo(prediction="v"))])
    with pytest.raises(ModelError, match="prediction type 'cosine'"):
        DODEScheduler.from_parameters(distilled(), {"prediction_type": "cosine"})
    with pytest.raises(ParameterError, match="got int"):
        scheduler_of([3])
    with pytest.raises(ParameterError, match="no base64"):
        DODEScheduler(parameters="?")
    with pytest.raises(FormatError):
        DODEScheduler(parameters="AAAA")
    with pytest.raises(GridError, match="set_timesteps first"):
        scheduler_of(distilled()).scale_model_input(torch.zeros(1), 1.0)
    with pytest.raises(ModelError, match="neither a unet nor a transformer"):
        scheduler_of(distilled()).attach(object())
    scheduler = scheduler_of(distilled("heun", SIGMAS, told=False))
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(3)
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ParameterError, match="steps begin with 0, 2, 4, 6"):
        scheduler.step(x, scheduler.timesteps[3], x)


def test_parameters_that_weigh_guidance_say_where_it_cannot_be_had() -> None:
    pipeline = sd15()
    pipeline.scheduler = scheduler_of(distilled(guided=True))
    call = {**sd15_prompt(), **CALL, "num_inference_steps": 4, "guidance_scale": 3.0}
    with pytest.raises(ModelError, match=r"scheduler\.attach\(pipeline\)"):
        pipeline(**call)
    pipeline.scheduler.attach(pipeline)
    assert torch.isfinite(pipeline(**call)[0]).all()
    with pytest.raises(ModelError, match="guidance scale above 1"):
        pipeline(**{**call, "guidance_scale": 1.0})
    pipeline.scheduler.detach()
    with pytest.raises(ModelError, match=r"scheduler\.attach\(pipeline\)"):
        pipeline(**call)


def test_a_flow_schedule_that_starts_lower_wants_the_noise_scaled() -> None:
    pipeline = wan()
    parameters = plain("euler", (0.9, 0.5, 0.0), coordinate="flow")
    pipeline.scheduler = DODEScheduler.from_parameters(parameters, pipeline.scheduler)
    call = {**KINDS["Wan"][1](), **KINDS["Wan"][2], **CALL, "num_inference_steps": 2}
    with pytest.raises(ParameterError, match=r"start at sigma 0\.9.*attach"):
        pipeline(**call)
    seen: list[float] = []
    pipeline.scheduler.attach(pipeline)
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(float(kwargs["hidden_states"].std())), with_kwargs=True
    )
    unit = torch.randn(1, 4, 2, 2, 2)
    pipeline(**call, latents=unit)
    assert seen[0] == seen[1] == pytest.approx(0.9 * float(unit.std()), rel=1e-4)


def test_both_orders_of_the_two_outputs_are_understood() -> None:
    """Stable Diffusion asks for both at once, the unconditional one first; Wan for one after the other."""
    for kind, make in (("SD 1.5", sd15), ("Wan", wan)):
        pipeline = make()
        flow = kind == "Wan"
        parameters = distilled("euler", FLOW_SIGMAS if flow else SIGMAS, "flow" if flow else "log_sigma", True, told=False)
        scheduler = DODEScheduler.from_parameters(parameters, pipeline.scheduler).attach(pipeline)
        network = pipeline.transformer if flow else pipeline.unet
        outputs: list[Tensor] = []
        network.register_forward_hook(lambda module, args, output, kept=outputs: kept.append(output[0]))
        pairs: list[tuple[Tensor, Tensor]] = []
        original = scheduler._watch.pair  # type: ignore[union-attr]
        scheduler._watch.pair = lambda joined, f=original, kept=pairs: kept.append(f(joined)) or kept[-1]  # type: ignore[union-attr]
        _, prompt, call = KINDS[kind]
        pipeline(**prompt(), **call, **CALL, num_inference_steps=4)
        assert len(pairs) == 4
        conditional, unconditional = (outputs[0], outputs[1]) if flow else outputs[0].chunk(2)[::-1]
        assert torch.equal(pairs[0][0], conditional)
        assert torch.equal(pairs[0][1], unconditional)
