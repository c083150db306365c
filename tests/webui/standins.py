"""Stand-ins for the WebUIs: the interfaces that the adapter meets, behaving as read in the sources of the three.

Forge: dfdcbab, reForge: 3b56b26, AUTOMATIC1111: the files of 1.9 and 1.10. What they differ in is what is different here: how
a sampler gets into the lists, what stands behind a sampler's model, and where both outputs of guidance can be had. What they
compute is ours: a model in closed form, in float64.
"""

import functools
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

KINDS = ("forge", "reforge", "a1111")
LOW, HIGH = 0.0292, 14.6146  # of Stable Diffusion 1.5


def predict(x: Tensor, sigma: Tensor, tilt: Tensor) -> Tensor:
    """The denoised output of a model whose data lie around +1 and -1 in each number, more of them where ``tilt`` says, (B,)."""
    width, square = 0.6**2, sigma.view(-1, 1, 1, 1).to(x.dtype) ** 2
    middle = torch.tanh(x / (square + width) + tilt.view(-1, 1, 1, 1).to(x.dtype))
    return (width * x + square * middle) / (square + width)


def tilt_of(prompt: str) -> float:
    """What the stand-in's text encoder makes of a prompt."""
    return (sum(map(ord, prompt)) % 17) / 10 - 0.8


class SamplerData(NamedTuple):
    name: str
    constructor: Callable[[Any], Any]
    aliases: list[str]
    options: dict[str, Any]


class InterruptedException(BaseException):
    pass


@dataclass
class Scheduler:
    name: str
    label: str
    function: Any
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list[str] | None = None


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: Any = "cpu") -> Tensor:
    ramp = torch.linspace(0, 1, n)
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([levels, torch.zeros(1)]).to(device)


class Opts:
    """Saved values, and the defaults of what is registered; an unknown name is an AttributeError, as in the hosts."""

    def __init__(self, **saved: Any):
        self.data: dict[str, Any] = saved
        self.data_labels: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("data", {}):
            return self.data[name]
        if name in self.__dict__.get("data_labels", {}):
            return self.data_labels[name].default
        raise AttributeError(name)

    def add_option(self, key: str, info: Any) -> None:
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)


class OptionInfo:
    def __init__(self, default: Any = None, label: str = "", component: Any = None, section: Any = None):
        self.default, self.label, self.section, self.comment_after = default, label, section, ""

    def needs_reload_ui(self) -> "OptionInfo":
        self.comment_after += " (requires Reload UI)"
        return self


@dataclass
class State:
    interrupted: bool = False
    skipped: bool = False
    stopping_generation: bool = False
    job_count: int = -1
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    textinfo: str | None = None

    def interrupt(self) -> None:
        self.interrupted = True


@dataclass
class Schedule:
    """One prompt, as it changes on the way: until which step which tilt."""

    until: list[tuple[float, float]]

    def at(self, step: int) -> float:
        return next((tilt for last, tilt in self.until if step <= last), self.until[0][1])


@dataclass
class Multicond:
    shape: tuple[int, ...]
    batch: list[list[Schedule]]


class Patcher:
    """Forge's and reForge's: the model, and functions that are called after guidance."""

    def __init__(self, model: Any, options: dict[str, Any] | None = None):
        self.model, self.model_options = model, options or {}

    def clone(self) -> "Patcher":
        return Patcher(self.model, {key: list(value) for key, value in self.model_options.items()})

    def set_model_sampler_post_cfg_function(self, function: Any, disable_cfg1_optimization: bool = False) -> None:
        known = self.model_options.get("sampler_post_cfg_function", [])
        self.model_options["sampler_post_cfg_function"] = [*known, function]


class SD15:
    """Named as the hosts name the architecture."""


class EPS:
    pass


class ModelSampling(EPS):
    pass


