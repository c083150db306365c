"""In a real Forge or reForge, started on the CPU with a random Stable Diffusion 1.5: only where ``WEBUI_DIR`` names a checkout.

    WEBUI_DIR=… WEBUI_PYTHON=… python -m pytest tests/webui/test_real.py

It takes about six minutes. Pictures of the page lie in ``test_artifacts/webui/``.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect, sync_playwright

from dode.files.parameter_file import load_parameters
from tests.comfy.graphs import ksampler
from tests.comfy.server import ComfyServer
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir
from tests.page.browser import FLAGS, find_browser
from tests.webui.server import ROOT, WebuiServer

PICTURES = ROOT / "test_artifacts" / "webui"
STEPS, SCALE = 2, 3.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in it."""
    folder = tmp_path_factory.mktemp("webui")
    target = folder / "models" / "Stable-diffusion" / "random.safetensors"
    subprocess.run([sys.executable, "-m", "tests.webui.checkpoint", str(target)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[WebuiServer]:
    started = WebuiServer(base)
    yield started
    started.close()
    PICTURES.mkdir(parents=True, exist_ok=True)
    shutil.copy(started.log_file, PICTURES / "server.log")


@pytest.fixture
def page(server: WebuiServer) -> Iterator[Page]:
    found = find_browser()
    with sync_playwright() as playwright:
        environment: dict[str, Any] = {**os.environ, **found.environment}
        browser = playwright.chromium.launch(executable_path=str(found.executable), args=list(FLAGS), env=environment)
        opened = browser.new_page(viewport={"width": 1300, "height": 1500})
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(server.address)
        opened.wait_for_selector("#txt2img_prompt textarea", timeout=90_000)
        opened.wait_for_function("typeof opts === 'object' && 'show_progressbar' in opts", timeout=90_000)
        yield opened
        browser.close()
        assert not [error for error in errors if "dode" in error.lower()]


def picture(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def open_panel(page: Page, prompt: str, name: str, **numbers: float) -> None:
    """The accordion, with what is to be fitted: small pictures, since a fit is heard to be stopped between two calls only."""
    page.locator("#txt2img_prompt textarea").first.fill(prompt)
    page.locator("#dode_accordion").scroll_into_view_if_needed()
    page.get_by_text("D-ODE: distill a sampler").first.click()
    for element, value in {"txt2img_width": 64, "txt2img_height": 64, **numbers}.items():
        box = page.locator(f"#{element} input[type=number]").first
        box.fill(str(value))
        box.press("Enter")
    page.locator("#dode_name textarea, #dode_name input").first.fill(name)


def test_it_is_there_and_the_start_is_clean(server: WebuiServer) -> None:
    samplers = {each["name"]: each for each in server.get("/sdapi/v1/samplers")}
    assert samplers["D-ODE"]["options"] == {"scheduler": "dode"}
    assert [each["label"] for each in server.get("/sdapi/v1/schedulers")].count("D-ODE") == 1
    assert "Error loading script: dode_webui" not in server.log()
    assert "Error calling" not in server.log()


def test_with_no_parameters_it_is_the_plain_solver_and_says_so(server: WebuiServer) -> None:
    ours = server.generate(steps=4)
    assert "plain dpmpp_2m: no saved parameters fit random.safetensors, 4 steps at guidance 3" in ours["infotext"]
    latent = torch.load(server.latents)
    server.generate(steps=4, sampler_name="DPM++ 2M", scheduler="Karras")
    torch.testing.assert_close(latent, torch.load(server.latents), rtol=0, atol=1e-4)


def test_distilled_from_the_page(server: WebuiServer, page: Page) -> None:
    (PICTURES / "running.png").unlink(missing_ok=True)
    open_panel(page, "a cat", "from_page", dode_steps=STEPS, dode_cfg=SCALE)
    picture(page, "panel")
    page.locator("#dode_distill").click()
    said: set[str] = set()
    end = time.monotonic() + 1200
    while time.monotonic() < end and "in all" not in page.locator("#dode_report").inner_text():
        said |= set(page.locator(".progressDiv .progress").all_text_contents())
        if any("refine" in text for text in said) and not (PICTURES / "running.png").exists():
            picture(page, "running")
        page.wait_for_timeout(500)
    report = page.locator("#dode_report").inner_text()
    page.wait_for_timeout(1000)
    picture(page, "result")
    assert "from_page.safetensors" in report, report
    assert {text.split()[1] for text in said if text.startswith("D-ODE")} >= {"teacher", "refine"}
    assert any("ETA" in text for text in said)
    assert page.locator("#dode_pictures img").count() >= 1
    made = load_parameters(server.base / "models" / "dode" / "from_page.safetensors").entries[0]
    assert (made.model.family, made.model.prediction, made.model.channels) == ("SD15", "eps", 4)
    assert made.report is not None
    assert made.report.error_distilled < made.report.error_base


def test_what_was_distilled_is_used(server: WebuiServer) -> None:
    found = server.generate(steps=STEPS)
    assert "Sampler: D-ODE, Schedule type: D-ODE" in found["infotext"]
    assert found["params"]["D-ODE"].startswith("from_page.safetensors: ")
    later = server.generate("img2img", steps=STEPS, denoising_strength=0.6, init_images=found["images"])
    assert later["params"]["D-ODE"].startswith("from_page.safetensors: ")
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": STEPS, "hr_cfg": SCALE}
    both = server.generate(steps=STEPS, denoising_strength=1.0, **hires)
    assert both["params"]["D-ODE"].startswith("from_page.safetensors: ")
    assert both["params"]["Hires D-ODE"].startswith("from_page.safetensors: ")
    assert len(server.generate(steps=STEPS, batch_size=2, n_iter=2)["images"]) >= 4
    other = server.generate(steps=STEPS, cfg_scale=9)
    assert other["params"]["D-ODE"].startswith("plain dpmpp_2m")
    assert "was fitted at guidance 3" in other["params"]["D-ODE"]


def test_the_cells_of_an_x_y_z_plot(server: WebuiServer) -> None:
    """Steps against CFG scale: numbers 4 and 6 in the host's list of axes."""
    axes = [4, f"{STEPS}, 3", [], 6, "3, 5", [], 0, "", []]
    found = server.generate(
        script_name="x/y/z plot", script_args=[*axes, True, True, False, False, False, False, False, 0, False]
    )
    texts = [text for text in json.loads(found["info"])["infotexts"] if "D-ODE: " in text]
    ours = [
        text for text in texts if "from_page.safetensors: " in text and f"Steps: {STEPS}, " in text and "CFG scale: 3" in text
    ]
    plain = [text for text in texts if "plain dpmpp_2m" in text]
    assert ours
    assert {text.split("Steps: ")[1][0] + text.split("CFG scale: ")[1][0] for text in plain} == {f"{STEPS}5", "33", "35"}


def test_the_page_reads_the_infotext(server: WebuiServer, page: Page) -> None:
    text = server.generate(steps=STEPS)["infotext"]
    page.locator("#txt2img_prompt textarea").first.fill(text)
    page.locator("#paste").first.click()
    for element, value in (("txt2img_sampling", "D-ODE"), ("txt2img_steps", str(STEPS)), ("txt2img_cfg_scale", "3")):
        kind = "input" if element == "txt2img_sampling" else "input[type=number]"
        expect(page.locator(f"#{element} {kind}").first).to_have_value(value, timeout=20_000)
    assert page.locator("#txt2img_scheduler input").first.input_value() in ("Automatic", "D-ODE")
    picture(page, "infotext")


def test_stop_on_the_page_before_there_is_anything(server: WebuiServer, page: Page) -> None:
    open_panel(page, "a dog", "stopped")
    page.locator("#dode_distill").click()
    page.wait_for_selector(".progressDiv .progress:has-text('teacher')", timeout=120_000)
    page.locator("#dode_stop").click()
    page.wait_for_selector("#dode_report:has-text('Stopped before there was anything to keep')", timeout=120_000)
    assert not (server.base / "models" / "dode" / "stopped.safetensors").exists()


def test_comfyui_makes_the_same_latent_of_the_same_file(server: WebuiServer, tmp_path: Path) -> None:
    """Two hosts, two implementations of the network. At the model's largest σ ComfyUI starts as this setting does."""
    server.generate(steps=STEPS, override_settings={"sgm_noise_multiplier": True})
    ours = torch.load(server.latents)
    for kind, folder in (("checkpoints", "Stable-diffusion"), ("dode", "dode")):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / kind).symlink_to(server.base / "models" / folder, target_is_directory=True)
    comfy = ComfyServer(comfyui_dir(), tmp_path)
    try:
        graph = Graph()
        model = graph.add("CheckpointLoaderSimple", ckpt_name="random.safetensors")
        texts = [link(graph.add("CLIPTextEncode", clip=link(model, 1), text=text)) for text in ("a cat", "")]
        empty = link(graph.add("EmptyLatentImage", width=64, height=64, batch_size=1))
        on = {"model": link(model), "positive": texts[0], "negative": texts[1], "latent": empty}
        node = graph.save_latent(link(ksampler(graph, on, steps=STEPS, cfg=SCALE, scheduler="dode")))
        run = comfy.run(graph.prompt)
        assert run.status == "success", run.error
        theirs = comfy.latent(run, node)
        assert "KSampler uses from_page.safetensors" in comfy.log()
    finally:
        comfy.close()
    theirs = theirs * 0.18215  # a file has what the VAE takes, and the WebUI's latent is the model's own
    difference = float((ours - theirs).abs().max() / theirs.std())
    print(f"largest difference: {difference:.2e} of the spread")
    assert difference < 1e-4
