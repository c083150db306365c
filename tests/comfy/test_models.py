"""Every kind of model that people load, in every precision; and the committed table of it."""

import pytest

from tests.comfy.kinds import DTYPES, KINDS, check, table
from tests.comfy.server import ROOT, ComfyServer


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], list[str]]:
    """What was found so far."""
    return {}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(comfy: ComfyServer, found: dict[tuple[str, str], list[str]], kind: str) -> None:
    for dtype in DTYPES:
        found[kind, dtype] = check(comfy, kind, dtype)
    assert not {dtype: wrong for (name, dtype), wrong in found.items() if name == kind and wrong}


def test_the_committed_table_is_what_was_found(comfy: ComfyServer, found: dict[tuple[str, str], list[str]]) -> None:
    names = comfy.get("/object_info/DodeTestKind")["DodeTestKind"]["input"]["required"]["kind"][0]
    assert names == list(KINDS)
    for kind in KINDS:
        for dtype in DTYPES:
            if (kind, dtype) not in found:
                found[kind, dtype] = check(comfy, kind, dtype)
    printed = table(comfy, found)
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == printed, "python -m tests.comfy.kinds > docs/models.md"


def test_the_host_has_nothing_to_complain_about(comfy: ComfyServer) -> None:
    check(comfy, "SD1.5", "fp32")
    assert "Please fix your code" not in comfy.log()


@pytest.mark.parametrize(("kind", "dtype"), [("SD3", "fp16"), ("LTX, video and sound", "fp32")])
def test_balanced_too(comfy: ComfyServer, kind: str, dtype: str) -> None:
    assert check(comfy, kind, dtype, mode="balanced") == []
