"""Starting up: with parts of the host missing, beside other packs, switched off, and on the oldest host."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.comfy.conftest import PACKS
from tests.comfy.graphs import demo, distill, ksampler, sampler_custom
from tests.comfy.server import ROOT, ComfyServer
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

SETTING = "dode.ksampler"


@contextmanager
def started(*arguments: Any, **named: Any) -> Iterator[ComfyServer]:
    server = ComfyServer(*arguments, **named)
    try:
        yield server
    finally:
        server.close()


def offered(server: ComfyServer) -> tuple[list[str], list[str]]:
    inputs = server.get("/object_info/KSampler")["KSampler"]["input"]["required"]
    return inputs["sampler_name"][0], inputs["scheduler"][0]


def distill_and_sample(server: ComfyServer, **changes: Any) -> None:
    graph = Graph()
    on = demo(graph)
    node = distill(graph, on, save_as="start", **changes)
    graph.save_latent(link(sampler_custom(graph, on, link(node, 1), link(node, 2))))
    run = server.run(graph.prompt)
    assert run.status == "success", run.error


def test_nothing_is_said_but_the_import_time(comfy: ComfyServer, record_property: Callable[[str, object], None]) -> None:
    """How long the import took is printed by the host and reported here; it depends on the machine, so it is not judged."""
    record_property("import_seconds", comfy.import_seconds())
    lines = comfy.log().split("Starting server")[0].splitlines()
    assert not [line for line in lines if "D-ODE" in line or ("d-ode" in line and "seconds:" not in line)]
    assert "IMPORT FAILED" not in comfy.log()


def test_the_page_gets_the_setting_and_the_templates(comfy: ComfyServer) -> None:
    assert "/extensions/d-ode/dode.js" in comfy.get("/extensions")
    with urllib.request.urlopen(f"http://127.0.0.1:{comfy.port}/extensions/d-ode/dode.js", timeout=60) as answer:
        assert f'id: "{SETTING}"' in answer.read().decode()
    assert set(comfy.get("/workflow_templates")["d-ode"]) == {path.stem for path in (ROOT / "example_workflows").glob("*.json")}


def test_a_missing_feature_turns_off_what_needs_it(tmp_path: Path) -> None:
    hidden = ["comfy.latent_formats:LatentFormat", "comfy.samplers:SchedulerHandler", "latent_preview:get_previewer"]
    with started(comfyui_dir(), tmp_path, [ROOT, PACKS / "dode-test-models"], hide=hidden) as server:
        nodes = {name for name in server.get("/object_info") if name.startswith("DODE")}
        assert "DODEDemoModel" not in nodes
        assert {"DODEDistillSampler", "DODELoad", "DODESampler", "DODECompare"} <= nodes
        # Importing parts of the host before it sets up its log gives it a second log handler.
        said = {line.partition("D-ODE:")[2] for line in server.log().splitlines() if "D-ODE:" in line}
        assert len(said) == 2, said
        assert any("demo_model" in line and "comfy.latent_formats.LatentFormat" in line for line in said)
        assert any("`dode` in KSampler" in line and "SchedulerHandler" in line for line in said)
        assert all("dode" not in names for names in offered(server))

        graph = Graph()
        model = graph.add("DodeTestModel", kind="eps")
        latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        on = {"model": link(model), "positive": link(model, 1), "negative": link(model, 2), "latent": link(latent)}
        distill(graph, on)
        run = server.run(graph.prompt)
        assert run.status == "success", run.error
        assert run.previews == 0


def test_beside_other_sampler_packs(tmp_path: Path) -> None:
    other = PACKS / "like-other-samplers"
    # The host loads packs in no particular order; with one on each side of most orders both are met.
    nodes = tmp_path / "custom_nodes"
    nodes.mkdir()
    for name in ("aaa-samplers", "zzz-samplers"):
        (nodes / name).symlink_to(other, target_is_directory=True)
    with started(comfyui_dir(), tmp_path) as server:
        samplers, _ = offered(server)
        assert "other" in samplers
        assert samplers.count("dode") == 1
        distill_and_sample(server, scheduler="other")
        graph = Graph()
        on = demo(graph)
        for name in ("other", "dode"):
            graph.save_latent(link(ksampler(graph, on, sampler_name=name, scheduler="other")))
        run = server.run(graph.prompt)
        assert run.status == "success", run.error
        assert "KSampler uses start.safetensors" in server.log()


def test_switched_off_in_the_settings(tmp_path: Path) -> None:
    settings = tmp_path / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({SETTING: False}))
    with started(comfyui_dir(), tmp_path) as server:
        assert all("dode" not in names for names in offered(server))
        assert "DODEDistillSampler" in server.get("/object_info")


def test_on_the_oldest_host(tmp_path: Path) -> None:
    with started(comfyui_dir("0.16.3"), tmp_path, [ROOT, PACKS / "dode-test-models"]) as server:
        assert server.get("/system_stats")["system"]["comfyui_version"] == "0.16.3"
        assert len([name for name in server.get("/object_info") if name.startswith("DODE")]) == 9
        assert all("dode" in names for names in offered(server))
        distill_and_sample(server)
        graph = Graph()
        on = demo(graph)
        loaded = graph.add("DODELoad", file="start.safetensors", steps=0, model=on["model"])
        graph.add("DODEInspect", parameters=link(loaded))
        inputs = {name: on[name] for name in ("model", "positive", "negative", "latent", "vae")}
        graph.add("DODECompare", parameters=link(loaded), cfg=2.0, seed=1, reference="heun", reference_substeps=2, **inputs)
        graph.save_latent(link(ksampler(graph, on, scheduler="dode")))
        run = server.run(graph.prompt)
        assert run.status == "success", run.error
        assert "KSampler uses start.safetensors" in server.log()
