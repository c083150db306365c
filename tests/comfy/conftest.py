"""One real ComfyUI server for the whole run; tests that need another start their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comfy.server import ROOT, ComfyServer
from tests.comfyui import comfyui_dir

PACKS = Path(__file__).parent / "packs"


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with this pack and the test models."""
    server = ComfyServer(
        comfyui_dir(), tmp_path_factory.mktemp("comfy"), [ROOT, PACKS / "dode-test-models", PACKS / "dode-test-kinds"]
    )
    yield server
    server.close()
