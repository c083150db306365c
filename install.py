"""Install and check D-ODE. Without a flag, this is what ComfyUI's Manager and Stable Diffusion WebUI run.

python install.py           inside the host's Python: check that what the pack needs is there; torch is never touched
python install.py --demo    make a virtual environment beside this file, distill on the embedded model, show the result
python install.py --test    the same environment with the test tools; run the whole test suite

Inside ComfyUI's custom_nodes the environment goes into the user's cache folder: ComfyUI looks through what lies in there.
"""

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 10)
NEEDED = ("torch", "numpy", "safetensors")
WORKERS = ("-n", "logical", "--maxprocesses", "4")  # of pytest: a core each, and a ComfyUI each; `-n 0` after --test is none


def _environment() -> Path:
    places = (Path(__file__).absolute().parent, ROOT)  # the way here may be a link
    if not any("custom_nodes" in place.parts for place in places):
        return ROOT / ".venv"
    cache = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    copy = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]  # each copy of the pack has its own
    return (Path(cache) if cache else Path.home() / ".cache") / "d-ode" / copy


ENVIRONMENT = _environment()


class InstallError(Exception):
    """Something is missing; the message says what and what to do."""


def check_host() -> int:
    """Say what the pack needs and finds in this Python. Everything it needs comes with the host.

    A WebUI runs this at every start and prints what it says: there it says nothing where nothing is missing.
    """
    host, silent = ("the WebUI", True) if in_webui() else ("ComfyUI", False)
    missing: list[str] = []
    found: list[str] = []
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            missing.append(name)
            found.append(f"D-ODE: {name} is missing.")
            continue
        try:
            found.append(f"D-ODE: {name} {version(name)} is here.")
        except PackageNotFoundError:
            found.append(f"D-ODE: {name} is here.")
    if missing or not silent:
        print("\n".join(found))
    if missing:
        raise InstallError(
            f"This Python ({sys.executable}) lacks {', '.join(missing)}, which {host} itself needs. "
            f"Run this with {host}'s own Python, or repair {host} (pip install -r requirements.txt in its folder)."
        )
    if not silent:
        print("D-ODE: nothing to install. Restart ComfyUI to load the nodes.")
    return 0


def in_webui() -> bool:
    """Whether this file lies where a Stable Diffusion WebUI has its extensions, by its name or by the link to it."""
    return Path(__file__).absolute().parent.parent.name == "extensions"


def environment_python() -> Path:
    return ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(extra: str) -> Path:
    """Make the environment with an extra of pyproject.toml installed, or find it ready; returns its Python."""
    python = environment_python()
    if ENVIRONMENT != ROOT / ".venv" and (ROOT / ".venv").exists():
        print(f"{ROOT / '.venv'} is of an earlier version and in ComfyUI's way: delete it.", flush=True)
    files = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "tests/no_deps.txt")]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = ENVIRONMENT / f"installed-{extra}"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted and _works(python):
        print(f"The environment {ENVIRONMENT} is ready.", flush=True)
        return python
    if not (python.exists() and _works(python, pip=True)):
        print(f"Making the environment {ENVIRONMENT} …", flush=True)
        try:
            ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
            venv.EnvBuilder(with_pip=True, clear=True).create(ENVIRONMENT)
        except (OSError, subprocess.CalledProcessError) as error:
            raise InstallError(
                f"The environment could not be made: {error}. On Debian and Ubuntu: apt install python3-venv. "
                f"Otherwise see that {ENVIRONMENT.parent} can be written to."
            ) from error
    print(f"Installing what '{extra}' needs (torch is large; this takes a few minutes the first time) …", flush=True)
    _pip(python, "--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[{extra}]")
    if extra == "test":
        _pip(python, "--no-deps", "--requirement", str(ROOT / "tests" / "no_deps.txt"))
    stamp.write_text(wanted)
    return python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise InstallError(
            f"pip could not install the packages:\n{done.stderr.strip()[-1500:]}\n"
            "If this machine is offline, go online once and run the command again; what was installed is kept."
        )


def _works(python: Path, pip: bool = False) -> bool:
    code = "import pip" if pip else "import torch, numpy, safetensors, dode"
    return subprocess.run([str(python), "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three; returns the exit status."""
    if sys.version_info < OLDEST:
        print(f"D-ODE needs Python {OLDEST[0]}.{OLDEST[1]} or newer, this is {sys.version.split()[0]}.", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--demo", action="store_true", help="install into an environment and run the demonstration")
    group.add_argument("--test", action="store_true", help="install into an environment and run the test suite")
    options, rest = parser.parse_known_args(arguments)
    if rest and not (options.demo or options.test):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        if options.demo:
            return subprocess.run([str(prepare("demo")), "-m", "dode", "demo", *rest], cwd=ROOT).returncode
        if options.test:
            command = [str(prepare("test")), "-m", "pytest", *WORKERS, *rest]
            # Each worker has a core; torch with more threads than there are free cores takes ten times as long.
            return subprocess.run(command, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode
        return check_host()
    except InstallError as error:
        print(f"D-ODE: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("D-ODE: stopped. Run the same command again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
