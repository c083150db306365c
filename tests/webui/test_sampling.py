"""Sampling: the numbers of a file, which parameters a run takes, and what stands under the picture."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode.files.interpolation import interpolate
from dode.files.parameter_file import Entry, ModelInfo
from dode.methods import build_tableau
from dode.sampling import Guided, sample
from dode.tableau import Tableau
from tests.webui.entries import entry, model_of
from tests.webui.installed import Installed
from tests.webui.standins import KINDS, karras, predict, tilt_of


def denoiser(prompt: str = "a cat", negative: str = "", scale: float = 3.0, mask: Tensor | None = None, latent: Any = None):
    """The stand-ins' model as the core takes one."""

    def denoise(x: Tensor, sigma: Tensor) -> Guided:
        parts = [predict(x, sigma, torch.full((len(x),), tilt_of(text))) for text in (prompt, negative)]
        direction = parts[0] - parts[1]
        out = parts[1] + scale * direction
        return Guided(out, direction) if mask is None else Guided(out * (1 - mask) + latent * mask, direction * (1 - mask))

    return denoise


def run_table(tableau: Tableau, noise: Tensor, **of_the_model: Any) -> Tensor:
    return sample(denoiser(**of_the_model), noise, tableau)


def close(one: list[Tensor], other: Tensor) -> None:
    torch.testing.assert_close(torch.stack(one), other, rtol=0, atol=1e-9)


def told(p: Any) -> str:
    return p.extra_generation_params["D-ODE"]


@pytest.mark.parametrize("channel", [True, False], ids=["guidance channel", "without it"])
def test_the_same_numbers_as_the_file_s_table(channel: bool, host: Installed) -> None:
    made = entry(model_of(host.web), channel=channel)
    host.put("mine", made)
    p = host.web.run(batch_size=2, scheduler="Automatic")
    sigmas = torch.tensor(made.parameters.sigmas)  # as the hosts have them: in float32
    close(p.latents, run_table(made.parameters.tableau(sigmas.tolist()), p.noise() * sigmas[0].double()))
    assert told(p) == "mine.safetensors: dpmpp_2m, 6 steps, 6 evaluations, guidance 3"
    assert p.extra_generation_params["Schedule type"] == "D-ODE"
    plain = run_table(build_tableau("dpmpp_2m", sigmas.tolist()), p.noise() * sigmas[0].double())
    assert float((plain - torch.stack(p.latents)).abs().max()) > 1e-2, "the parameters change nothing here"


def test_between_two_scales_it_is_interpolated_on_the_levels_in_between(host: Installed) -> None:
    model = model_of(host.web)
    two = [entry(model, guidance=2.0, top=0.7), entry(model, guidance=5.0, strength=0.5, top=0.9)]
    host.put("two", *two)
    p = host.web.run(cfg_scale=3.0)
    between = interpolate(two, 3.0).parameters
    sigmas = torch.tensor(between.sigmas)
    close(p.latents, run_table(between.tableau(sigmas.tolist()), p.noise() * sigmas[0].double()))
    assert "guidance 3" in told(p)
    outside = host.web.run(cfg_scale=7.0)
    assert told(outside).startswith("plain dpmpp_2m: no saved parameters fit anything.safetensors, 6 steps at guidance 7 (")
    assert "fitted at guidance 2" in told(outside)


