"""The fit on pipelines of diffusers."""

from typing import Any

import pytest
import torch

import dode
from dode.diffusers import DODEScheduler, distill
from dode.diffusers.fitting import _Questions
from dode.errors import FitError, ModelError
from tests.pipelines import CALL, KINDS, sd3, sd15, sd15_prompt, sdxl_prompt
from tests.test_diffusers import ComfyUI, noise_like

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_makes_a_sampler_that_runs(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, prompt, call = KINDS[kind]
    pipeline = make()
    own = pipeline.scheduler
    prompts = [prompt(1, seed) for seed in range(2)]
    scale = call["guidance_scale"]
    rest = {name: value for name, value in call.items() if name != "guidance_scale"}
    (entry,) = distill(pipeline, prompts, steps=2, guidance_scale=scale, samples=4, call=rest)
    assert pipeline.scheduler is own
    assert capsys.readouterr().err == ""  # the pipeline's bar is off
    assert entry.report is not None
    assert entry.report.error_distilled < entry.report.error_base
    assert entry.evaluations == 2
    assert entry.guidance == scale
    guided = kind != "Flux"  # which is told the scale
    assert (entry.parameters.guidance is not None and bool(entry.parameters.guidance.any())) == guided
    DODEScheduler.from_parameters([entry], own).attach(pipeline)
    found = pipeline(**prompts[0], **call, **CALL, num_inference_steps=2)[0]
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_pipeline_as_a_denoiser(kind: str) -> None:
    pipeline, prompt = (sd3(), sdxl_prompt(2)) if kind == "flow" else (sd15(prediction=kind), sd15_prompt(2))
    x, sigma = noise_like(torch.empty(2, 4, 8, 8)), torch.full((2,), 0.6)
    wanted = ComfyUI(pipeline, kind, prompt, 3.0, True)(x, sigma)
    with _Questions(pipeline, {"guidance_scale": 3.0, "height": 8, "width": 8}, True) as model:
        model.probe(prompt)
        got = model(x, sigma, prompt)
    assert isinstance(got, dode.Guided)
    assert isinstance(wanted, dode.Guided)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_texts_are_encoded_once_and_the_bar_is_the_pipelines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = sd15()
    pipeline.set_progress_bar_config(disable=False, desc="mine")
    calls: list[Any] = []

    def encode_prompt(
        prompt: Any,
        device: Any,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Any = None,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if prompt_embeds is not None:
            return prompt_embeds, negative_prompt_embeds
        calls.append((prompt, negative_prompt))
        both = sd15_prompt(1, len(prompt))
        return both["prompt_embeds"], both["negative_prompt_embeds"]

    monkeypatch.setattr(pipeline, "encode_prompt", encode_prompt)
    options: dict[str, Any] = {"steps": [1, 2], "guidance_scale": 3.0, "samples": 4, "guidance_channel": False}
    found = distill(pipeline, ["a", "bb"], negative_prompt="none", **options)
    assert calls == [("a", "none"), ("bb", "none")]
    assert [entry.evaluations for entry in found] == [1, 2]
    assert not any(entry.parameters.guidance is not None and entry.parameters.guidance.any() for entry in found)
    assert "teacher" in capsys.readouterr().err
    pipeline.scheduler = DODEScheduler.from_parameters(found, pipeline.scheduler)  # needs no attach
    assert torch.isfinite(pipeline(**sd15_prompt(), **CALL, num_inference_steps=2)[0]).all()


def test_errors_leave_the_pipeline_as_it_was() -> None:
    pipeline = sd15()
    own = pipeline.scheduler
    with pytest.raises(FitError, match="at least one prompt"):
        distill(pipeline, [], steps=3)
    with pytest.raises(FitError, match="Unknown mode 'fast'"):
        distill(pipeline, [sd15_prompt()], steps=3, mode="fast")
    with pytest.raises(FitError, match="Prompt 0: prompt_embeds must hold one prompt, got 2"):
        distill(pipeline, [sd15_prompt(2)], steps=3)
    pipeline.unet.register_forward_hook(lambda module, args, output: (output[0] * float("nan"),))
    with pytest.raises(ModelError, match="NaN"):
        distill(pipeline, [sd15_prompt()], steps=3, samples=4)
    assert pipeline.scheduler is own
    assert not pipeline.unet._forward_pre_hooks
