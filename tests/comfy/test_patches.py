"""What is put on the model is there while it is distilled: a LoRA through the host's own loader."""

import numpy as np
import torch
from safetensors.torch import save_file

from dode.demo.model import embedded_model
from dode.files.parameter_file import load_parameters
from tests.comfy.graphs import demo, distill
from tests.comfy.server import ComfyServer
from tests.comfy.workflow import Graph, link


def test_a_lora_is_part_of_what_is_distilled(comfy: ComfyServer) -> None:
    """λ with the LoRA differs from that of the plain model; a LoRA of strength 0 changes nothing."""
    weight = embedded_model().network.mix_embedding.weight
    down = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0))
    up = 0.3 * torch.randn(weight.shape[0], 2, generator=torch.Generator().manual_seed(1))
    loras = comfy.base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    name = "diffusion_model.mix_embedding"
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, loras / "some.safetensors")

    found = {}
    for label in ("plain", "with a LoRA", "none of it"):
        graph = Graph()
        on = demo(graph)
        if label != "plain":
            strength = 1.0 if label == "with a LoRA" else 0.0
            loader = graph.add("LoraLoaderModelOnly", model=on["model"], lora_name="some.safetensors", strength_model=strength)
            on["model"] = link(loader)
        distill(graph, on, save_as=f"patches/{label}", cfg=1.0)
        run = comfy.run(graph.prompt)
        assert run.status == "success", run.error
        path = comfy.base / "output" / "dode" / "patches" / f"{label}.safetensors"
        found[label] = load_parameters(path).entries[0].parameters.values
    assert np.array_equal(found["plain"], found["none of it"])
    assert np.abs(found["plain"] - found["with a LoRA"]).max() > 1e-3