def checkpoint(kind: str, file: Path) -> Any:
    """A loaded SD 1.5 checkpoint as each of the three describes it."""
    made = types.SimpleNamespace(sd_checkpoint_info=types.SimpleNamespace(filename=str(file)), is_sdxl=False, calls=0)
    if kind == "a1111":
        made.is_sd1, made.parameterization, made.cond_stage_key = True, "eps", "txt"
        made.model = types.SimpleNamespace(conditioning_key="crossattn")
        return made
    if kind == "forge":
        network = types.SimpleNamespace(predictor=types.SimpleNamespace(prediction_type="epsilon"))
        made.model_config = SD15()
    else:
        latents = types.SimpleNamespace(latent_channels=4)
        network = types.SimpleNamespace(model_sampling=ModelSampling(), model_config=SD15(), latent_format=latents)
    made.current_lora_hash = "[]"
    vae = types.SimpleNamespace(latent_channels=4) if kind == "forge" else types.SimpleNamespace()
    made.forge_objects = types.SimpleNamespace(unet=Patcher(network), vae=vae)
    return made


class Linker:
    """What a sampler's model is around: noise levels, ascending, and the checkpoint behind."""

    def __init__(self, model: Any):
        self.inner_model = model
        self.sigmas = torch.from_numpy(np.exp(np.linspace(np.log(LOW), np.log(HIGH), 1000))).float()

    def get_sigmas(self, n: int) -> Tensor:
        picked = torch.linspace(len(self.sigmas) - 1, 0, n).round().long()
        return torch.cat([self.sigmas[picked], torch.zeros(1)])


class WebUI:
    """One WebUI: ``modules`` as it would be imported, and what a test does with it."""

    def __init__(self, kind: str, folder: Path, **saved: Any):
        self.kind, self.folder = kind, folder
        weights = folder / "models" / "Stable-diffusion" / "anything.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(bytes(range(256)) * 64)
        self.model = checkpoint(kind, weights)
        usual: dict[str, Any] = {"always_discard_next_to_last_sigma": False, "sgm_noise_multiplier": False, "hide_samplers": []}
        self.opts, self.state = Opts(**usual, **saved), State()
        self.listeners: dict[str, list[Any]] = {"ui_settings": [], "cfg_denoised": []}
        self.modules: dict[str, Any] = {}
        self._build()

    def module(self, name: str, **contents: Any) -> Any:
        made = types.ModuleType(name)
        made.__dict__.update(contents)
        self.modules[name] = made
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(self.modules[parent], child, made)
        return made

    def _build(self) -> None:
        web = self
        self.module("modules")
        self.shared = self.module("modules.shared", opts=self.opts, state=self.state, sd_model=self.model)
        self.module("modules.options", OptionInfo=OptionInfo)
        self.module("modules.paths_internal", models_path=str(self.folder / "models"))
        self.module(
            "modules.script_callbacks",
            on_ui_settings=self.listeners["ui_settings"].append,
            on_cfg_denoised=self.listeners["cfg_denoised"].append,
        )
        self.module("modules.scripts", Script=type("Script", (), {"__init__": lambda self: None}), AlwaysVisible=object())
        self.module("modules.sd_samplers_common", SamplerData=SamplerData, InterruptedException=InterruptedException)
        known = [
            Scheduler("automatic", "Automatic", None),
            Scheduler("karras", "Karras", karras, default_rho=7.0),
        ]
        self.schedules = self.module(
            "modules.sd_schedulers",
            Scheduler=Scheduler,
            schedulers=known,
            schedulers_map={key: each for each in known for key in (each.name, each.label)},
        )

        class CFGDenoiser(_CFGDenoiser):
            web_ui = web

        class KDiffusionSampler(_KDiffusionSampler):
            web_ui = web
            denoiser_kind = CFGDenoiser

        self.module("modules.sd_samplers_kdiffusion", KDiffusionSampler=KDiffusionSampler)
        self.samplers = self.module("modules.sd_samplers")
        self._fill_samplers(KDiffusionSampler)
        base = Processing if self.kind == "a1111" else ProcessingOfForge
        processing = type("StableDiffusionProcessingTxt2Img", (base,), {"web_ui": web})
        self.processing = self.module(
            "modules.processing", StableDiffusionProcessingTxt2Img=processing, process_images=process_images
        )
        self.module("modules.call_queue", wrap_gradio_gpu_call=lambda function, extra_outputs=None: function)

    def _fill_samplers(self, kind: Any) -> None:
        made, schedules, web = self.samplers, self.schedules, self
        euler = SamplerData("Euler", lambda model: kind(_euler, model), ["k_euler"], {})
        made.all_samplers = [euler]
        made.all_samplers_map = {"Euler": euler}
        made.samplers_map, made.samplers, made.samplers_for_img2img = {}, [], []

        def set_samplers() -> None:
            made.samplers = made.samplers_for_img2img = made.all_samplers
            made.samplers_map.clear()
            for each in made.all_samplers:
                for name in (each.name, *each.aliases):
                    made.samplers_map[name.lower()] = each.name

        def add_sampler(sampler: Any) -> None:
            if sampler.name not in [each.name for each in made.all_samplers]:
                made.all_samplers.append(sampler)
                made.all_samplers_map = {each.name: each for each in made.all_samplers}
                set_samplers()

        def create_sampler(name: str, model: Any) -> Any:
            config = made.all_samplers_map[name]
            sampler = config.constructor(model)
            sampler.config = config
            return sampler

        @functools.cache
        def get_sampler_and_scheduler(sampler: Any, schedule: Any, *, convert_automatic: bool = True) -> tuple[str, str]:
            found = schedules.schedulers_map.get(schedule, schedules.schedulers[0])
            name = sampler or made.samplers[0].name
            for each in schedules.schedulers:
                for ending in (each.label, each.name, *(each.aliases or [])):
                    same = name.lower().endswith(" " + ending.lower()) if web.kind == "reforge" else name.endswith(" " + ending)
                    if same:
                        found, name = each, name[: -len(ending) - 1]
                        break
            config = made.all_samplers_map.get(name, made.samplers[0])
            if convert_automatic and config.options.get("scheduler") == found.name:
                found = schedules.schedulers[0]
            return config.name, found.label

        made.set_samplers, made.create_sampler = set_samplers, create_sampler
        made.get_sampler_and_scheduler = get_sampler_and_scheduler
        if self.kind == "forge":
            made.add_sampler = add_sampler
        set_samplers()

    def run(self, **settings: Any) -> "Processing":
        """Generate, as the buttons and the API do."""
        p = self.processing.StableDiffusionProcessingTxt2Img(**{"sd_model": self.model, **settings})
        p.processed = process_images(p)
        return p


