"""Workflows of the page's tests: the demo model, small and quick."""

from typing import Any

DISTILL, LOAD, INSPECT, COMPARE = "DODEDistillSampler", "DODELoad", "DODEInspect", "DODECompare"
EXAMPLE = "demo_model_6_steps.safetensors"

Nodes = dict[str, tuple[str, dict[str, Any]]]
Links = list[tuple[str, int, str, str]]

DEMO: Nodes = {
    "demo": ("DODEDemoModel", {"width": 16, "height": 16, "batch_size": 2}),
    "positive": ("CLIPTextEncode", {"text": "a landscape"}),
    "negative": ("CLIPTextEncode", {"text": ""}),
}
TEXTS: Links = [("demo", 1, "positive", "clip"), ("demo", 1, "negative", "clip")]


def distilling(**values: Any) -> tuple[Nodes, Links]:
    """A distillation of a few seconds."""
    quick = {"cfg": 2.0, "steps": 5, "samples": 24, "micro_batch": 8, "teacher_substeps": 6}
    nodes: Nodes = {**DEMO, "distill": ("DODEDistillSampler", {**quick, **values})}
    sockets = [("demo", 0, "model"), ("positive", 0, "positive"), ("negative", 0, "negative"), ("demo", 3, "latent")]
    return nodes, [*TEXTS, *((node, output, "distill", name) for node, output, name in sockets)]


def stopping(hold: str, **values: Any) -> tuple[Nodes, Links]:
    """A distillation whose model waits at the first call after the page was told of a stage, until somebody stops the fit."""
    nodes, links = distilling(**{"mode": "balanced", "solver": "euler", "steps": 3, "samples": 4, **values})
    nodes["fault"] = ("DodeTestFault", {"kind": "none", "hold": hold})
    ours = [("demo", 0, "fault", "model"), ("fault", 0, "distill", "model")]
    return nodes, [*(each for each in links if each != ("demo", 0, "distill", "model")), *ours]


def loading(model: str = "demo", **values: Any) -> tuple[Nodes, Links]:
    """Load with a model, and Inspect, which makes it run."""
    nodes: Nodes = {"demo": DEMO["demo"], "load": ("DODELoad", values), "inspect": ("DODEInspect", {})}
    if model != "demo":
        nodes["demo"] = ("DodeTestModel", {"kind": model})
    return nodes, [("demo", 0, "load", "model"), ("load", 0, "inspect", "parameters")]


def everything(save_as: str) -> tuple[Nodes, Links]:
    """All nodes with panels: a fit, what it made, the example file and its comparison."""
    nodes, links = comparing()
    fitted, wired = distilling(mode="paper", solver="euler", save_as=save_as)
    nodes |= {"distill": fitted["distill"], "inspect": ("DODEInspect", {})}
    own = [each for each in wired if each not in links]
    return nodes, [*links, *own, ("demo", 0, "load", "model"), ("distill", 0, "inspect", "parameters")]


def comparing() -> tuple[Nodes, Links]:
    """The example file, compared on two pictures."""
    nodes: Nodes = {**DEMO, "load": ("DODELoad", {"file": EXAMPLE})}
    nodes["compare"] = ("DODECompare", {"cfg": 3.0, "reference_substeps": 4})
    sockets = [("demo", 0, "model"), ("load", 0, "parameters"), ("positive", 0, "positive"), ("negative", 0, "negative")]
    sockets += [("demo", 3, "latent"), ("demo", 2, "vae")]
    return nodes, [*TEXTS, *((node, output, "compare", name) for node, output, name in sockets)]
