"""A node for the tests: what a sampling call costs beside the model, in processor time of its thread."""

import logging
import time
from typing import Any

import comfy.patcher_extension


class Clock:
    """Logs, whenever a sampling call ends, so far: time of all of them, the guider's part, its calls, wall time."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "label": ("STRING", {})}}

    def patch(self, model: Any, label: str) -> tuple[Any]:
        clock = time.thread_time
        spent = {"total": 0.0, "guider": 0.0, "calls": 0, "wall": 0.0}

        def outer(executor: Any, *arguments: Any, **named: Any) -> Any:
            start, wall = clock(), time.perf_counter()
            try:
                return executor(*arguments, **named)
            finally:
                spent["total"] += clock() - start
                spent["wall"] += time.perf_counter() - wall
                logging.info("clock %s: %r %r %r %r", label, *spent.values())

        def predict(executor: Any, *arguments: Any, **named: Any) -> Any:
            start = clock()
            try:
                return executor(*arguments, **named)
            finally:
                spent["guider"] += clock() - start
                spent["calls"] += 1

        patched = model.clone()
        kinds = comfy.patcher_extension.WrappersMP
        patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, "clock", outer)
        patched.add_wrapper_with_key(kinds.PREDICT_NOISE, "clock", predict)
        return (patched,)
