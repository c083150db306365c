"""The package as others get it: what it imports, what it exports, what it says of itself."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dode
from dode.demo.mixture import ring

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def run(code: str, *, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCK.format(blocked=blocked) + code], cwd=ROOT, capture_output=True, text=True
    )


def test_it_needs_torch_numpy_and_safetensors_alone() -> None:
    """Distill, save, load and sample with everything blocked that is installed here but not a dependency."""
    code = """
import tempfile, torch, dode
from dode.demo.model import embedded_model
from dode.demo.mixture import ring
import dode.__main__, dode.cli.commands
sigmas = dode.schedule("karras", 4, 0.1, 10.0)
x = torch.randn(8, 4, dtype=torch.float64) * 10
found = dode.distill(ring(), x, sigmas)
path = dode.save_parameters(tempfile.mkdtemp() + "/a.safetensors", [dode.Entry(found.parameters, report=found.report)])
dode.make_sampler(dode.load_parameters(path).entries[0].parameters)(ring(), x, torch.tensor(sigmas))
embedded_model()
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"comfy", "nodes", "folder_paths", "k_diffusion", "diffusers", "scipy", "matplotlib", "tqdm"}))
"""
    blocked = (
        "comfy",
        "comfy_api",
        "folder_paths",
        "k_diffusion",
        "diffusers",
        "scipy",
        "matplotlib",
        "PIL",
        "tqdm",
        "einops",
        "transformers",
    )
    done = run(code, blocked=blocked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_plots_without_matplotlib_say_what_to_install(tmp_path: Path) -> None:
    done = run(
        f"from dode.__main__ import main; sys.exit(main(['demo', '--output', {str(tmp_path)!r}]))", blocked=("matplotlib",)
    )
    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_example_in_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    for printed, small in (("torch.randn(64, 4, 64, 64)", "torch.randn(12, 4)"), ('device="cuda"', 'device="cpu"')):
        assert example.count(printed) == 1
        example = example.replace(printed, small)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"denoiser": ring()}
    exec(example, names)
    assert names["pictures"].shape == (12, 4)
    assert len(dode.load_parameters(tmp_path / "mine.safetensors").entries) == 2


def test_everything_exported_is_documented() -> None:
    for name in dode.__all__:
        thing = getattr(dode, name)
        if not name.startswith("__") and name != "METHODS":
            said = (thing.__doc__ or "").strip()
            assert said, name
            assert not said.startswith(f"{name}("), f"{name} has only what a dataclass says of itself"


def test_the_version_is_stated_once_in_each_language() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{dode.__version__}"\n' in text
    assert f"## {dode.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "dode").rglob("*.py")), ids=lambda p: p.name)
def test_modules_are_short_and_know_nothing_of_comfy(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert not re.search(r"^\s*(import|from) comfy", text, re.MULTILINE)
    assert text.startswith('"""'), "a module says first what it is for"
