"""The host's own guidance, over several prompts in one call."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from . import feature

CFGGuider: Any = feature("comfy.samplers:CFGGuider")
Sampler: Any = feature("comfy.samplers:Sampler")
Conditioning = list[Any]


class _Processed(Sampler):
    """Samples nothing; keeps the conditionings that the host has prepared for sampling."""

    conds: dict[str, Any]

    def sample(self, model_wrap: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any, *rest: Any, **named: Any) -> Any:
        self.conds = model_wrap.conds
        return noise


class PromptsGuider(CFGGuider):
    """Classifier-free guidance whose prompt can be switched between two model calls: ``use(number)``.

    The alternatives are worse. One ``sample`` call per prompt cannot go in lock-step, which the fit needs. Joining all prompts
    into one conditioning means something else to the host: that they apply together, to one picture.

    All prompts' conditionings go through the loading of the host together, so that ControlNets and hooks of every one are
    there. They are prepared for sampling one prompt at a time, through the host's own ``inner_sample``, because that lets
    conditionings borrow areas and controls from each other.
    """

    def set_prompts(self, positives: Sequence[Conditioning], negatives: Sequence[Conditioning]) -> None:
        """One positive conditioning for each prompt, and one negative for them all, or one for each."""
        self.places = [_slices(positives), _slices(negatives) * (len(positives) if len(negatives) == 1 else 1)]
        self.set_conds(*([part for each in many for part in each] for many in (positives, negatives)))

    def inner_sample(self, noise: Any, latent_image: Any, device: Any, sampler: Any, *args: Any, **named: Any) -> Any:
        everything = self.conds
        self.prepared: list[dict[str, Any]] = []
        try:
            for positive, negative in zip(*self.places, strict=True):
                own = {"positive": everything["positive"][positive], "negative": everything["negative"][negative]}
                self.conds = {**everything, **own}
                keeper = _Processed()
                super().inner_sample(noise, latent_image, device, keeper, *args, **named)
                self.prepared.append(keeper.conds)
            self.conds = everything
            return super().inner_sample(noise, latent_image, device, _Prepared(sampler, self), *args, **named)
        finally:
            self.conds = everything  # what the host loaded is what it has to clean up

    def use(self, number: int) -> None:
        """Make this prompt the current one."""
        self.conds = self.prepared[number]


def _slices(conditionings: Sequence[Conditioning]) -> list[slice]:
    """Where each of them is, once they are one after the other."""
    ends = list(accumulate(len(each) for each in conditionings))
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class _Prepared(Sampler):
    """The sampler to run, with the first prompt in use when it starts."""

    def __init__(self, sampler: Any, guider: PromptsGuider):
        self.sampler, self.guider = sampler, guider

    def sample(self, *args: Any, **named: Any) -> Any:
        self.guider.use(0)
        return self.sampler.sample(*args, **named)
