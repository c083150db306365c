"""The embedded model: a real trained diffusion model, and the whole job on it."""

import time

import pytest
import torch

from dode import Guided, build_tableau, distill, sample, schedule
from dode.cli.threads import use_fastest
from dode.demo.model import WEIGHTS, context_of, embedded_model, training_record
from dode.demo.pictures import CLASSES, draw
from dode.errors import ModelError


def test_pictures_are_fresh_and_repeatable() -> None:
    labels = torch.arange(8)
    first = draw(labels, torch.Generator().manual_seed(0))
    assert torch.equal(first, draw(labels, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, draw(labels, torch.Generator().manual_seed(1)))
    assert first.shape == (8, 3, 32, 32)
    assert first.abs().max() <= 1
    assert first.isfinite().all()


def test_weights_are_small_and_say_how_they_were_made() -> None:
    assert WEIGHTS.stat().st_size < 4_000_000
    record = training_record()
    assert int(record["steps"]) >= 10_000
    with pytest.raises(ModelError, match="cannot be used"):
        embedded_model(WEIGHTS.with_name("model.py"))


def test_it_denoises_pictures_it_was_never_shown() -> None:
    """At every noise level far better than the best linear filter of each pixel, and better still with the class known."""
    model, generator = embedded_model(), torch.Generator().manual_seed(123)
    labels = torch.arange(8).repeat(4)
    clean = draw(labels, generator)
    mean, variance = clean.mean(0), clean.var(0)
    for level in (0.2, 0.5, 1.0, 2.0):
        noisy = clean + level * torch.randn(clean.shape, generator=generator)
        sigma = torch.full((32,), level)
        wiener = mean + variance / (variance + level**2) * (noisy - mean)
        with torch.no_grad():
            denoised, blind = model(noisy, sigma, context_of(labels)), model(noisy, sigma)
        assert isinstance(denoised, torch.Tensor)
        assert isinstance(blind, torch.Tensor)
        error, null = (denoised - clean).square().mean(), (blind - clean).square().mean()
        assert error < 0.5 * (wiener - clean).square().mean()
        assert error < null


def test_samples_are_of_the_class_asked_for() -> None:
    """A nearest-class-mean classifier of fresh drawings, blurred, recognises most samples; guidance does not hurt."""
    model = embedded_model()
    generator = torch.Generator().manual_seed(5)

    def blur(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 4).flatten(1)

    means = torch.stack([blur(draw(torch.full((128,), k), generator)).mean(0) for k in range(len(CLASSES))])
    labels = torch.arange(8).repeat_interleave(3)
    x = torch.randn(24, 3, 32, 32, generator=generator) * model.sigma_max
    sigmas = schedule("karras", 12, model.sigma_min, model.sigma_max)
    for guidance in (1.0, 3.0):
        with torch.no_grad():
            extra = {"context": context_of(labels), "guidance": guidance}
            pictures = sample(model, x, build_tableau("dpmpp_2m", sigmas), extra_args=extra)
        guessed = torch.cdist(blur(pictures), means).argmin(1)
        assert (guessed == labels).float().mean() > 0.6


@pytest.mark.parametrize("method", ["euler", "dpmpp_2m"])
def test_distilling_lowers_the_error_on_held_out_noise(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = embedded_model()
    sigmas = schedule("karras", 6, model.sigma_min, model.sigma_max)
    x = torch.randn(24, *model.shape, generator=torch.Generator().manual_seed(0)) * model.sigma_max
    found = distill(model, x, sigmas, method=method, directions="data", extra_args=model.extra_args(1.0), micro_batch=24)
    report = found.report
    with capsys.disabled():
        print(f"\nembedded model, {method}, 6 evaluations: {report.error_base:.4f} -> {report.error_distilled:.4f} (held out)")
    assert report.error_distilled < 0.95 * report.error_base
    assert report.strength == 1


def test_both_outputs_are_those_of_two_calls() -> None:
    model = embedded_model()
    x, sigma = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.full((3,), 1.5)
    context = model.extra_args()(torch.arange(3))["context"]
    found = model(x, sigma, context, 3.0, both=True)
    assert isinstance(found, Guided)
    conditional, null, mixed = model(x, sigma, context), model(x, sigma), model(x, sigma, context, 3.0)
    assert isinstance(conditional, torch.Tensor)
    assert isinstance(null, torch.Tensor)
    assert isinstance(mixed, torch.Tensor)
    torch.testing.assert_close(found.difference, conditional - null, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.denoised, null + 3 * (conditional - null), rtol=0, atol=1e-4)
    assert torch.equal(mixed, found.denoised)
    assert isinstance(model(x, sigma, context, 1.0, both=True), torch.Tensor)


def test_the_demo_takes_as_many_threads_as_are_fastest() -> None:
    """The number that was faster is kept; a call that is slow with several takes one."""
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert use_fastest(lambda: time.sleep(0.01 * torch.get_num_threads())) == torch.get_num_threads() == 1
        torch.set_num_threads(4)
        assert use_fastest(lambda: time.sleep(0.04 / torch.get_num_threads())) == torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(usual)