def test_where_nothing_fits_it_is_the_undistilled_solver_on_the_usual_schedule(
    host: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    host.put("other", entry(ModelInfo(family="SDXL", prediction="eps")))
    p = host.web.run(steps=5)
    known = p.sampler.model_wrap.sigmas
    sigmas = karras(5, known[0].item(), known[-1].item())
    close(p.latents, run_table(build_tableau("dpmpp_2m", sigmas.tolist()), p.noise() * sigmas[0].double()))
    assert told(p).startswith("plain dpmpp_2m: ")
    assert "for another kind of model" in told(p)
    out = capsys.readouterr().out
    assert out.count("D-ODE: plain dpmpp_2m: no saved parameters fit") == 1
    assert "the schedule Karras is used instead" in out


def test_a_file_for_any_model_is_taken_only_where_the_setting_says_so(host: Installed) -> None:
    model = model_of(host.web)
    for_any = entry(ModelInfo(prediction=model.prediction))
    host.put("for_any", replace(for_any, recipe={"models": ["one", "two"]}))
    usual = host.web.run()
    assert told(usual).startswith("plain dpmpp_2m: ")
    off = "was fitted on several other models, and the setting for such files is off"
    assert re.search(rf"for_any\.safetensors[^:;]*: {off}", told(usual)), "the pack's own such file stands beside it"
    host.web.opts.data["dode_generic"] = True
    p = host.web.run()
    assert told(p).startswith("for_any.safetensors: ")
    sigmas = torch.tensor(for_any.parameters.sigmas)
    close(p.latents, run_table(for_any.parameters.tableau(sigmas.tolist()), p.noise() * sigmas[0].double()))
    assert not torch.allclose(p.latents[0], usual.latents[0])


def test_a_schedule_of_the_host_s_own_is_run_as_it_is(host: Installed) -> None:
    host.put("mine", entry(model_of(host.web)))
    p = host.web.run(scheduler="Karras")
    assert told(p).startswith("plain dpmpp_2m")
    assert "has 6 steps on other noise levels" in told(p)
    other = host.web.run(sampler_name="Euler", scheduler="D-ODE")
    sigmas = torch.tensor(entry(model_of(host.web)).parameters.sigmas)
    close(other.latents, run_table(build_tableau("euler", sigmas.tolist()), other.noise() * sigmas[0].double()))
    assert "D-ODE" not in other.extra_generation_params


def test_img2img_runs_the_end_of_the_grid(host: Installed) -> None:
    made = entry(model_of(host.web), steps=8)
    host.put("eight", made)
    latent = torch.linspace(-1, 1, 4 * 8 * 8, dtype=torch.float64).reshape(1, 4, 8, 8)
    p = host.web.run(steps=8, denoising_strength=0.5, init_latent=latent)
    sigmas = torch.tensor(made.parameters.sigmas)[8 - 4 - 1 :]
    assert len(sigmas) == 6
    tableau = made.parameters.tableau(sigmas.tolist())
    close(p.latents, run_table(tableau, latent + p.noise() * sigmas[0].double()))
    assert told(p).startswith("eight.safetensors")


def test_what_is_masked_is_the_host_s(host: Installed) -> None:
    made = entry(model_of(host.web))
    host.put("mine", made)
    latent = torch.linspace(-1, 1, 4 * 8 * 8, dtype=torch.float64).reshape(1, 4, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mask[..., :4] = 1
    mask[..., 4] = 0.5
    p = host.web.run(init_latent=latent, mask=mask, denoising_strength=1.0)
    sigmas = torch.tensor(made.parameters.sigmas)
    start = latent + p.noise() * sigmas[0].double()
    close(p.latents, run_table(made.parameters.tableau(sigmas.tolist()), start, mask=mask, latent=latent))


def test_both_passes_of_hires_fix(host: Installed) -> None:
    """The second one has a guidance scale of its own where the host has one, and other steps: 6 of int(6 / 0.7)."""
    model = model_of(host.web)
    own = {} if host.web.kind == "a1111" else {"hr_cfg": 5.0}
    scale = own.get("hr_cfg", 3.0)
    first, second = entry(model), entry(model, steps=8, guidance=scale, strength=0.5)
    host.put("first", first)
    host.put("second", second)
    p = host.web.run(enable_hr=True, **own)
    sigmas = torch.tensor(first.parameters.sigmas)
    start = p.noise() * sigmas[0].double()
    middle = run_table(first.parameters.tableau(sigmas.tolist()), start)
    sigmas = torch.tensor(second.parameters.sigmas)[2:]
    start = torch.nn.functional.interpolate(middle, scale_factor=2) + p.noise(2) * sigmas[0].double()
    close(p.latents, run_table(second.parameters.tableau(sigmas.tolist()), start, scale=scale))
    assert told(p).startswith("first.safetensors")
    assert p.extra_generation_params["Hires D-ODE"].startswith("second.safetensors")
    assert p.extra_generation_params["Schedule type"] == "D-ODE"


def test_batches_are_each_as_alone(host: Installed) -> None:
    host.put("mine", entry(model_of(host.web)))
    together = host.web.run(batch_size=3, n_iter=2)
    alone = host.web.run(seed=2)
    assert len(together.latents) == 6
    close([together.latents[1]], torch.stack(alone.latents))


def test_cells_of_a_plot_differ_in_what_they_vary(host: Installed) -> None:
    """As X/Y/Z plot asks: each with a run of its own, other steps and scales."""
    model = model_of(host.web)
    host.put("grid", *(entry(model, steps=n, guidance=scale) for n in (4, 6) for scale in (2.0, 4.0)))
    cells = {(n, scale): host.web.run(steps=n, cfg_scale=scale) for n in (4, 6) for scale in (2.0, 3.0, 4.0, 9.0)}
    for (n, scale), p in cells.items():
        if scale == 9.0:
            assert told(p).startswith("plain")
        else:
            assert f"{n} steps" in told(p)
            assert told(p).endswith(f"guidance {scale:g}")
    results = [torch.stack(p.latents) for p in cells.values()]
    assert all(not torch.allclose(a, b) for i, a in enumerate(results) for b in results[:i])


def test_the_infotext_goes_there_and_back(host: Installed) -> None:
    host.put("mine", entry(model_of(host.web)))
    p = host.web.run()
    (text,) = p.processed.infotexts
    # The pattern with which the hosts read it, and what they take from it.
    found = {
        key.strip(): value.strip('"') for key, value in re.findall(r'\s*([\w ]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text)
    }
    found |= dict(re.findall(r'(D-ODE): "((?:\\.|[^\\"])+)"', text))
    sampler, schedule = host.web.samplers.get_sampler_and_scheduler(found["Sampler"], found["Schedule type"])
    again = host.web.run(
        sampler_name=sampler, scheduler=schedule, steps=int(found["Steps"]), cfg_scale=float(found["CFG scale"])
    )
    assert torch.equal(torch.stack(again.latents), torch.stack(p.latents))
    assert found["D-ODE"] == told(p)


def test_the_step_that_a_prompt_changes_at_is_the_user_s(host: Installed) -> None:
    """With two evaluations a step, a prompt that changes at half time is not through after a quarter."""
    made = entry(model_of(host.web), method="dpm_2", channel=False)
    assert made.evaluations == 11
    host.put("two", made)
    p = host.web.run(prompt="a cat|then|a dog")
    steps = [step for step, _ in p.sampler.model_wrap_cfg.told]
    assert steps == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


HINDRANCES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Negative Guidance minimum sigma", {}, {"s_min_uncond": 0.5}),
    ("Negative Guidance minimum sigma", {"s_min_uncond": 0.5}, {}),
    ("Ignore negative prompt during early sampling", {"skip_early_cond": 0.2}, {}),
    ("a refiner takes over", {}, {"refiner_checkpoint_info": object(), "refiner_switch_at": 0.8}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("words", "saved", "settings"), HINDRANCES)
def test_what_changes_the_model_on_the_way_is_not_what_was_fitted(
    words: str, saved: dict[str, Any], settings: dict[str, Any], kind: str, start: Callable[..., Installed]
) -> None:
    host = start(kind, **saved)
    host.put("mine", entry(model_of(host.web)))
    assert words in told(host.web.run(**settings))
    del host


def test_a_file_that_needs_both_outputs_where_the_host_gives_one(start: Callable[..., Installed]) -> None:
    host = start("a1111")
    host.put("mine", entry(model_of(host.web)))
    host.web.listeners["cfg_denoised"].clear()
    p = host.web.run(prompt="a cat|then|a dog")
    assert told(p).startswith("plain dpmpp_2m: These parameters weigh the conditional and the unconditional output")
    assert [step for step, _ in p.sampler.model_wrap_cfg.told] == [0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_that_takes_away_a_noise_level_is_said(kind: str, start: Callable[..., Installed]) -> None:
    host = start(kind)
    host.put("mine", entry(model_of(host.web)))
    host.web.opts.data["always_discard_next_to_last_sigma"] = True
    p = host.web.run()
    assert told(p).startswith("plain dpmpp_2m")
    assert len(p.latents) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_s_other_start_is_kept(kind: str, start: Callable[..., Installed]) -> None:
    host = start(kind)
    made = entry(model_of(host.web))
    host.put("mine", made)
    host.web.opts.data["sgm_noise_multiplier"] = True
    p = host.web.run()
    sigmas = torch.tensor(made.parameters.sigmas)
    start_at = p.noise() * torch.sqrt(1 + sigmas[0].double() ** 2)
    close(p.latents, run_table(made.parameters.tableau(sigmas.tolist()), start_at))


def test_without_guidance_there_is_one_output_and_a_file_for_it(host: Installed) -> None:
    made = entry(model_of(host.web), guidance=1.0, channel=False)
    host.put("one", made)
    p = host.web.run(cfg_scale=1.0)
    sigmas = torch.tensor(made.parameters.sigmas)
    close(p.latents, run_table(made.parameters.tableau(sigmas.tolist()), p.noise() * sigmas[0].double(), scale=1.0))


def test_interrupt_ends_it_with_what_there_is(host: Installed) -> None:
    host.put("mine", entry(model_of(host.web)))
    web, calls = host.web, []

    def press(told: Any) -> None:
        calls.append(told)
        if len(calls) == 3:
            web.state.interrupt()

    if web.kind == "a1111":
        web.listeners["cfg_denoised"].append(press)
    else:
        web.model.forge_objects.unet.set_model_sampler_post_cfg_function(lambda args: (press(args), args["denoised"])[1])
    before = None if web.kind == "a1111" else web.model.forge_objects.unet
    p = web.run()
    assert len(calls) == 3
    assert len(p.latents) == 1
    if before is not None:
        assert web.model.forge_objects.unet is before


def test_a_folder_of_the_settings_is_looked_into(host: Installed, tmp_path: Path) -> None:
    made: Entry = entry(model_of(host.web))
    (host.web.listeners["ui_settings"][0])()
    path = host.put("mine", made)
    elsewhere = tmp_path / "ComfyUI" / "output" / "dode"
    elsewhere.mkdir(parents=True)
    path.rename(elsewhere / "shared.safetensors")
    assert told(host.web.run()).startswith("plain")
    host.web.opts.data["dode_folders"] = f"/nowhere; {elsewhere}"
    assert told(host.web.run()).startswith("shared.safetensors")


def test_two_files_of_one_name_are_both_there(host: Installed, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    host.web.opts.data["dode_folders"] = str(elsewhere)
    path = host.put("mine", entry(model_of(host.web)))
    elsewhere.mkdir()
    path.rename(elsewhere / "mine.safetensors")
    host.put("mine", entry(model_of(host.web), steps=8))
    assert told(host.web.run(steps=8)).startswith("mine.safetensors: ")
    assert told(host.web.run(steps=6)).startswith(f"mine.safetensors [{elsewhere}]: ")
    assert host.part("library").is_taken(path)
    (elsewhere / "other.safetensors").write_bytes(b"")
    assert host.part("library").is_taken(path.with_name("other.safetensors"))
    assert not host.part("library").is_taken(path.with_name("new.safetensors"))


def test_a_broken_file_is_left_out_and_named(host: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    host.put("mine", entry(model_of(host.web)))
    (host.web.folder / "models" / "dode" / "broken.safetensors").write_bytes(b"no")
    assert told(host.web.run()).startswith("mine.safetensors")
    assert "broken.safetensors is left out" in capsys.readouterr().out


def test_a_model_of_other_weights_is_said(host: Installed, capsys: pytest.CaptureFixture[str]) -> None:
    info = model_of(host.web)
    host.put("mine", entry(ModelInfo("elsewhere.safetensors", info.family, info.prediction, info.channels, "blocks-0")))
    assert told(host.web.run()).startswith("mine.safetensors")
    assert "The parameters may fit less well" in capsys.readouterr().out


def test_what_is_said_of_the_model_is_what_comfyui_says(host: Installed) -> None:
    assert host.part("model_info").model_info(host.web.model) == model_of(host.web)
    assert np.isclose(host.part("model_info").sigma_range(host.web.model, host.web.run().sampler.model_wrap)[1], 14.6146)


@pytest.mark.parametrize("kind", ["forge", "reforge"])
def test_a_lora_is_part_of_what_a_model_is(kind: str, start: Callable[..., Installed]) -> None:
    """By its file's name and its strengths, wherever the file lies, and in any order."""
    host = start(kind)
    plain = host.put("plain", entry(model_of(host.web)))
    host.web.model.current_lora_hash = "[['/loras/a.safetensors', 0.8, 1.0, False], ['/loras/b.safetensors', 1.0, 1.0, False]]"
    with_two = host.part("model_info").model_info(host.web.model)
    host.put("two", entry(with_two, strength=0.5))
    os.utime(plain)  # the newest
    assert told(host.web.run()).startswith("two.safetensors")
    host.web.model.current_lora_hash = "[['/else/b.safetensors', 1.0, 1.0, False], ['/else/a.safetensors', 0.8, 1.0, False]]"
    assert host.part("model_info").model_info(host.web.model) == with_two
    host.web.model.current_lora_hash = "[['/loras/a.safetensors', 0.4, 1.0, False], ['/loras/b.safetensors', 1.0, 1.0, False]]"
    assert host.part("model_info").model_info(host.web.model).patches not in (with_two.patches, "", "none")
    host.web.model.current_lora_hash = "[]"
    assert told(host.web.run()).startswith("plain.safetensors")