def _euler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None) -> Tensor:
    sigmas = sigmas.to(x)
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


class _CFGDenoiser:
    web_ui: WebUI

    def __init__(self, sampler: Any):
        self.sampler, self.step, self.total_steps = sampler, 0, 0
        self.p: Any = None
        self.init_latent: Any = None
        self.mask: Any = None
        self.nmask: Any = None
        self.told: list[tuple[int, float]] = []  # of the test: the step and σ of each call

    @property
    def inner_model(self) -> Linker:
        return self.sampler.model_wrap

    def __call__(
        self, x: Tensor, sigma: Tensor, *, uncond: Any, cond: Any, cond_scale: float, s_min_uncond: float, image_cond: Any
    ) -> Tensor:
        web, state = self.web_ui, self.web_ui.state
        if state.interrupted or state.skipped:
            raise InterruptedException
        assert len(cond.batch) == len(x) == len(sigma)
        self.told.append((self.step, float(sigma[0])))
        if getattr(self.p, "is_hr_pass", False) and web.kind != "a1111":
            cond_scale = self.p.hr_cfg
        with_prompt = torch.tensor([prompts[0].at(self.step) for prompts in cond.batch])
        web.model.calls += 1
        conditional = predict(x, sigma, with_prompt)
        if cond_scale == 1 and web.kind != "a1111":
            other, denoised = torch.zeros_like(x), conditional
        else:
            other = predict(x, sigma, torch.tensor([schedule.at(self.step) for schedule in uncond]))
            denoised = other + (conditional - other) * cond_scale
        if web.kind == "a1111":
            for hear in web.listeners["cfg_denoised"]:
                hear(types.SimpleNamespace(x=torch.cat([conditional, other])))
        else:
            patcher = web.model.forge_objects.unet
            for function in patcher.model_options.get("sampler_post_cfg_function", []):
                arguments = {"denoised": denoised, "cond_denoised": conditional, "uncond_denoised": other, "uncond": uncond}
                denoised = function(arguments)
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask
        self.sampler.last_latent = denoised
        self.step += 1
        return denoised


