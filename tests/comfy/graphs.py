"""Workflows that several tests use: the demo model, small and quick."""

from typing import Any

from tests.comfy.workflow import Graph, link

SIZE = 16
STEPS, CFG = 4, 2.0


def watched(graph: Graph) -> dict[str, Any]:
    """A flow model that fails where a call's σ is not in the host's list of them: links by name."""
    made = graph.add("DodeTestModel", kind="flow")
    model = graph.add("DodeTestWatchSigmas", model=link(made))
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    return {"model": link(model), "positive": link(made, 1), "negative": link(made, 2), "latent": link(latent)}


def demo(graph: Graph, text: str = "a landscape", size: int = SIZE) -> dict[str, Any]:
    """Demo model with a prompt: links by name."""
    model = graph.add("DODEDemoModel", width=size, height=size, batch_size=1)
    positive = graph.add("CLIPTextEncode", clip=link(model, 1), text=text)
    negative = graph.add("CLIPTextEncode", clip=link(model, 1), text="")
    return {
        "model": link(model),
        "clip": link(model, 1),
        "vae": link(model, 2),
        "latent": link(model, 3),
        "positive": link(positive),
        "negative": link(negative),
    }


def model_of(graph: Graph, kind: str, dtype: str, batch: int = 1) -> dict[str, Any]:
    """Links by name to a small model of a kind."""
    node = graph.add("DodeTestKind", kind=kind, dtype=dtype, batch=batch)
    return {name: link(node, i) for i, name in enumerate(("model", "positive", "negative", "latent"))}


def distill(graph: Graph, on: dict[str, Any], **changes: Any) -> str:
    """A distillation of a few seconds."""
    inputs: dict[str, Any] = {name: on[name] for name in ("model", "positive", "negative", "latent")}
    inputs |= {"cfg": CFG, "solver": "euler", "steps": STEPS, "scheduler": "karras", "teacher": "as in the paper"}
    inputs |= {"teacher_substeps": 3, "samples": 8, "micro_batch": 4, "seed": 0, "mode": "paper", "save_as": ""}
    return graph.add("DODEDistillSampler", **{**inputs, **changes})


def ksampler(graph: Graph, on: dict[str, Any], **changes: Any) -> str:
    inputs = {"model": on["model"], "positive": on["positive"], "negative": on["negative"], "latent_image": on["latent"]}
    inputs |= {"seed": 5, "steps": STEPS, "cfg": CFG, "sampler_name": "dode", "scheduler": "karras", "denoise": 1.0}
    return graph.add("KSampler", **{**inputs, **changes})


def sampler_custom(graph: Graph, on: dict[str, Any], sampler: Any, sigmas: Any, **changes: Any) -> str:
    inputs = {"model": on["model"], "positive": on["positive"], "negative": on["negative"], "latent_image": on["latent"]}
    inputs |= {"add_noise": True, "noise_seed": 5, "cfg": CFG, "sampler": sampler, "sigmas": sigmas}
    return graph.add("SamplerCustom", **{**inputs, **changes})


def sampler_custom_advanced(graph: Graph, on: dict[str, Any], sampler: Any, sigmas: Any, cfg: float = CFG) -> str:
    noise = graph.add("RandomNoise", noise_seed=5)
    guider = graph.add("CFGGuider", model=on["model"], positive=on["positive"], negative=on["negative"], cfg=cfg)
    return graph.add(
        "SamplerCustomAdvanced",
        noise=link(noise),
        guider=link(guider),
        sampler=sampler,
        sigmas=sigmas,
        latent_image=on["latent"],
    )
