"""What people put around a sampler, as workflows: what works, and what says why not. ``test_situations.py`` runs them."""

from collections.abc import Callable
from typing import Any

from tests.comfy.graphs import ksampler, sampler_custom
from tests.comfy.workflow import Graph, link

Links = dict[str, Any]
CFG, STEPS = 2.0, 4
MODES: dict[str, Links] = {
    "paper": {},
    "balanced": {"mode": "balanced", "teacher": "euler", "samples": 4, "micro_batch": 4},
}
LAYER = "diffusion_model.time_embed.0"


def distill(graph: Graph, on: Links, **changes: Any) -> str:
    inputs = {name: on[name] for name in ("model", "positive", "negative", "latent") if name in on}
    inputs |= {"cfg": CFG, "solver": "euler", "steps": STEPS, "scheduler": "karras", "teacher": "as in the paper", "seed": 0}
    inputs |= {"teacher_substeps": 2, "samples": 4, "micro_batch": 2, "mode": "paper", "save_as": ""}
    if not changes.keys() & {"sigmas", "steps", "scheduler", "save_as"}:
        # From the middle on, where Distill Sampler does not measure how many steps are saved: that takes longer than the fit.
        changes["sigmas"] = link(graph.add("ManualSigmas", sigmas="7, 2, 0.6, 0"))
    return graph.add("DODEDistillSampler", **{**inputs, **changes})


def patch(node: str, **inputs: Any) -> Callable[[Graph, Links], Links]:
    """A node that changes the model."""
    return lambda graph, on: {**on, "model": link(graph.add(node, model=on["model"], **inputs))}


def batch(graph: Graph, on: Links) -> Links:
    return {**on, "latent": link(graph.add("RepeatLatentBatch", samples=on["latent"], amount=3))}


def inpainting(graph: Graph, on: Links) -> Links:
    start = ksampler(graph, {**on, "latent": on["latent"]}, sampler_name="euler", seed=8)
    mask = graph.add("SolidMask", value=1.0, width=32, height=64)
    whole = graph.add("SolidMask", value=0.0, width=64, height=64)
    half = graph.add("MaskComposite", destination=link(whole), source=link(mask), x=0, y=0, operation="add")
    return {**on, "latent": link(graph.add("SetLatentNoiseMask", samples=link(start), mask=link(half)))}


def gradual(graph: Graph, on: Links) -> Links:
    return patch("DifferentialDiffusion", strength=1.0)(graph, inpainting(graph, on))


def area(graph: Graph, on: Links) -> Links:
    size = {"width": 32, "height": 64, "x": 0, "y": 0, "strength": 1.0}
    left = graph.add("ConditioningSetArea", conditioning=on["negative"], **{**size, "width": 64, "height": 64})
    both = graph.add("ConditioningCombine", conditioning_1=on["positive"], conditioning_2=link(left))
    return {**on, "positive": link(both)}


def masked(graph: Graph, on: Links) -> Links:
    mask = graph.add("SolidMask", value=0.7, width=64, height=64)
    part = graph.add("ConditioningSetMask", conditioning=on["negative"], mask=link(mask), strength=1.0, set_cond_area="default")
    both = graph.add("ConditioningCombine", conditioning_1=on["positive"], conditioning_2=link(part))
    return {**on, "positive": link(both)}


def timed(graph: Graph, on: Links) -> Links:
    early = graph.add("ConditioningSetTimestepRange", conditioning=on["positive"], start=0.0, end=0.4)
    late = graph.add("ConditioningSetTimestepRange", conditioning=on["negative"], start=0.4, end=1.0)
    both = graph.add("ConditioningCombine", conditioning_1=link(early), conditioning_2=link(late))
    return {**on, "positive": link(both)}


def control(graph: Graph, on: Links) -> Links:
    image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0xFF8000)
    net = graph.add("DodeTestControl")
    words = {"positive": on["positive"], "negative": on["negative"]}
    options = {"strength": 0.3, "start_percent": 0.0, "end_percent": 0.6}
    applied = graph.add("ControlNetApplyAdvanced", control_net=link(net), image=link(image), **words, **options)
    return {**on, "positive": link(applied), "negative": link(applied, 1)}


def lora(graph: Graph, on: Links) -> Links:
    loader = graph.add("LoraLoaderModelOnly", model=on["model"], lora_name="small.safetensors", strength_model=1.0)
    return {**on, "model": link(loader)}


def hook(graph: Graph, on: Links, keyframes: bool = False) -> Links:
    hooks = link(graph.add("CreateHookLora", lora_name="small.safetensors", strength_model=1.0, strength_clip=0.0))
    if keyframes:
        frame = graph.add("CreateHookKeyframe", strength_mult=0.2, start_percent=0.5)
        hooks = link(graph.add("SetHookKeyframes", hooks=hooks, hook_kf=link(frame)))
    named = graph.add("ConditioningSetProperties", cond_NEW=on["positive"], strength=1.0, set_cond_area="default", hooks=hooks)
    return {**on, "positive": link(named)}


