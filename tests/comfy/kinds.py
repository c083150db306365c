"""The matrix of model kinds: what works on each, in each precision, found out in a real ComfyUI.

    python -m tests.comfy.kinds > docs/models.md

prints the table again; ``test_models.py`` compares it with the committed one.
"""

import sys
import tempfile
from pathlib import Path

import torch

from dode.files.parameter_file import load_parameters
from tests.comfy.conftest import PACKS
from tests.comfy.graphs import model_of, sampler_custom, sampler_custom_advanced
from tests.comfy.server import ROOT, ComfyServer, Run
from tests.comfy.situations import GUIDERS, HIDDEN, NO_CHANNEL, NO_END, SAYS, WORKS
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

# As the pack dode-test-kinds names them: the kind of prediction, the usual schedule, and a solver whose corrections help.
KINDS = {
    "SD1.5": ("eps", "karras", "dpmpp_2m"),
    "SD2, v": ("v", "karras", "dpmpp_2m"),
    "SDXL": ("eps", "karras", "dpmpp_2m"),
    "SDXL, v, zero terminal SNR": ("v", "simple", "dpmpp_2m"),
    "EDM (Playground 2.5)": ("edm", "karras", "dpmpp_2m"),
    "Stable Cascade, stage C": ("eps", "simple", "dpmpp_2m"),
    "SD3": ("flow", "simple", "dpmpp_2m"),
    "Flux": ("flow", "beta", "dpmpp_2m"),
    "Lumina 2": ("flow", "simple", "dpmpp_2m"),
    "Cosmos Predict 2": ("rflow", "karras", "euler"),
    "Wan 2.1, video": ("flow", "simple", "dpmpp_2m"),
    "LTX, video": ("flow", "simple", "dpmpp_2m"),
    "LTX, video and sound": ("flow", "simple", "euler"),
    "PixelDiT, pixels": ("flow", "normal", "dpmpp_2m"),
}
# How far λ = 0 may be from the host's own sampler, in units of its largest number, and a guidance scale to tell files apart.
DTYPES = {"fp32": (2e-5, 2.0), "fp16": (1e-2, 2.5), "bf16": (1e-1, 3.0)}
STEPS = 4
_TRIED_BY_THEMSELVES = (
    "context windows on a video",
    "KSamplerAdvanced in parts, with leftover noise",
    "denoise below 1: the end of the grid",
    "no steps: nothing changes",
    "one step",
    "σ beyond the model's largest",
    "sampling with EasyCache or LazyCache",
)


def save_all(graph: Graph, kind: str, node: str) -> list[str]:
    """SaveLatent for each part of a latent."""
    if "sound" not in kind:
        return [graph.save_latent(link(node))]
    parts = graph.add("LTXVSeparateAVLatent", av_latent=link(node))
    return [graph.save_latent(link(parts, i)) for i in range(2)]


def check(comfy: ComfyServer, kind: str, dtype: str, mode: str = "paper") -> list[str]:
    """What does not work on a kind, in words; empty where everything does."""
    bound, cfg = DTYPES[dtype]
    prediction, scheduler, usual = KINDS[kind]
    name = f"kinds/{list(KINDS).index(kind)}_{dtype}_{mode}"

    graph = Graph()
    on = model_of(graph, kind, dtype)
    inputs = {"cfg": cfg, "solver": usual, "steps": STEPS, "scheduler": scheduler, "seed": 0, "mode": mode, "save_as": name}
    inputs |= {"teacher": "as in the paper" if mode == "paper" else "euler", "teacher_substeps": 2}
    inputs |= {"samples": 4, "micro_batch": 3}
    made = graph.add("DODEDistillSampler", **on, **inputs)
    sigmas = link(graph.add("DODESigmas", parameters=link(made)))
    zero = link(graph.add("DODESampler", parameters=link(made), strength=0.0))
    stock = link(graph.add("KSamplerSelect", sampler_name=usual))
    fresh = save_all(graph, kind, sampler_custom_advanced(graph, on, link(made, 1), sigmas, cfg=cfg))
    undistilled = save_all(graph, kind, sampler_custom(graph, on, zero, sigmas, cfg=cfg))
    hosts = save_all(graph, kind, sampler_custom(graph, on, stock, sigmas, cfg=cfg))
    first = comfy.run(graph.prompt)
    if first.status != "success":
        return [f"distilling: {first.error[:300]}"]

    graph = Graph()
    on = model_of(graph, kind, dtype)
    loaded = graph.add("DODELoad", file=f"{name}.safetensors", steps=STEPS, model=on["model"])
    advanced = save_all(graph, kind, sampler_custom_advanced(graph, on, link(loaded, 1), link(loaded, 2), cfg=cfg))
    plain = {"seed": 5, "steps": STEPS, "cfg": cfg, "sampler_name": "dode", "scheduler": scheduler, "denoise": 1.0}
    if mode != "paper":
        plain["scheduler"] = "dode"
    on["latent_image"] = on.pop("latent")
    simple = save_all(graph, kind, graph.add("KSampler", **on, **plain))
    second = comfy.run(graph.prompt)
    if second.status != "success":
        return [f"loading and sampling: {second.error[:300]}"]

    def read(run: Run, nodes: list[str]) -> torch.Tensor:
        return torch.cat([comfy.latent(run, node).flatten() for node in nodes])

    (entry,) = load_parameters(comfy.base / "output" / "dode" / f"{name}.safetensors").entries
    distilled, again, ksampler = read(first, fresh), read(second, advanced), read(second, simple)
    base, theirs = read(first, undistilled), read(first, hosts)
    difference = float((base - theirs).abs().max() / theirs.abs().max())
    report = entry.report
    assert report is not None
    complaints = {
        f"the file says {entry.model.family}": entry.model.family != classes_of(comfy)[kind].split()[0],
        f"the file says {entry.model.prediction!r}": entry.model.prediction != prediction,
        "NaN or infinity": not all(torch.isfinite(x).all() for x in (distilled, again, ksampler, base)),
        "nothing was learned": mode == "paper" and torch.equal(base, distilled),
        "worse than undistilled on held-out samples": not report.error_distilled <= report.error_base,
        "another latent after loading": not torch.equal(distilled, again),
        "another latent by KSampler": not torch.equal(again, ksampler),
        f"λ = 0 differs from stock by {difference:.1e}": mode == "paper" and difference > bound,
    }
    return [complaint for complaint, wrong in complaints.items() if wrong]


