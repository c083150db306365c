"""ComfyUI as the nodes need it: every name taken from the host goes through here.

The host moves. A name that is not there raises ``MissingFeature``, which turns off the one node that needs it; the names
that a node can do without have a stand-in here.
"""

import logging
from collections.abc import Hashable
from typing import Any

from dode.host_names import Host
from dode.host_names import MissingFeature as MissingFeature

FLOOR = "0.16.3"
log = logging.getLogger("dode")


_host = Host(
    "this ComfyUI",
    f"The pack is made for ComfyUI {FLOOR} and newer; update ComfyUI, and the pack if that does not help",
)
feature, optional = _host.feature, _host.optional

io = feature("comfy_api.latest:io")
ui = feature("comfy_api.latest:ui")
folder_paths = feature("folder_paths")

# Socket types of this pack. An Entry of dode.files.parameter_file; a list of conditionings, one for each prompt.
Params = io.Custom("DODE_PARAMS")
Prompts = io.Custom("DODE_PROMPTS")
CATEGORY = "model/sampling/D-ODE"


_said: set[str] = set()
_MOST_QUESTIONS = 256
_answers: dict[Hashable, tuple[tuple[str, int], ...]] = {}


def say_once(text: str, level: int = logging.WARNING) -> None:
    """Write a line to the log, unless it stands there since the start."""
    if text not in _said:
        _said.add(text)
        log.log(level, "D-ODE: %s", text)


def say_changed(question: Hashable, *lines: tuple[str, int]) -> None:
    """Write lines to the log, texts and their levels, unless they are the last answer to this question already."""
    if _answers.pop(question, None) != lines:
        for text, level in lines:
            log.log(level, "D-ODE: %s", text)
    if len(_answers) >= _MOST_QUESTIONS:
        _answers.pop(next(iter(_answers)))
    _answers[question] = lines


def interrupted() -> None:
    """Raise the host's own exception if the user has pressed cancel."""
    feature("comfy.model_management:throw_exception_if_processing_interrupted")()


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the compute device has no memory left."""
    asked = optional("comfy.model_management:is_oom")
    kind = optional("comfy.model_management:OOM_EXCEPTION")
    told = "out of memory" in str(error).lower() and isinstance(error, RuntimeError)  # as some devices say it
    known = kind is not None and kind is not Exception and isinstance(error, kind)
    return told or known or bool(asked is not None and kind is not Exception and asked(error))


def free_cache() -> None:
    """Give back memory that the device's allocator holds and nothing uses."""
    feature("comfy.model_management:soft_empty_cache")()


def send_text(text: str, node_id: str | None) -> None:
    """Show a line on a node, where this host can."""
    server = getattr(optional("server:PromptServer"), "instance", None)
    if server is not None and node_id and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def send_event(name: str, data: dict[str, Any]) -> None:
    """Send plain JSON to the page that queued the workflow, where this host can."""
    server = getattr(optional("server:PromptServer"), "instance", None)
    if server is not None and hasattr(server, "send_sync"):
        server.send_sync(name, data, getattr(server, "client_id", None))


def previewer(model: Any) -> Any:
    """The host's previewer for a model's latents, or None."""
    get = optional("latent_preview:get_previewer")
    return get(model.load_device, model.get_model_object("latent_format")) if get else None