class _KDiffusionSampler:
    web_ui: WebUI
    denoiser_kind: Any

    def __init__(self, funcname: Any, sd_model: Any, options: Any = None):
        assert callable(funcname)
        self.func: Any = funcname
        self.config: Any = None
        self.last_latent: Any = None
        self.options = options or {}
        self.model_wrap = Linker(sd_model)
        self.model_wrap_cfg = self.denoiser_kind(self)

    def get_sigmas(self, p: Any, steps: int) -> Tensor:
        opts = self.web_ui.opts
        discard = opts.always_discard_next_to_last_sigma
        steps += 1 if discard else 0
        name = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        if name == "Automatic":
            name = self.config.options.get("scheduler")
        scheduler = self.web_ui.schedules.schedulers_map.get(name)
        low, high = self.model_wrap.sigmas[0].item(), self.model_wrap.sigmas[-1].item()
        if scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(steps)
        else:
            if scheduler.label != "Automatic" and not p.is_hr_pass:
                p.extra_generation_params["Schedule type"] = scheduler.label
            elif scheduler.label != p.extra_generation_params.get("Schedule type"):
                p.extra_generation_params["Hires schedule type"] = scheduler.label
            named = {"inner_model": self.model_wrap} if scheduler.need_inner_model else {}
            sigmas = scheduler.function(n=steps, sigma_min=low, sigma_max=high, device="cpu", **named)
        if discard:
            sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
        return sigmas.cpu()

    def _launch(self, p: Any, steps: int, x: Tensor, sigmas: Tensor, cond: Any, uncond: Any) -> Tensor:
        model, state = self.model_wrap_cfg, self.web_ui.state
        model.p, model.step, model.mask, model.nmask = p, 0, p.mask, None if p.mask is None else 1 - p.mask
        parameters = inspect.signature(self.func).parameters
        named: dict[str, Any] = {}
        if "n" in parameters:
            named["n"] = len(sigmas) - 1
        if "sigma_min" in parameters:
            named |= {"sigma_min": LOW, "sigma_max": HIGH}
        if "sigmas" in parameters:
            named["sigmas"] = sigmas
        self.last_latent = x
        extra = {"cond": cond, "image_cond": x.new_zeros(len(x), 5, 1, 1), "uncond": uncond, "cond_scale": p.cfg_scale}
        extra["s_min_uncond"] = p.s_min_uncond
        state.sampling_steps, state.sampling_step = steps, 0

        def callback(told: dict[str, Any]) -> None:
            state.sampling_step = told["i"]

        try:
            return self.func(model, x, extra_args=extra, disable=True, callback=callback, **named)
        except InterruptedException:
            return self.last_latent

    def sample(self, p: Any, x: Tensor, cond: Any, uncond: Any, steps: Any = None, image_conditioning: Any = None) -> Tensor:
        steps = steps or p.steps
        sigmas = self.get_sigmas(p, steps)
        first = sigmas[0].double()
        start = torch.sqrt(1 + first**2) if self.web_ui.opts.sgm_noise_multiplier else first
        return self._launch(p, steps, x * start, sigmas, cond, uncond)

    def sample_img2img(
        self, p: Any, x: Tensor, noise: Tensor, cond: Any, uncond: Any, steps: Any = None, image_conditioning: Any = None
    ) -> Tensor:
        if steps is not None:
            asked = steps
            steps, t_enc = int(asked / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0, asked - 1
        else:
            steps = p.steps
            t_enc = int(min(p.denoising_strength, 0.999) * steps)
        sigmas = self.get_sigmas(p, steps)[steps - t_enc - 1 :]
        self.model_wrap_cfg.init_latent = x
        return self._launch(p, t_enc + 1, x + noise * sigmas[0].double(), sigmas, cond, uncond)


@dataclass
class Processing:
    """What runs, with the hosts' names. Noise is of the seed, one for each picture."""

    web_ui = None  # type: Any
    sd_model: Any = None
    prompt: Any = "a cat"
    negative_prompt: str = ""
    steps: int = 6
    cfg_scale: float = 3.0
    seed: int = 1
    width: int = 64
    height: int = 64
    batch_size: int = 1
    n_iter: int = 1
    sampler_name: str = "D-ODE"
    scheduler: str | None = None
    denoising_strength: float = 0.7
    init_latent: Any = None
    mask: Any = None
    enable_hr: bool = False
    hr_scheduler: str | None = None
    hr_second_pass_steps: int = 0
    s_min_uncond: float = 0.0
    refiner_checkpoint_info: Any = None
    refiner_switch_at: float | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    latents: list[Tensor] = field(default_factory=list)
    processed: Any = None
    is_hr_pass: bool = False
    sampler: Any = None

    def conds(self) -> tuple[Multicond, list[Schedule]]:
        prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt] * self.batch_size
        steps = self.steps

        def schedule(prompt: str) -> Schedule:
            if "|then|" not in prompt:  # the stand-in's form of [cat:dog:0.5]
                return Schedule([(steps, tilt_of(prompt))])
            first, second = prompt.split("|then|")
            return Schedule([(steps // 2, tilt_of(first)), (steps, tilt_of(second))])

        cond = Multicond((len(prompts),), [[schedule(prompt)] for prompt in prompts])
        return cond, [schedule(self.negative_prompt) for _ in prompts]

    def noise(self, scale: int = 1) -> Tensor:
        size = (4, scale * self.height // 8, scale * self.width // 8)
        seeds = [self.seed + i for i in range(self.batch_size)]
        return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds])

    def sample(self, cond: Any, uncond: Any) -> Tensor:
        create = self.web_ui.samplers.create_sampler
        self.sampler = create(self.sampler_name, self.sd_model)
        if self.init_latent is not None:
            return self.sampler.sample_img2img(self, self.init_latent, self.noise(), cond, uncond)
        samples = self.sampler.sample(self, self.noise(), cond, uncond)
        if not self.enable_hr:
            return samples
        self.is_hr_pass = True
        self.sampler = create(self.sampler_name, self.sd_model)
        larger = torch.nn.functional.interpolate(samples, scale_factor=2)
        steps = self.hr_second_pass_steps or self.steps
        samples = self.sampler.sample_img2img(self, larger, self.noise(2), cond, uncond, steps=steps)
        self.is_hr_pass = False
        return samples


@dataclass
class ProcessingOfForge(Processing):
    """With a guidance scale of its own for the second pass."""

    hr_cfg: float = 3.0


def process_images(p: Any) -> Any:
    """Which sampler and schedule are meant, the batches, and the parameters under the pictures."""
    p.sampler_name, p.scheduler = p.web_ui.samplers.get_sampler_and_scheduler(
        p.sampler_name, p.scheduler, convert_automatic=False
    )
    p.latents = []
    state = p.web_ui.state
    state.job_count = p.n_iter if state.job_count == -1 else state.job_count
    with torch.inference_mode():
        for _ in range(p.n_iter):
            if state.interrupted:
                break
            p.latents.extend(p.sample(*p.conds()))
    told = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, **p.extra_generation_params}
    text = ", ".join(f"{key}: {_quoted(value)}" for key, value in told.items() if value is not None)
    return types.SimpleNamespace(images=list(p.latents), infotexts=[text] * len(p.latents))


def _quoted(value: Any) -> str:
    """As the hosts write a value that holds a comma, a colon or a line break."""
    text = str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if any(c in text for c in ",:\n") else text


def installed(web: WebUI) -> None:
    """Make the stand-ins what is imported under these names."""
    for name in [name for name in sys.modules if name == "modules" or name.startswith("modules.")]:
        del sys.modules[name]
    sys.modules.update(web.modules)
