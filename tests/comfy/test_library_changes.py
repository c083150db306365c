"""Renaming, deleting and bringing back parameter files from the page, and what is refused."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import ComfyServer
from tests.comfy.test_routes import EXAMPLE, ask

JSON = "application/json"


def change(comfy: ComfyServer, what: str, **fields: Any) -> tuple[int, dict[str, str]]:
    status, answer = ask(comfy, f"/dode/{what}", json.dumps(fields).encode(), Content_Type=JSON)
    return status, json.loads(answer)


def listed(comfy: ComfyServer) -> dict[str, dict[str, Any]]:
    return {file["name"]: file for file in comfy.get("/dode/library")["files"]}


@pytest.fixture(params=["output", "models"])
def folder(request: pytest.FixtureRequest, comfy: ComfyServer) -> Path:
    """One of the two in which files are changed."""
    made = comfy.base / request.param / "dode"
    made.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture
def own(folder: Path, request: pytest.FixtureRequest) -> str:
    """A file of a user's; its name in the library."""
    name = f"mine_{zlib.crc32(request.node.name.encode())}.safetensors"
    shutil.copy(EXAMPLE, folder / name)
    return name


def test_a_list_says_how_large_and_how_old_files_are_and_which_are_ones_own(comfy: ComfyServer, own: str) -> None:
    files = listed(comfy)
    assert files[own]["own"]
    assert files[own]["bytes"] == EXAMPLE.stat().st_size
    assert not files[EXAMPLE.name]["own"]


def test_what_was_deleted_is_in_no_list_and_comes_back_as_it_was(comfy: ComfyServer, folder: Path, own: str) -> None:
    status, answer = change(comfy, "delete", name=own)
    assert status == 200
    assert own not in listed(comfy)
    assert not (folder / own).exists()
    assert change(comfy, "restore", undo=answer["undo"]) == (200, {"file": own})
    assert (folder / own).read_bytes() == EXAMPLE.read_bytes()
    assert own in listed(comfy)
    assert change(comfy, "restore", undo=answer["undo"])[0] == 422, "once"


def test_what_comes_back_takes_nobodys_name(comfy: ComfyServer, folder: Path, own: str) -> None:
    _, answer = change(comfy, "delete", name=own)
    (folder / own).write_bytes(b"another")
    status, back = change(comfy, "restore", undo=answer["undo"])
    assert (status, back["file"]) == (200, own.replace(".safetensors", "_00002.safetensors"))
    assert (folder / own).read_bytes() == b"another"
    assert (folder / back["file"]).read_bytes() == EXAMPLE.read_bytes()


def test_a_file_gets_another_name_but_no_taken_one(comfy: ComfyServer, folder: Path, own: str) -> None:
    new = own.replace("mine", "yours")
    assert change(comfy, "rename", name=own, to=new.removesuffix(".safetensors")) == (200, {"file": new})
    assert not (folder / own).exists()
    shutil.copy(EXAMPLE, folder / own)
    status, answer = change(comfy, "rename", name=own, to=new)
    assert status == 422
    assert "already" in answer["error"]
    assert (folder / own).exists()


@pytest.mark.parametrize("to", ["../out", "../../../out", "/tmp/out", "", ".hidden", "a\\b", "a\0b", "sub/../../out"])
def test_a_new_name_leads_nowhere_else(comfy: ComfyServer, own: str, to: str) -> None:
    before = {path for path in comfy.base.rglob("*") if path.is_file() and path.name != "server.log"}
    status, answer = change(comfy, "rename", name=own, to=to)
    assert status == 422
    assert str(comfy.base) not in answer["error"]
    after = {path for path in comfy.base.rglob("*") if path.is_file() and path.name != "server.log"}
    assert before - after == set()
    assert own in listed(comfy)


@pytest.mark.parametrize("name", ["", "none.safetensors", "../../main.py", "/etc/passwd", "..%2f..%2fmain.py", "a\0"])
@pytest.mark.parametrize("what", ["rename", "delete"])
def test_only_files_of_the_library_are_changed(comfy: ComfyServer, what: str, name: str) -> None:
    assert change(comfy, what, name=name, to="x")[0] == 404


@pytest.mark.parametrize("what", ["rename", "delete"])
def test_what_came_with_the_pack_stays(comfy: ComfyServer, what: str) -> None:
    status, answer = change(comfy, what, name=EXAMPLE.name, to="gone")
    assert status == 422
    assert "came with the pack" in answer["error"]
    assert EXAMPLE.exists()


def test_what_a_link_leads_to_stays(comfy: ComfyServer, folder: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "elsewhere.safetensors")
    link = folder / f"link_{tmp_path.name}"
    link.symlink_to(tmp_path, target_is_directory=True)
    name = f"{link.name}/elsewhere.safetensors"
    assert name in listed(comfy)
    assert change(comfy, "delete", name=name)[0] == 422
    assert (tmp_path / "elsewhere.safetensors").exists()
    link.unlink()


def test_other_pages_change_nothing(comfy: ComfyServer, own: str) -> None:
    body = json.dumps({"name": own}).encode()
    for headers, refused in (
        ({"Content_Type": JSON, "Origin": "http://elsewhere.example"}, 403),
        ({"Content_Type": JSON, "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ):
        assert ask(comfy, "/dode/delete", body, **headers)[0] == refused
    for wrong in (b"", b"[]", b"{", b'{"name": 1}', b'{"name": null}', b"[" * 100_000):
        assert ask(comfy, "/dode/delete", wrong, Content_Type=JSON)[0] == 400
    assert ask(comfy, f"/dode/delete?name={own}")[0] in (404, 405), "a plain link deletes nothing"
    assert own in listed(comfy)
