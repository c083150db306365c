"""Distill: a fit through the host's own run, with its prompts, its progress bar and its Interrupt; and the panel for it."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dode.errors import FitError, ParameterFileError
from dode.files.parameter_file import load_parameters
from dode.sampling import sample
from tests.webui.entries import model_of
from tests.webui.installed import Installed, load_script
from tests.webui.standins import KINDS
from tests.webui.test_sampling import denoiser, told

STEPS = 3


def settings(host: Installed, **changes: Any) -> Any:
    usual = {"prompts": ["a cat"], "steps": STEPS, "cfg": 3.0, "width": 32, "height": 32, "name": "mine"}
    return host.part("distill").Settings(**{**usual, **changes})


def saved(host: Installed, name: str = "mine") -> Any:
    return load_parameters(host.web.folder / "models" / "dode" / f"{name}.safetensors").entries[0]


def test_what_is_distilled_is_saved_found_and_better(host: Installed) -> None:
    processed, text = host.part("distill").distill(settings(host, prompts=["a cat", "a dog", "a house"], steps=4))
    made = saved(host)
    assert made.model == model_of(host.web)
    assert (made.guidance, len(made.parameters.sigmas) - 1) == (3.0, 4)
    assert made.parameters.guidance is not None, "the guidance channel was not fitted"
    assert made.report.error_distilled < made.report.error_base
    assert made.recipe["tool"] == "Distill in Stable Diffusion WebUI"
    assert made.recipe["prompts"] == 3
    assert str(host.web.folder / "models" / "dode" / "mine.safetensors") in text
    assert "in all" in text
    p = host.web.run(steps=4, width=32, height=32)
    assert told(p).startswith("mine.safetensors")
    # The pictures that come out are those of the sampler, from the noise of the seed.
    assert len(processed.images) == 3
    p = host.web.run(steps=4, width=32, height=32, prompt=["a cat", "a dog", "a house"], batch_size=3, seed=0)
    torch.testing.assert_close(torch.stack(processed.images), torch.stack(p.latents), rtol=0, atol=1e-6)


def test_it_is_better_than_the_plain_solver_on_other_noise(host: Installed) -> None:
    host.part("distill").distill(settings(host))
    made = saved(host)
    p = host.web.run(steps=STEPS, width=32, height=32, batch_size=8, seed=77)
    plain = host.web.run(steps=STEPS, width=32, height=32, batch_size=8, seed=77, scheduler="Karras")
    assert told(plain).startswith("plain")
    teacher = made.report.teacher.tableau(made.parameters.sigmas, 0.0292)
    fine = sample(denoiser(), p.noise() * teacher.sigma, teacher)
    errors = [float((torch.stack(each.latents) - fine).pow(2).mean().sqrt()) for each in (p, plain)]
    assert errors[0] < errors[1] / 2


def test_the_same_seed_gives_the_same_file_and_a_taken_name_a_number(host: Installed) -> None:
    for _ in range(2):
        host.part("distill").distill(settings(host))
    one, two = saved(host), saved(host, "mine_00002")
    assert (one.parameters.values == two.parameters.values).all()
    assert one.parameters.sigmas == two.parameters.sigmas


def test_the_bar_goes_to_its_end_and_says_what_it_does(host: Installed) -> None:
    state, seen = host.web.state, []
    progress = host.part("progress").Progress
    original = progress.__call__

    def watch(self: Any, stage: str, done: int, total: int) -> None:
        original(self, stage, done, total)
        seen.append((state.textinfo, state.sampling_step / state.sampling_steps))

    progress.__call__ = watch
    try:
        host.part("distill").distill(settings(host))
    finally:
        progress.__call__ = original
    assert {text for text, _ in seen} == {"D-ODE teacher", "D-ODE search", "D-ODE refine", "D-ODE check"}
    assert all(0 <= part <= 1 for _, part in seen)
    assert seen[-1][1] > 0.8
    assert state.job_count == 1


def press_at(host: Installed, stage: str, condition: Callable[[Any], bool]) -> None:
    """Press Interrupt once, in a stage, when a condition on the progress holds."""
    progress, pressed = host.part("progress").Progress, []
    original = progress.__call__

    def watch(self: Any, at: str, done: int, total: int) -> None:
        original(self, at, done, total)
        if not pressed and at == stage and condition(self):
            pressed.append(at)
            host.web.state.interrupt()

    progress.__call__ = watch
    host.undo = lambda: (setattr(progress, "__call__", original), pressed)[1]  # type: ignore[attr-defined]


def test_interrupt_keeps_what_there_is(host: Installed) -> None:
    press_at(host, "refine", lambda progress: progress.judged)
    processed, text = host.part("distill").distill(settings(host))
    assert host.undo() == ["refine"]  # type: ignore[attr-defined]
    assert "Stopped early: the best found so far was kept." in text
    assert saved(host).recipe["stopped_early"] is True
    assert saved(host).report.error_distilled <= saved(host).report.error_base
    assert len(processed.images) == 1
    assert not host.web.state.interrupted


def test_interrupt_before_there_is_anything_ends_it(host: Installed) -> None:
    press_at(host, "teacher", lambda progress: True)
    _, text = host.part("distill").distill(settings(host))
    assert host.undo() == ["teacher"]  # type: ignore[attr-defined]
    assert text == "Stopped before there was anything to keep."
    assert not (host.web.folder / "models" / "dode").exists()
    assert host.web.state.interrupted, "the host has to see it too"


def test_a_host_that_gives_one_output_only_is_said(start: Callable[..., Installed]) -> None:
    host = start("a1111")
    host.web.listeners["cfg_denoised"].clear()
    _, text = host.part("distill").distill(settings(host))
    assert "no change of guidance over the steps was learned" in text
    assert saved(host).parameters.guidance is None
    assert told(host.web.run(steps=STEPS, width=32, height=32)).startswith("mine.safetensors")


def test_without_guidance(host: Installed) -> None:
    _, text = host.part("distill").distill(settings(host, cfg=1.0))
    assert "was learned" not in text
    assert saved(host).guidance == 1
    assert saved(host).parameters.guidance is None


def test_what_cannot_work_is_said_before_the_fit(host: Installed) -> None:
    distill = host.part("distill").distill
    with pytest.raises(FitError, match="1 to 64 prompts"):
        distill(settings(host, prompts=["a cat"] * 65))
    with pytest.raises(FitError, match="Choose one of: balanced, best"):
        distill(settings(host, mode="paper"))
    with pytest.raises(ParameterFileError, match="no name for a parameter file"):
        distill(settings(host, name="../out"))
    host.web.opts.data["skip_early_cond"] = 0.2
    with pytest.raises(FitError, match="Ignore negative prompt during early sampling"):
        distill(settings(host))
    assert host.web.model.calls == 0


def test_without_a_name_nothing_is_saved(host: Installed) -> None:
    _, text = host.part("distill").distill(settings(host, name=" "))
    assert "Not saved: no name was given." in text
    assert not (host.web.folder / "models" / "dode").exists()


class Component:
    """A component of the page: what it was made with, and what a click on it does."""

    def __init__(self, made: list["Component"], kind: str, **settings: Any):
        self.kind, self.settings, self.clicks = kind, settings, []
        made.append(self)

    def __enter__(self) -> "Component":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def click(self, **settings: Any) -> None:
        self.clicks.append(settings)


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> list[Component]:
    made: list[Component] = []
    module = types.ModuleType("gradio")

    def kind(name: str) -> Callable[..., Component]:
        return lambda value=None, **settings: Component(made, name, **{"value": value, **settings})

    for name in ("Accordion", "Row", "Slider", "Dropdown", "Textbox", "HTML", "Button", "Gallery"):
        setattr(module, name, kind(name))
    monkeypatch.setitem(__import__("sys").modules, "gradio", module)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("early", [True, False], ids=["prompts first", "accordion first"])
def test_the_panel(kind: str, early: bool, start: Callable[..., Installed], gradio: list[Component], tmp_path: Path) -> None:
    host = start(kind)
    panel = load_script().DistillPanel()
    assert panel.show(True) is False
    assert panel.show(False) is host.web.modules["modules.scripts"].AlwaysVisible
    page = {name: Component([], name) for name in ("txt2img_prompt", "txt2img_neg_prompt", "txt2img_width", "txt2img_height")}

    def show_page() -> None:
        for name, component in page.items():
            panel.after_component(component, elem_id=name)
        panel.after_component(Component([], "other"), elem_id="txt2img_steps")

    if early:
        show_page()
    assert panel.ui(False) == []
    if not early:
        show_page()
    by_name = {each.settings.get("elem_id"): each for each in gradio}
    (click,) = by_name["dode_distill"].clicks
    assert click["_js"] == "dodeDistill"
    assert click["outputs"] == [by_name["dode_pictures"], by_name["dode_report"]]
    values = {"txt2img_prompt": "a cat", "txt2img_neg_prompt": "", "txt2img_width": 32, "txt2img_height": 32}
    values |= {"dode_steps": STEPS, "dode_cfg": 3, "dode_effort": "balanced", "dode_at_once": 4, "dode_prompts": ""}
    values |= {"dode_name": "pressed", "dode_task": "task(abc)"}
    names = {id(component): name for name, component in {**page, **by_name}.items()}
    arguments = [values[names[id(component)]] for component in click["inputs"]]
    assert arguments[0] == "task(abc)"
    pictures, text = click["fn"](*arguments)
    assert len(pictures) == 1
    assert "pressed.safetensors" in text
    assert saved(host, "pressed").guidance == 3.0
    arguments[click["inputs"].index(by_name["dode_prompts"])] = "a cat\n\n a dog \n"
    assert len(click["fn"](*arguments)[0]) == 2
    assert saved(host, "pressed_00002").recipe["prompts"] == 2
    (stop,) = by_name["dode_stop"].clicks
    stop["fn"]()
    assert host.web.state.interrupted


def test_in_forge_the_one_thread_for_models_runs_it(start: Callable[..., Installed], monkeypatch: pytest.MonkeyPatch) -> None:
    host, ran = start("forge"), []

    def run_and_wait_result(function: Callable[..., Any], *values: Any) -> Any:
        ran.append(function)
        return function(*values)

    main_thread = types.ModuleType("modules_forge.main_thread")
    main_thread.run_and_wait_result = run_and_wait_result  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "modules_forge", types.ModuleType("modules_forge"))
    monkeypatch.setitem(__import__("sys").modules, "modules_forge.main_thread", main_thread)
    panel = host.part("panel")
    monkeypatch.setattr(panel, "press", lambda *values: ["pictures", values])
    assert panel.on_main_thread("task(x)", 1, 2) == ["pictures", (1, 2)]
    assert ran == [panel.press]
