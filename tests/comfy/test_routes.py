"""The routes for the page: what they give, and what they refuse."""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

import dode
from dode.files.safetensors_container import MAX_FILE_BYTES
from tests.comfy.server import ROOT, ComfyServer

EXAMPLE = ROOT / "example_parameters" / "demo_model_6_steps.safetensors"
OCTETS = "application/octet-stream"


def ask(comfy: ComfyServer, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{comfy.port}{path}", body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def send(comfy: ComfyServer, name: str, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
    path = f"/dode/import?name={urllib.parse.quote(name, safe='')}"
    status, answer = ask(comfy, path, body, **{"Content_Type": OCTETS, **headers})
    return status, json.loads(answer or "{}")


def files(comfy: ComfyServer) -> set[Path]:
    return {path for path in comfy.base.rglob("*.safetensors") if path.is_file()}


def test_a_card_says_what_is_in_a_file(comfy: ComfyServer) -> None:
    status, answer = ask(comfy, f"/dode/file?name={EXAMPLE.name}")
    card = json.loads(answer)
    (entry,) = dode.load_parameters(EXAMPLE).entries
    assert status == 200
    assert (card["file"], card["author"], card["licence"]) == (EXAMPLE.name, "The D-ODE authors", "Apache-2.0")
    (shown,) = card["entries"]
    charts = {chart["key"]: chart["series"] for chart in shown["charts"]}
    assert charts["lambda"][0]["values"] == entry.parameters.values[:, 0].tolist()
    assert [*charts["sigmas"][-1]["values"], 0] == list(entry.parameters.sigmas)
    assert entry.report is not None
    assert shown["report"]["after"] == entry.report.error_distilled


@pytest.mark.parametrize("name", ["", "none.safetensors", "../../main.py", "/etc/passwd", "..%2f..%2fmain.py", "%00"])
@pytest.mark.parametrize("route", ["file", "download"])
def test_only_files_of_the_library_are_given(comfy: ComfyServer, route: str, name: str) -> None:
    assert ask(comfy, f"/dode/{route}?name={name}")[0] == 404


def test_what_lies_in_the_folder_and_is_no_parameter_file_is_not_given(comfy: ComfyServer) -> None:
    secret = comfy.base / "models" / "dode" / "secret.safetensors"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_bytes(b"not for everybody")
    try:
        for route in ("download", "file"):
            status, answer = ask(comfy, f"/dode/{route}?name=secret.safetensors")
            assert status == 422
            assert "secret.safetensors" in json.loads(answer)["error"]
            assert str(comfy.base) not in answer.decode()
    finally:
        secret.unlink()


def test_an_imported_file_can_be_loaded_and_downloaded_and_overwrites_nothing(comfy: ComfyServer) -> None:
    sent = EXAMPLE.read_bytes()
    names = []
    for _ in range(2):
        status, answer = send(comfy, "given.safetensors", sent)
        assert status == 200, answer
        names.append(answer["file"])
    assert names == ["given.safetensors", "given_00002.safetensors"]
    for name in names:
        kept = comfy.base / "models" / "dode" / name
        assert dode.load_parameters(kept).author == "The D-ODE authors"
        assert ask(comfy, f"/dode/download?name={name}") == (200, kept.read_bytes())
    assert set(names) <= set(comfy.get("/object_info/DODELoad")["DODELoad"]["input"]["required"]["file"][1]["options"])


def test_nothing_but_what_the_reader_understands_is_kept(comfy: ComfyServer) -> None:
    data = EXAMPLE.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["smuggled"] = "anything"
    text = json.dumps(header).encode()
    status, answer = send(comfy, "hidden.safetensors", len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert status == 200, answer
    assert b"smuggled" not in (comfy.base / "models" / "dode" / answer["file"]).read_bytes()


@pytest.mark.parametrize(
    "name",
    ["../out.safetensors", "/tmp/out.safetensors", "a/b.safetensors", "a\\b.safetensors", "out.txt", ".safetensors", "",
     "x" * 300 + ".safetensors", "colon:.safetensors", "null\0.safetensors", ".hidden.safetensors"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(comfy: ComfyServer, name: str) -> None:
    before = files(comfy)
    status, answer = send(comfy, name, EXAMPLE.read_bytes())
    assert status in (400, 422)
    assert "no name" in answer["error"]
    assert files(comfy) == before


def test_what_is_no_parameter_file_is_refused_in_words(comfy: ComfyServer) -> None:
    before = files(comfy)
    for body in (b"", b"x" * 100, EXAMPLE.read_bytes()[:-5]):
        status, answer = send(comfy, "bad.safetensors", body)
        assert status == 422
        assert answer["error"].startswith("bad.safetensors was not imported: ")
    assert files(comfy) == before


def test_too_much_is_refused_before_it_is_read(comfy: ComfyServer) -> None:
    status, answer = send(comfy, "big.safetensors", b"\0" * (MAX_FILE_BYTES + 1))
    assert status == 413
    assert "at most" in answer["error"]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "multipart/form-data"}, 415),
    ],
)
def test_other_pages_cannot_import(comfy: ComfyServer, headers: dict[str, str], wanted: int) -> None:
    """A form or a plain request of another site is refused; others need a preflight, which the host answers with no."""
    before = files(comfy)
    assert send(comfy, "foreign.safetensors", EXAMPLE.read_bytes(), **headers)[0] == wanted
    assert files(comfy) == before


def test_import_takes_no_get(comfy: ComfyServer) -> None:
    assert ask(comfy, "/dode/import?name=a.safetensors")[0] in (404, 405)


def test_a_file_by_a_stranger_says_what_it_says_and_no_more(comfy: ComfyServer) -> None:
    """Words of the file are data: they reach the page as they are, and the page puts them in as text."""
    content = replace(dode.load_parameters(EXAMPLE), notes="<img src=x onerror=alert(1)>")
    path = comfy.base / "models" / "dode" / "words.safetensors"
    dode.save_parameters(path, content)
    assert json.loads(ask(comfy, "/dode/file?name=words.safetensors")[1])["notes"] == content.notes
