"""The names in the lists: all three ways of getting there, out again, and what the infotext's reader makes of them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.webui.installed import ROOT, Installed, load_script
from tests.webui.standins import KINDS


def names(host: Installed) -> list[str]:
    return [each.name for each in host.web.samplers.all_samplers]


def labels(host: Installed) -> list[str]:
    return [each.label for each in host.web.schedules.schedulers]


def test_one_name_in_each_list(host: Installed) -> None:
    web = host.web
    assert hasattr(web.samplers, "add_sampler") == (web.kind == "forge")
    assert names(host) == ["Euler", "D-ODE"]
    assert [each.name for each in web.samplers.samplers] == [each.name for each in web.samplers.samplers_for_img2img]
    assert web.samplers.all_samplers_map["D-ODE"].options == {"scheduler": "dode"}
    assert web.samplers.samplers_map["k_dode"] == "D-ODE"
    assert labels(host) == ["Automatic", "Karras", "D-ODE"]
    assert web.schedules.schedulers_map["dode"] is web.schedules.schedulers_map["D-ODE"]


def test_the_page_starts_again(host: Installed) -> None:
    for listeners in host.web.listeners.values():
        listeners.clear()  # as the hosts do before they run the scripts again
    load_script()
    assert names(host) == ["Euler", "D-ODE"]
    assert labels(host) == ["Automatic", "Karras", "D-ODE"]
    assert len(host.web.listeners["ui_settings"]) == 1
    assert host.web.run(sampler_name="D-ODE").latents


def test_it_is_switched_off_and_on_by_a_setting(host: Installed) -> None:
    (add,) = host.web.listeners["ui_settings"]
    add()
    assert host.web.opts.data_labels["dode_enabled"].section == ("dode", "D-ODE")
    assert "Reload UI" in host.web.opts.data_labels["dode_enabled"].comment_after
    host.web.opts.data["dode_enabled"] = False
    script = load_script()
    assert names(host) == ["Euler"]
    assert "D-ODE" not in host.web.samplers.all_samplers_map
    assert "k_dode" not in host.web.samplers.samplers_map
    assert labels(host) == ["Automatic", "Karras"]
    assert not {"dode", "D-ODE"} & host.web.schedules.schedulers_map.keys()
    assert not hasattr(script, "DistillPanel")
    assert host.web.samplers.get_sampler_and_scheduler("D-ODE", "D-ODE") == ("Euler", "Automatic")
    host.web.opts.data["dode_enabled"] = True
    load_script()
    assert names(host) == ["Euler", "D-ODE"]
    assert host.web.samplers.get_sampler_and_scheduler("D-ODE", "Karras") == ("D-ODE", "Karras")


@pytest.mark.parametrize("kind", KINDS)
def test_off_before_the_start(kind: str, start: Callable[..., Installed]) -> None:
    host = start(kind, dode_enabled=False)
    assert names(host) == ["Euler"]
    assert labels(host) == ["Automatic", "Karras"]


@pytest.mark.parametrize("missing", ["modules.sd_schedulers:Scheduler", "modules.sd_samplers_kdiffusion:KDiffusionSampler"])
def test_a_host_that_lacks_something_starts_without_it(
    missing: str, host: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, name = missing.partition(":")
    delattr(host.web.modules[module], name)
    script = load_script()
    assert names(host) == ["Euler"]
    assert labels(host) == ["Automatic", "Karras"]
    assert not hasattr(script, "DistillPanel")
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sampler", "schedule", "found"),
    [
        ("D-ODE", "D-ODE", ("D-ODE", "Automatic")),
        ("D-ODE", "Automatic", ("D-ODE", "Automatic")),
        ("D-ODE", None, ("D-ODE", "Automatic")),
        ("D-ODE", "Karras", ("D-ODE", "Karras")),
        ("D-ODE Karras", None, ("D-ODE", "Karras")),
        ("Euler D-ODE", None, ("Euler", "D-ODE")),
        ("Euler", "D-ODE", ("Euler", "D-ODE")),
    ],
)
def test_what_the_infotext_s_reader_makes_of_the_names(
    sampler: str, schedule: str | None, found: tuple[str, str], host: Installed
) -> None:
    assert host.web.samplers.get_sampler_and_scheduler(sampler, schedule) == found


def test_nothing_of_the_repository_becomes_a_global_name() -> None:
    """In a Python of its own: which modules the script imports, and from where."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.webui.standins import WebUI, installed
from pathlib import Path
import tempfile
web = WebUI("forge", Path(tempfile.mkdtemp()))
installed(web)
before = set(sys.modules)
sys.modules["webui"] = webui = object()  # the host's own
from tests.webui.installed import load_script
load_script()
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - before if not name.startswith("_")}} & {{
    "nodes", "benchmarks", "scripts", "dode", "dode_webui_adapter", "comfy"}}), sys.modules["webui"] is webui)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(ROOT).parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['dode', 'dode_webui_adapter'] True"