CACHE = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
FREEU = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
WINDOWS = {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1, "dim": 2}
WINDOWS |= {"closed_loop": False, "fuse_method": "pyramid", "freenoise": False, "cond_retain_index_list": ""}
WINDOWS |= {"split_conds_to_windows": False, "latent_retain_index_list": "", "causal_window_fix": True}
WORKS: dict[str, Callable[[Graph, Links], Links]] = {
    "a batch of three": batch,
    "an inpainting mask on a picture": inpainting,
    "a gradual mask (Differential Diffusion)": gradual,
    "a prompt for an area": area,
    "a prompt for a mask": masked,
    "prompts for parts of the time": timed,
    "ControlNet": control,
    "LoRA": lora,
    "a LoRA hook": hook,
    "FreeU": patch("FreeU_V2", **FREEU),
    "self-attention guidance": patch("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "perturbed attention": patch("PerturbedAttentionGuidance", scale=3.0),
    "RescaleCFG": patch("RescaleCFG", multiplier=0.7),
    "projected guidance (APG)": patch("APG", eta=0.5, norm_threshold=5.0, momentum=0.0),
    "another guidance in the middle (CFG Override)": patch("CFGOverride", cfg=1.0, start_percent=0.4, end_percent=1.0),
    "no guidance at the start (CFG Override)": patch("CFGOverride", cfg=1.0, start_percent=0.0, end_percent=0.4),
    "tiles (HyperTile)": patch("HyperTile", tile_size=32, swap_size=2, max_depth=0, scale_depth=False),
    "merged tokens (ToMe)": patch("TomePatchModel", ratio=0.3),
    "zero terminal SNR set by a node": patch("ModelSamplingDiscrete", sampling="eps", zsnr=True),
}


GUIDERS: dict[str, tuple[str, Links]] = {
    "DualCFGGuider": ("regular", {"cond1": "positive", "cond2": "negative", "negative": "negative"}),
    "PerpNegGuider": ("", {"positive": "positive", "negative": "negative", "empty_conditioning": "negative"}),
    "DualModelGuider": ("", {"positive": "positive", "negative": "negative", "model_negative": "model"}),
    "BasicGuider": ("", {"conditioning": "positive"}),
}
SCALES = {
    "DualCFGGuider": {"cfg_conds": 2.0, "cfg_cond2_negative": 1.5, "style": "regular"},
    "PerpNegGuider": {"cfg": 2.0, "neg_scale": 0.5},
    "DualModelGuider": {"cfg": 2.0},
    "BasicGuider": {},
}


def guided(graph: Graph, on: Links, name: str, sampler: Any, sigmas: Any) -> str:
    noise = graph.add("RandomNoise", noise_seed=5)
    conds = {theirs: on[ours] for theirs, ours in GUIDERS[name][1].items()}
    guider = graph.add(name, model=on["model"], **conds, **SCALES[name])
    parts = {"noise": link(noise), "guider": link(guider), "sampler": sampler, "sigmas": sigmas, "latent_image": on["latent"]}
    return graph.save_latent(link(graph.add("SamplerCustomAdvanced", **parts)))


def flipped(graph: Graph, on: Links, **changes: Any) -> None:
    made = distill(graph, on, **changes)
    back = graph.add("FlipSigmas", sigmas=link(made, 2))
    graph.save_latent(link(sampler_custom(graph, on, link(made, 1), link(back), cfg=CFG)))


Build = Callable[..., object]  # (graph, links, **changes of the fit)


def sigmas(text: str) -> Build:
    def build(graph: Graph, on: Links, **changes: Any) -> None:
        distill(graph, on, **{**changes, "sigmas": link(graph.add("ManualSigmas", sigmas=text))})

    return build


def without_negative(graph: Graph, on: Links, **changes: Any) -> None:
    del on["negative"]
    distill(graph, on, **changes)


def overridden(graph: Graph, on: Links, **changes: Any) -> None:
    on = patch("CFGOverride", cfg=3.0, start_percent=0.2, end_percent=1.0)(graph, on)
    without_negative(graph, on, **changes, cfg=1.0)


def on_patched(change: Callable[[Graph, Links], Links]) -> Build:
    return lambda graph, on, **changes: distill(graph, change(graph, on), **changes)


# What is refused in each mode, and by which words.
SAYS: dict[str, tuple[Build, str]] = {
    "sampling on flipped sigmas": (flipped, "strictly descending"),
    "the same noise level twice": (sigmas("10, 5, 5, 0"), "strictly descending"),
    "sigmas without a step": (sigmas("10"), "hold no step"),
    "no negative with guidance": (without_negative, "needs a negative prompt"),
    "no negative, and guidance by CFG Override": (overridden, "Connect negative"),
    "EasyCache": (on_patched(patch("EasyCache", **CACHE)), "has a step cache"),
    "LazyCache": (on_patched(patch("LazyCache", **CACHE)), "has a step cache"),
    "windows over a batch of frames": (
        on_patched(patch("ContextWindowsManual", **{**WINDOWS, "dim": 0})),
        "a batch is one video",
    ),
    "guidance with momentum (APG)": (
        on_patched(patch("APG", eta=0.5, norm_threshold=5.0, momentum=-0.5)),
        "remembers earlier calls",
    ),
    "a patch that breaks with two samples": (on_patched(patch("DodeTestOneAtATime", how="breaks")), "set micro_batch to 1"),
    "a patch that gives NaN with two samples": (on_patched(patch("DodeTestOneAtATime", how="nan")), "set micro_batch to 1"),
    "a patch that mixes the samples of a batch": (on_patched(patch("DodeTestOneAtATime", how="mixes")), "set micro_batch to 1"),
    "hooks that change on the way": (on_patched(lambda graph, on: hook(graph, on, True)), "hooks with keyframes"),
}
NO_CHANNEL = "weigh the conditional and the unconditional output"  # what other guiders get with that channel
HIDDEN = "hides which guider there is"  # in another pack's sampler, with it
NO_END = sigmas("10, 5, 1"), "do not end at 0"  # in mode balanced
