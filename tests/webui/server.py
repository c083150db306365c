"""A real WebUI in a process of its own: the checkout of ``WEBUI_DIR``, with its data in another folder.

``WEBUI_PYTHON`` is the Python with what the WebUI requires; by default that of ``venv/`` in the checkout.
"""

import json
import os
from pathlib import Path
from typing import Any

from tests.host_process import HostProcess

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = (
    "--skip-prepare-environment",
    "--always-cpu",
    "--skip-torch-cuda-test",
    "--api",
    "--no-hashing",
    "--skip-version-check",
)
# An extension of the tests: the API gives pictures, and what is compared is the latent.
KEEPER = """
import os
import torch
from modules import scripts

class KeepLatents(scripts.Script):
    def title(self):
        return "keep latents"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def post_sample(self, p, ps, *args):
        torch.save(ps.samples.float().cpu(), os.environ["DODE_TEST_LATENTS"])
"""


class WebuiServer(HostProcess):
    """Starts on construction; ``close`` ends it. ``base`` is the folder with its models, settings and extensions."""

    name, ready, patience, pause = "The WebUI", "/sdapi/v1/samplers", 400.0, 0.5

    def __init__(self, base: Path):
        super().__init__(base)
        self.latents = base / "latents.pt"
        extensions = base / "extensions"
        (extensions / "dode-test-latents" / "scripts").mkdir(parents=True)
        (extensions / "dode-test-latents" / "scripts" / "keep_latents.py").write_text(KEEPER)
        (extensions / "D-ODE").symlink_to(ROOT, target_is_directory=True)
        folder = Path(os.environ["WEBUI_DIR"])
        python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
        command = [python, str(Path(__file__).with_name("launch.py")), str(folder), *FLAGS]
        command += ["--port", str(self.port), "--data-dir", str(base), "--no-download-sd-model"]
        # Else the page may have its own scripts and styles only where they lie in the folder with the data.
        command += ["--gradio-allowed-path", str(folder), "--gradio-allowed-path", str(ROOT)]
        environment = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "DODE_TEST_LATENTS": str(self.latents)}
        self.start(command, environment)

    def generate(self, kind: str = "txt2img", **settings: Any) -> dict[str, Any]:
        """The answer of /sdapi/v1/txt2img or img2img, with what stands under the first picture as ``infotext``."""
        usual = {"prompt": "a cat", "width": 64, "height": 64, "sampler_name": "D-ODE", "seed": 5, "cfg_scale": 3}
        # Forge asks for this one in the second pass of hires fix, and does not fill it in.
        data = {**usual, "hr_additional_modules": ["Use same choices"], **settings}
        found = self.post(f"/sdapi/v1/{kind}", data, timeout=300)
        info = json.loads(found["info"])
        return {**found, "infotext": info["infotexts"][0], "params": info["extra_generation_params"]}
