"""What the host was told to do and has not begun: nothing of its own says so, and tests need not guess how long it takes."""

from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/dode_test/waiting")
async def waiting(_: web.Request) -> web.Response:
    """Whether the memory is still to be freed. It is done in the thread that runs workflows, before the next of them."""
    return web.json_response({"waiting": bool(PromptServer.instance.prompt_queue.get_flags(reset=False))})
