"""Prompts as a pipeline's arguments: texts are encoded once, where the pipeline says how."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dode.errors import FitError

# What `encode_prompt` gives, as arguments of the pipeline, in its order; "" for what is none.
_LAYOUTS = (
    ("prompt_embeds", "negative_prompt_embeds"),
    ("prompt_embeds", "pooled_prompt_embeds", ""),
    ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"),
)


class Conditions:
    """Arguments of a pipeline for batches of prompts.

    Args:
        prompts: texts, or arguments for one prompt each.
        negative: for texts.
        scale: guidance scale; None where the pipeline knows none.

    Raises:
        FitError: arguments whose tensors do not hold one prompt.
    """

    def __init__(self, pipeline: Any, prompts: Sequence[str | Mapping[str, Any]], negative: str | None, scale: float | None):
        self._each = [
            _encoded(pipeline, prompt, negative, scale) if isinstance(prompt, str) else dict(prompt) for prompt in prompts
        ]
        for number, each in enumerate(self._each):
            for name, value in each.items():
                if isinstance(value, Tensor) and len(value) != 1:
                    raise FitError(f"Prompt {number}: {name} must hold one prompt, got {len(value)}.")

    def of(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The arguments for a batch of prompts, given by their numbers."""
        chosen = [self._each[number] for number in numbers]
        found: dict[str, Any] = {}
        for name, value in chosen[0].items():
            values = [each[name] for each in chosen]
            if isinstance(value, Tensor):
                found[name] = torch.cat(values)
            elif isinstance(value, str):
                found[name] = values
            else:
                found[name] = value
        return found


def _encoded(pipeline: Any, prompt: str, negative: str | None, scale: float | None) -> dict[str, Any]:
    """A text's embeddings; the text itself, where it is not known what the pipeline's encoder gives."""
    text = {"prompt": prompt} | ({} if negative is None else {"negative_prompt": negative})
    encode = getattr(pipeline, "encode_prompt", None)
    if encode is None:
        return text
    takes, known = inspect.signature(encode).parameters, inspect.signature(pipeline.__call__).parameters
    options = {
        "device": getattr(pipeline, "_execution_device", None),
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
        "do_classifier_free_guidance": scale is not None and scale > 1,
        "prompt_2": None,
        "prompt_3": None,
    }
    with torch.no_grad():
        given = encode(**{name: value for name, value in (options | text).items() if name in takes})
    layout = next((each for each in _LAYOUTS if len(each) == len(given) and {*each} - {""} <= set(known)), None)
    if layout is None or not all(isinstance(value, Tensor) or value is None for value in given):
        return text
    left = {name: value for name, value in text.items() if name not in takes}
    return left | {name: value for name, value in zip(layout, given, strict=True) if name and value is not None}
