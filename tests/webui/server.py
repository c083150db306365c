"""A real WebUI in a process of its own: the checkout of ``WEBUI_DIR``, with its data in another folder.

``WEBUI_PYTHON`` is the Python with what the WebUI requires; by default that of ``venv/`` in the checkout.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

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


class WebuiServer:
    """Starts on construction; ``close`` ends it. ``base`` is the folder with its models, settings and extensions."""

    def __init__(self, base: Path):
        self.base, self.log_file, self.latents = base, base / "server.log", base / "latents.pt"
        extensions = base / "extensions"
        (extensions / "dode-test-latents" / "scripts").mkdir(parents=True)
        (extensions / "dode-test-latents" / "scripts" / "keep_latents.py").write_text(KEEPER)
        (extensions / "D-ODE").symlink_to(ROOT, target_is_directory=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        folder = Path(os.environ["WEBUI_DIR"])
        python = os.environ.get("WEBUI_PYTHON", str(folder / "venv" / "bin" / "python"))
        command = [python, str(Path(__file__).with_name("launch.py")), str(folder), *FLAGS]
        command += ["--port", str(self.port), "--data-dir", str(base), "--no-download-sd-model"]
        # Else the page may have its own scripts and styles only where they lie in the folder with the data.
        command += ["--gradio-allowed-path", str(folder), "--gradio-allowed-path", str(ROOT)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
        environment["DODE_TEST_LATENTS"] = str(self.latents)
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self._wait()

    def _wait(self, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.5)
        self.close()
        raise RuntimeError(f"The WebUI did not start:\n{self.log()[-6000:]}")

    def _answers(self) -> bool:
        try:
            self.get("/sdapi/v1/samplers")
        except OSError:
            return False
        return True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def generate(self, kind: str = "txt2img", **settings: Any) -> dict[str, Any]:
        """The answer of /sdapi/v1/txt2img or img2img, with what stands under the first picture as ``infotext``."""
        usual = {"prompt": "a cat", "width": 64, "height": 64, "sampler_name": "D-ODE", "seed": 5, "cfg_scale": 3}
        # Forge asks for this one in the second pass of hires fix, and does not fill it in.
        data = json.dumps({**usual, "hr_additional_modules": ["Use same choices"], **settings}).encode()
        request = urllib.request.Request(f"{self.address}/sdapi/v1/{kind}", data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            found = json.loads(answer.read())
        info = json.loads(found["info"])
        return {**found, "infotext": info["infotexts"][0], "params": info["extra_generation_params"]}
