"""A node for the tests: a model on which something goes wrong on the way."""

import time
from typing import Any

import comfy.model_management
import torch


class Fault:
    """From the ``after``-th model call on, what ``kind`` says; every call takes ``seconds`` more."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"
    KINDS = ("none", "too many", "always too many", "nan", "inf", "error")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = {"default": 0, "min": 0, "max": 1 << 30}
        options = {"kind": (list(cls.KINDS),), "after": ("INT", number), "seconds": ("FLOAT", {"default": 0.0})}
        return {"required": {"model": ("MODEL",), **options}}

    def patch(self, model: Any, kind: str, after: int, seconds: float) -> tuple[Any]:
        calls = 0

        def wrapper(apply_model: Any, arguments: dict[str, Any]) -> Any:
            nonlocal calls
            calls += 1
            time.sleep(seconds)
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
