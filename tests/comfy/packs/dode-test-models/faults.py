"""A node for the tests: a model on which something goes wrong on the way."""

import sys
import time
from typing import Any

import comfy.model_management
import torch
from server import PromptServer

_PATIENCE = 60.0


class _Told:
    """Takes the place of the server's ``send_sync`` and knows the stage that the page was told of last."""

    def __init__(self, send: Any):
        self.send, self.stage = send, ""

    def __call__(self, event: str, data: Any, *rest: Any) -> None:
        self.send(event, data, *rest)
        if event == "dode.progress":
            self.stage = data["stage"]


_told = PromptServer.instance.send_sync = _Told(PromptServer.instance.send_sync)


def _asked_to_stop() -> bool:
    """Whether a fit was asked to stop and to keep what it has."""
    pack = next((module for name, module in [*sys.modules.items()] if name.endswith(".nodes.fitting.stopping")), None)
    return pack is not None and any(asked.is_set() for fits in [*pack._running.values()] for asked in fits)


class Fault:
    """From the ``after``-th model call on, what ``kind`` says; every call takes ``seconds`` more.

    Once the page was told of stage ``hold``, the next call waits until the user cancels, or stops the fit.
    """

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"
    KINDS = ("none", "too many", "always too many", "nan", "inf", "error")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = {"default": 0, "min": 0, "max": 1 << 30}
        options = {"kind": (list(cls.KINDS),), "after": ("INT", number), "seconds": ("FLOAT", {"default": 0.0})}
        options["hold"] = ("STRING", {"default": ""})
        return {"required": {"model": ("MODEL",), **options}}

    def patch(self, model: Any, kind: str, after: int, seconds: float, hold: str) -> tuple[Any]:
        calls = 0

        def wrapper(apply_model: Any, arguments: dict[str, Any]) -> Any:
            nonlocal calls
            calls += 1
            time.sleep(seconds)
            if hold and _told.stage == hold:
                _told.stage, end = "", time.monotonic() + _PATIENCE
                while not (comfy.model_management.processing_interrupted() or _asked_to_stop()) and time.monotonic() < end:
                    time.sleep(0.01)
            x = arguments["input"]
            if calls > after:
                if kind == "always too many" or (kind == "too many" and len(x) > 4):  # two of them for each sample
                    raise comfy.model_management.OOM_EXCEPTION("no memory left, says the test")
                if kind == "error":
                    raise RuntimeError("something broke, says the test")
            out = apply_model(x, arguments["timestep"], **arguments["c"])
            return torch.full_like(out, float(kind)) if calls > after and kind in ("nan", "inf") else out

        patched = model.clone()
        patched.set_model_unet_function_wrapper(wrapper)
        return (patched,)
