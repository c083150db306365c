"""Where the two outputs of classifier-free guidance come from: a pipeline joins them before its scheduler sees anything."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dode.diffusers.package import imported

_MODULES = ("unet", "transformer", "transformer_2")
Take = Callable[[Tensor, Tensor], None]


class DODEGuidance(imported("diffusers.guiders").ClassifierFreeGuidance):
    """Classifier-free guidance for modular pipelines that also hands both outputs to a scheduler.

    From ``DODEScheduler.guider``; its settings are those of ``diffusers.guiders.ClassifierFreeGuidance``.

    Example:
        >>> pipeline.update_components(guider=scheduler.guider(guidance_scale=5.0))  # doctest: +SKIP
    """

    take: Take | None = None

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> Any:
        """The guided prediction; both of its parts go to the scheduler."""
        if self.take is not None and pred_uncond is not None:
            self.take(pred_cond, pred_uncond)
        return super().forward(pred_cond, pred_uncond)


class Watch:
    """Listens to a pipeline's networks for their outputs, and can scale what goes in.

    Args:
        pipeline: with a ``unet`` or a ``transformer``.

    Attributes:
        outputs: what the networks gave since ``clear``.
        scale: what their input is multiplied by, where it is not None.
    """

    def __init__(self, pipeline: Any, scale: Callable[[], float | None]):
        self.outputs: list[Tensor] = []
        self._scale, self._reversed = scale, None
        self.modules: list[torch.nn.Module] = [
            module for name in _MODULES if isinstance(module := getattr(pipeline, name, None), torch.nn.Module)
        ]
        self._handles: list[Any] = []
        for module in self.modules:
            self._handles.append(module.register_forward_hook(self._after))
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))

    def remove(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.outputs = [], []

    def clear(self) -> None:
        """Forget what was heard."""
        self.outputs = []

    def begin(self) -> None:
        """Another picture begins."""
        self._reversed = None
        self.clear()

    def pair(self, joined: Tensor) -> tuple[Tensor, Tensor] | None:
        """The conditional and the unconditional output (B, …) since ``clear``, given what guidance made of the two (B, …);
        None where there were no two.

        Pipelines differ in which of the two comes first. With a guidance scale above 1, and guidance has no other, the joined
        one lies beyond the conditional one; once a picture this is looked up, which waits for the device.
        """
        heard = self.outputs
        if len(heard) == 1 and heard[0].shape[1:] == joined.shape[1:] and len(heard[0]) == 2 * len(joined):
            unconditional, conditional = heard[0].chunk(2)
        elif len(heard) == 2 and all(each.shape == joined.shape for each in heard):
            conditional, unconditional = heard
        else:
            return None
        if self._reversed is None:
            away, way = (joined - unconditional).double(), (conditional - unconditional).double()
            self._reversed = bool((away * way).sum() < 0.5 * way.square().sum())
        return (unconditional, conditional) if self._reversed else (conditional, unconditional)

    def _after(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        if isinstance(found, Tensor):
            self.outputs.append(found.detach())

    def _before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        factor = self._scale()
        if factor is None:
            return None
        if args:
            return (args[0] * factor, *args[1:]), kwargs
        name = "sample" if "sample" in kwargs else "hidden_states"
        return args, {**kwargs, name: kwargs[name] * factor}
