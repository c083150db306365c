"""A host in a process of its own, asked through HTTP."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class HostProcess:
    """A server under test; ``close`` ends it.

    Attributes:
        name: for messages.
        ready: a path that answers as soon as it has started.
        patience: seconds until then, at most.
        base: the folder with its data.
    """

    name: str
    ready: str
    patience: float
    pause = 0.2

    def __init__(self, base: Path):
        self.base, self.log_file, self.port = base, base / "server.log", free_port()

    def start(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> None:
        """Start it, and wait until it answers. Raises RuntimeError with the end of its log where it does not."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=cwd)
        end = time.monotonic() + self.patience
        while time.monotonic() < end and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(self.pause)
        self.close()
        raise RuntimeError(f"{self.name} did not start:\n{self.log()[-6000:]}")

    def _answers(self) -> bool:
        try:
            self.get(self.ready)
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

    def post(self, path: str, body: Any, timeout: float = 60) -> Any:
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text else None
