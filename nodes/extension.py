"""What ComfyUI gets: the nodes this host can run, the model folder, and the entries in KSampler's lists."""

import importlib
from typing import Any

from . import library
from .host import MissingFeature, feature, log

ComfyExtension: Any = feature("comfy_api.latest:ComfyExtension")
_MODULES = ("distill", "prompts", "sampler", "parameters", "compare", "demo_model")


class DodeExtension(ComfyExtension):
    """A module whose host features are missing is left out, and the log says so; the others stay."""

    async def on_load(self) -> None:
        library.register_folder()
        try:
            module("ksampler").register()
        except MissingFeature as error:
            log.warning("D-ODE: the entry `dode` in KSampler is off, since %s.", error)
        try:
            module("page.routes").register()
        except MissingFeature as error:
            log.warning("D-ODE: import and download on the page are off, since %s.", error)

        try:
            module("page.library_list").register()
        except MissingFeature as error:
            log.warning("D-ODE: the page does not show which files fit a model, since %s.", error)

    async def get_node_list(self) -> list[type]:
        return [node for name in _MODULES for node in _nodes_of(name)]


def _nodes_of(name: str) -> list[type]:
    try:
        return module(name).NODES
    except MissingFeature as error:
        log.warning("D-ODE: the nodes in %s are off, since %s.", name, error)
        return []


def module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)
