"""A ComfyUI server in a process of its own, and a client that speaks its HTTP and websocket API."""

import asyncio
import io
import json
import re
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.host_process import HostProcess

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT, PREVIEWS = 3, (1, 4)
Prompt = dict[str, dict[str, Any]]


@dataclass
class Run:
    """What happened to one queued workflow.

    Attributes:
        status: "success", "error", "interrupted" or "refused" (the server did not take it).
        outputs: what nodes sent to the page, by node id.
        executed: ids of the nodes that ran; the others came from the cache.
        error: the exception's message, or the server's reason for refusing.
        messages: every JSON message of the websocket; previews: how many pictures came; texts: progress texts.
        seconds: from queueing to the end.
    """

    status: str = ""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    error: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    previews: int = 0
    texts: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def progress(self, node: str) -> list[tuple[float, float]]:
        """(value, maximum) of a node's progress bar, in the order sent."""
        states = [m["data"]["nodes"].get(node) for m in self.messages if m["type"] == "progress_state"]
        return [(s["value"], s["max"]) for s in states if s]


class ComfyServer(HostProcess):
    """Starts on construction, with more ``arguments`` if any; ``close`` ends it.

    ``base`` is the folder with its models, output, user and custom_nodes.
    """

    name, ready, patience = "ComfyUI", "/system_stats", 240.0

    def __init__(
        self,
        folder: Path,
        base: Path,
        packs: Sequence[Path] = (ROOT,),
        hide: Sequence[str] = (),
        arguments: Sequence[str] = (),
        device: str = "cpu",
    ):
        super().__init__(base)
        nodes = base / "custom_nodes"
        nodes.mkdir(parents=True, exist_ok=True)
        for pack in packs:
            link = nodes / ("d-ode" if pack == ROOT else pack.name)
            if not link.exists():
                link.symlink_to(pack, target_is_directory=True)
        command = [sys.executable, str(Path(__file__).with_name("launch.py")), str(folder)]
        command += [word for path in hide for word in ("--hide", path)]
        command += [
            "--",
            *(["--cpu"] if device == "cpu" else []),
            "--port",
            str(self.port),
            "--base-directory",
            str(base),
            "--preview-method",
            "latent2rgb",
        ]
        command += ["--disable-api-nodes", *arguments]
        self.start(command, {"PYTHONWARNINGS": "ignore"}, cwd=base)

    def import_seconds(self, name: str = "d-ode") -> float:
        """What the server printed as the pack's import time."""
        found = re.findall(rf"([\d.]+) seconds(?: \(IMPORT FAILED\))?: .*{re.escape(name)}$", self.log(), re.MULTILINE)
        return float(found[-1])

    def run(self, prompt: Prompt, watch: Callable[["Run"], None] | None = None, timeout: float = 300) -> Run:
        """Queue a workflow in API format and wait for its end. ``watch`` is called after every message."""
        return asyncio.run(asyncio.wait_for(self._run(prompt, watch), timeout))

    async def _run(self, prompt: Prompt, watch: Callable[["Run"], None] | None) -> Run:
        run, client, start = Run(), uuid.uuid4().hex, time.monotonic()
        url = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0) as ws:
            await ws.send_json({"type": "feature_flags", "data": {}})
            async with session.post(f"{url}/prompt", json={"prompt": prompt, "client_id": client}) as answer:
                body = await answer.json()
            if answer.status != 200:
                run.status, run.error = "refused", json.dumps(body)
                return run
            async for message in ws:
                if message.type == aiohttp.WSMsgType.BINARY:
                    self._binary(run, message.data)
                elif message.type == aiohttp.WSMsgType.TEXT and self._text(run, message.json(), body["prompt_id"]):
                    break
                if watch is not None:
                    watch(run)
        run.seconds = time.monotonic() - start
        return run

    @staticmethod
    def _binary(run: Run, data: bytes) -> None:
        kind = struct.unpack(">I", data[:4])[0]
        if kind in PREVIEWS:
            run.previews += 1
        elif kind == TEXT:
            length = struct.unpack(">I", data[4:8])[0]
            run.texts.append(data[8 + length :].decode())

    @staticmethod
    def _text(run: Run, message: dict[str, Any], prompt_id: str) -> bool:
        run.messages.append(message)
        kind, data = message["type"], message.get("data", {})
        if data.get("prompt_id") != prompt_id:
            return False
        if kind == "executing" and data.get("node") is not None:
            run.executed.append(data["node"])
        elif kind == "executed":
            run.outputs[data["node"]] = data["output"]
        elif kind == "execution_error":
            run.status, run.error = "error", f"{data['exception_type']}: {data['exception_message']}"
        elif kind == "execution_interrupted":
            run.status = "interrupted"
        elif kind == "execution_success":
            run.status = "success"
        return bool(run.status)

    def latent(self, run: Run, node: str) -> torch.Tensor:
        """The tensor that a SaveLatent node wrote."""
        saved = run.outputs[node]["latents"][0]
        return load_file(self.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]

    def picture(self, shown: dict[str, str]) -> torch.Tensor:
        """A picture that a node showed, (H, W, 3), 0 to 255."""
        query = urllib.parse.urlencode({name: shown[name] for name in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/view?{query}", timeout=60) as answer:
            return torch.from_numpy(np.array(Image.open(io.BytesIO(answer.read())).convert("RGB"), dtype=np.int16))
