"""Routes for the page: the card of a file, download, import with the checks that a file from anywhere needs, rename
and delete; stop and keep."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from dode.errors import DodeError, ParameterFileError
from dode.files.parameter_file import from_bytes
from dode.files.safetensors_container import MAX_FILE_BYTES

from .. import library
from ..fitting.progress import Place
from ..fitting.stopping import ask_to_stop
from ..host import feature, folder_paths
from . import library_changes
from .cards import file_card, problem

web: Any = feature("aiohttp.web")
_CONTENT = "application/octet-stream"


class _Refused(Exception):
    """A request that is not carried out: an HTTP status and what to do instead. What the page itself can ask has a kind."""

    def __init__(self, status: int, message: str, kind: str = ""):
        super().__init__(message)
        self.status, self.kind = status, kind


def register() -> None:
    """Add the routes to the host's server.

    Raises:
        MissingFeature: this host has no server.
    """
    server = feature("server:PromptServer").instance
    server.routes.get("/dode/file")(_answering(_file))
    server.routes.get("/dode/download")(_answering(_download))
    server.routes.post("/dode/import")(_answering(_import))
    server.routes.post("/dode/stop")(_answering(_stop))
    server.routes.post("/dode/rename")(_answering(_rename))
    server.routes.post("/dode/delete")(_answering(_delete))
    server.routes.post("/dode/restore")(_answering(_restore))


def _answering(handler: Any) -> Any:
    async def answer(request: Any) -> Any:
        try:
            return await handler(request)
        except _Refused as refused:
            return web.json_response({"error": str(refused), "kind": refused.kind}, status=refused.status)
        except DodeError as error:
            return web.json_response(problem(error), status=422)

    return answer


async def _file(request: Any) -> Any:
    name = _known(request.query.get("name", ""))
    content = await asyncio.to_thread(library.load, name)
    return web.json_response(file_card(name, content))


async def _download(request: Any) -> Any:
    name = _known(request.query.get("name", ""))
    await asyncio.to_thread(library.load, name)  # parameter files only, whatever else lies in these folders
    disposition = f"attachment; filename*=UTF-8''{quote(library.path_of(name).name)}"
    headers = {"Content-Type": _CONTENT, "Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}
    return web.FileResponse(library.path_of(name), headers=headers)


def _known(name: str) -> str:
    """A name of the library's own list, so that no path is ever followed."""
    if name not in library.names():
        raise _Refused(404, f"There is no parameter file {name!r}. Press R to refresh the list.", "NoSuchFile")
    return name


async def _import(request: Any) -> Any:
    """The body is the file. What is kept is what the reader understood of it, written anew under models/dode."""
    _refuse_other_origins(request, "Files are imported")
    if request.content_type != _CONTENT:
        raise _Refused(415, f"Send the file itself as {_CONTENT}.")
    name = request.query.get("name", "")
    if not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
        raise _Refused(400, f"{name[:80]!r} is no name of a parameter file: it must end in .safetensors and name no folder.")
    data = await _body(request)
    saved = await asyncio.to_thread(_keep, data, name)
    return web.json_response({"file": saved})


def _keep(data: bytes, name: str) -> str | None:
    try:
        content = from_bytes(data)
    except ParameterFileError as error:
        raise type(error)(f"{name} was not imported: {error}") from error
    folder = Path(folder_paths.get_folder_paths(library.FOLDER)[0])
    return library.name_of(library.save(content, name, folder))


async def _stop(request: Any) -> Any:
    """Ask the fit of a node to end and to keep what it has; the workflow is the one that its progress events name."""
    _refuse_other_origins(request, "Fits are stopped")
    node = request.query.get("node", "")
    if not ask_to_stop(Place(node, request.query.get("workflow"))):
        raise _Refused(404, f"No fit that could be stopped runs on node {node[:80]!r}; perhaps it has just ended.", "NoSuchFit")
    return web.json_response({"stopping": True})


async def _rename(request: Any) -> Any:
    name, to = await _words(request, "name", "to")
    return web.json_response({"file": await asyncio.to_thread(library_changes.rename, _known(name), to)})


async def _delete(request: Any) -> Any:
    (name,) = await _words(request, "name")
    return web.json_response({"undo": await asyncio.to_thread(library_changes.delete, _known(name))})


async def _restore(request: Any) -> Any:
    (word,) = await _words(request, "undo")
    return web.json_response({"file": await asyncio.to_thread(library_changes.restore, word)})


async def _words(request: Any, *names: str) -> list[str]:
    """These fields, texts, of a small JSON object: a content type that no form of another page can send."""
    _refuse_other_origins(request, "Files are changed")
    if request.content_type != "application/json":
        raise _Refused(415, "Send a JSON object as application/json.")
    try:
        fields: Any = json.loads(await _body(request))
    except (ValueError, RecursionError):
        fields = None
    words = [fields.get(name) for name in names] if isinstance(fields, dict) else [None]
    found = [word for word in words if isinstance(word, str) and len(word) <= 1000]
    if len(found) < len(names):
        raise _Refused(400, f"Send a JSON object with {' and '.join(names)}.")
    return found


def _refuse_other_origins(request: Any, what: str) -> None:
    """The host refuses most of them already; a host that is open to other origins is so for its own routes."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:  # said by the browser itself, where the connection can be trusted
        elsewhere = site not in ("same-origin", "none")
    else:
        elsewhere = origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()
    if elsewhere:
        raise _Refused(403, f"{what} from ComfyUI's own page only.")


async def _body(request: Any) -> bytes:
    """Never more of it than a parameter file may have, whatever its header says."""
    parts, size = [], 0
    too_large = _Refused(413, f"A parameter file is at most {MAX_FILE_BYTES >> 20} MiB, this is larger.", "TooLarge")
    if (request.content_length or 0) > MAX_FILE_BYTES:
        raise too_large
    async for part in request.content.iter_chunked(1 << 16):
        size += len(part)
        if size > MAX_FILE_BYTES:
            raise too_large
        parts.append(part)
    return b"".join(parts)
