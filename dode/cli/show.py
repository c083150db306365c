"""What parameter files say: of one file everything, of a folder a line for each sampler."""

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dode.cli.options import model_of, table_text
from dode.errors import DodeError, ForeignFileError, ParameterFileError
from dode.files.compatibility import Match, compare
from dode.files.parameter_file import Entry, ModelInfo, ParameterFile, load_parameters
from dode.files.words import details


def info(options: Namespace) -> int:
    """Print everything a file says."""
    content = load_parameters(options.file)
    if options.json:
        print(json.dumps({"file": str(options.file), **_as_json(content)}, indent=2))
        return 0
    print(f"{options.file}: {len(content.entries)} distilled sampler(s), written by {content.software or 'unknown software'}")
    for name in ("author", "licence", "notes"):
        if getattr(content, name):
            print(f"{name}: {getattr(content, name)}")
    if content.workflow:
        print(f"It holds its maker's {' and '.join(content.workflow)}, with the prompts in them.")
    for entry in content.entries:
        print("\n" + details(entry))
    return 0


def _as_json(content: ParameterFile) -> dict[str, Any]:
    described = [{**asdict(e), "evaluations": e.evaluations} for e in (replace(entry) for entry in content.entries)]
    for item in described:
        for name in ("values", "guidance"):
            table = item["parameters"][name]
            item["parameters"][name] = None if table is None else table.tolist()
    words = {name: getattr(content, name) for name in ("author", "licence", "notes", "software")}
    return {**words, "entries": described}


def list_files(options: Namespace) -> int:
    """List the samplers in a folder, and whether they fit a model; the exit status is 1 if a file cannot be read."""
    if not options.folder.is_dir():
        raise ParameterFileError(f"{options.folder} is not a folder.")
    model = None if options.model is None and options.k_diffusion is None else model_of(options).info
    found = list(every_file(options.folder))
    broken = {path: str(error) for path, error in found if isinstance(error, DodeError)}
    files = {path: content for path, content in found if isinstance(content, ParameterFile)}
    if options.json:
        listed = [{"file": str(path), **_as_json(content), **_fits(content, model)} for path, content in files.items()]
        print(json.dumps({"files": listed, "broken": {str(path): error for path, error in broken.items()}}, indent=2))
        return 1 if broken else 0
    rows = [["file", "solver", "NFE", "guidance", "error", "fitted on", "licence", *(["fits"] if model else [])]]
    for path, content in files.items():
        for number, entry in enumerate(content.entries):
            name = str(path.relative_to(options.folder)) if number == 0 else ""
            rows.append([name, *_cells(entry), content.licence, *([verdict(compare(entry, model))] if model else [])])
    if len(rows) > 1:
        print(table_text(rows, left=True))
        print("\nError: of the distilled sampler divided by that before, on held-out samples.")
    else:
        print(f"There are no parameter files in {options.folder}.")
    for error in broken.values():
        print(f"Not readable: {error}")
    return 1 if broken else 0


def every_file(folder: Path) -> Iterator[tuple[Path, ParameterFile | DodeError]]:
    """Every parameter file under a folder, or why it cannot be read. Other software's safetensors are passed over."""
    for path in sorted(folder.rglob("*.safetensors")):
        found = _read(path)
        if not isinstance(found, ForeignFileError):
            yield path, found


def _read(path: Path) -> ParameterFile | DodeError:
    try:
        return load_parameters(path)
    except DodeError as error:
        return error


def _cells(entry: Entry) -> list[str]:
    report, scale = entry.report, entry.guidance
    ratio = "" if report is None else f"{report.ratio:.2f}"
    return [entry.parameters.method, str(entry.evaluations), "" if scale is None else f"{scale:g}", ratio, entry.model.name]


def _fits(content: ParameterFile, model: ModelInfo | None) -> dict[str, Any]:
    return {} if model is None else {"fits": [verdict(compare(entry, model)) for entry in content.entries]}


def verdict(match: Match) -> str:
    """In a few words whether an entry fits, and why not."""
    if not match:
        return "no: " + "; ".join(match.hard)
    return "yes, but: " + "; ".join(match.soft) if match.soft else "yes"
