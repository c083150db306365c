"""The code is formatted, linted and typed; the documents and the tree hold what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["pyright", "--pythonpath", sys.executable]],
    ids=lambda c: " ".join(c[:2]),
)
def test_tools_find_nothing(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_and_files_named_in_documents_exist(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text())
    for target in targets:
        assert (path.parent / target).exists(), f"{document} links to {target}"


def test_the_published_readme_has_all_that_it_links_to() -> None:
    left_out = [line for line in (ROOT / ".comfyignore").read_text().splitlines() if line and not line.startswith("#")]
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert left_out
    assert not [target for target in targets for name in left_out if target == name or target.startswith(name)]


def test_readme_commands_are_commands() -> None:
    """Every option in the documents' command lines is one that the command line knows."""
    from dode.__main__ import build_parser

    documents = ("README.md", "docs/python.md", "docs/paper.md")
    found = [re.findall(r"^python -m dode (.+)$", (ROOT / name).read_text(), re.MULTILINE) for name in documents]
    assert all(found)
    lines = [line for each in found for line in each]
    for line in lines:
        build_parser().parse_args(line.split())
