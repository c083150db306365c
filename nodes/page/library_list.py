"""What in the library fits a checkpoint, and why the rest does not: for the list in Load D-ODE Parameters."""

import asyncio
from typing import Any

from dode.errors import DodeError
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry, ModelInfo

from .. import library
from ..host import feature
from ..host.checkpoints import info_of
from . import library_changes
from .cards import differences, problem, short_card

PATH = "/dode/library"


def register() -> None:
    """Add the route ``GET /dode/library?model=NAME``; NAME is a checkpoint's, as the host's loaders list it.

    It reads and changes nothing, and tells no paths.

    Raises:
        MissingFeature: this host serves its page in another way.
    """
    web, server = feature("aiohttp.web"), feature("server:PromptServer").instance

    @server.routes.get(PATH)
    async def get_library(request: Any) -> Any:
        name = request.rel_url.query.get("model", "")[:1000]
        return web.json_response(await asyncio.to_thread(listing, name))


def listing(name: str = "") -> dict[str, Any]:
    """Every file of the library, or why it cannot be read; with a checkpoint's name, which samplers fit it, and why not."""
    model = info_of(name) if name else None
    return {"model": None if model is None else vars(model), "files": [_file(file, model) for file in library.names()]}


def _file(name: str, model: ModelInfo | None) -> dict[str, Any]:
    try:
        content = library.load(name)
    except DodeError as error:
        return {"name": name, "own": library_changes.is_own(name), **problem(error), "fits": "no", "entries": []}
    entries = [_entry(entry, model) for entry in content.entries]
    fits = [entry["fits"] for entry in entries]
    words = {key: getattr(content, key) for key in ("author", "licence", "notes", "software")}
    best = next((verdict for verdict in ("yes", "perhaps", "no") if verdict in fits), None)
    why = next((entry["why"] for entry in entries if entry["fits"] == best), [])
    said = {"workflow": bool(content.workflow), "fits": best, "why": why, "entries": entries}
    return {"name": name, **words, **library.size_and_date(name), "own": library_changes.is_own(name), **said}


def _entry(entry: Entry, model: ModelInfo | None) -> dict[str, Any]:
    report = entry.report
    errors = {} if report is None else {"error_base": report.error_base, "error_distilled": report.error_distilled}
    said: dict[str, Any] = {"fits": None, "why": []}
    if model is not None:
        match = compare(entry, model)
        said = {"fits": "no" if not match else "perhaps" if match.soft else "yes", "why": differences(match)}
    return {**short_card(entry), **errors, **said}
