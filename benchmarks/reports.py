"""What the benchmarks' commands have in common: a few options, and a report as Markdown with its figures as JSON beside it."""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

DIGITS = 6  # of a figure in JSON
RESULTS = Path(__file__).parent / "results"


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """A command's parser, with the options that all of them have."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, metavar="DIR", help="keep converged solutions there, and use those that are")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"))
    return parser


def parsed(parser: argparse.ArgumentParser, module: str) -> argparse.Namespace:
    """The options; ``command`` is the command line, ``began`` the time."""
    options = parser.parse_args()
    options.command, options.began = shlex.join(["python", "-m", module, *sys.argv[1:]]), time.time()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def torch_settings(device: str) -> str:
    """What the figures were computed on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    return f"torch {torch.__version__}, {name}"


def made(options: argparse.Namespace) -> dict[str, Any]:
    """How a report's figures came about."""
    machine = torch_settings(getattr(options, "device", "cpu"))
    return {"command": options.command, "machine": machine, "seconds": time.time() - options.began}


def measured(options: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A report's figures, and how they came about."""
    return {**made(options), **more, "rows": rows}


def write(result: dict[str, Any], text: str, folder: Path, name: str) -> None:
    """Figures as JSON and the report as Markdown, under one name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(as_json(result), encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(f"{folder / name}.json, .md", flush=True)


def as_json(result: dict[str, Any]) -> str:
    """JSON with a line for each row or cell, and no more digits than the figures are good for."""

    def lines(value: Any) -> str:
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            return "[\n" + ",\n".join(json.dumps(_rounded(item)) for item in value) + "\n]"
        return json.dumps(_rounded(value))

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {lines(value)}" for key, value in result.items()) + "\n}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