def classes_of(comfy: ComfyServer) -> dict[str, str]:
    """The host's class of each kind, and the shape of its latents."""
    described = comfy.get("/object_info/DodeTestKind")["DodeTestKind"]["description"]
    return dict(line.split(": ") for line in described.splitlines())


def table(comfy: ComfyServer, found: dict[tuple[str, str], list[str]]) -> str:
    """The committed document: what was found for each kind and precision."""
    classes = classes_of(comfy)
    bounds = ", ".join(f"{bound:g} in {dtype}" for dtype, (bound, _) in DTYPES.items())
    lines = [
        "# Model kinds",
        "",
        "Printed by `python -m tests.comfy.kinds`, and again by every run of the tests, which compare. Each model is ComfyUI's "
        "own class and network, built small with random weights. Yes means: distilled (mode `paper`, four steps of DPM++ 2M or "
        "Euler, guidance 2 to 3), saved, loaded in another graph, and sampled by SamplerCustomAdvanced before and after "
        "loading and by KSampler, with the same seed and bit for bit the same latent each time; no NaN; not worse than "
        "undistilled on "
        "held-out samples; and at λ = 0 ComfyUI's own sampler, but for rounding: no further from it than this part of its "
        "largest number: "
        f"{bounds}.",
        "",
        f"| kind | ComfyUI's class | latent | prediction | {' | '.join(DTYPES)} |",
        f"|---|---|---|---|{'---|' * len(DTYPES)}",
    ]
    for kind, (prediction, _, _) in KINDS.items():
        cells = ["; ".join(found[kind, dtype]) or "yes" for dtype in DTYPES]
        config, shape = classes[kind].split(" ", 1)
        lines.append(f"| {kind} | {config} | {shape} | {prediction} | {' | '.join(cells)} |")
    lines += ["", "## In the graph", ""]
    lines.append(
        "What people put around a sampler, on the small SD 1.5 (windows: on Wan), tried by `tests/comfy/test_situations.py` in "
        "modes `paper` and `balanced`. Works means: distilled with it and sampled with it, and at λ = 0 the same as ComfyUI's "
        "Euler in the same place. A fit of mode `balanced` under guidance has the guidance channel, which needs the usual "
        "guider."
    )
    lines += ["", "| situation | mode `paper` | mode `balanced` |", "|---|---|---|"]

    def row(name: str, paper: str, balanced: str = "") -> str:
        return f"| {name} | {paper} | {balanced or paper} |"

    def refused(message: str) -> str:
        return f"refused: “… {message} …”"

    lines += [row(name, "works") for name in (*WORKS, *_TRIED_BY_THEMSELVES)]
    lines += [row(name, "works", refused(NO_CHANNEL)) for name in GUIDERS]
    lines.append(row("a sampler inside another pack's, which hides the guider", "works", refused(HIDDEN)))
    lines.append(row("σ that never reaches 0", "works", refused(NO_END[1])))
    lines.append(row("KSamplerAdvanced with a forced end", "the plain solver, and the log says so"))
    lines += [row(name, refused(message)) for name, (_, message) in SAYS.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        packs = [ROOT, PACKS / "dode-test-models", PACKS / "dode-test-kinds"]
        comfy = ComfyServer(comfyui_dir(), Path(folder), packs)
        try:
            found = {}
            for kind in KINDS:
                for dtype in DTYPES:
                    found[kind, dtype] = check(comfy, kind, dtype)
                    print(kind, dtype, found[kind, dtype], file=sys.stderr)
            print(table(comfy, found), end="")
        finally:
            comfy.close()


if __name__ == "__main__":
    main()
