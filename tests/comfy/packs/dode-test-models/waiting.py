"""What the host was told to do and has not begun: nothing of its own says so, and tests need not guess how long it takes."""

from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/dode_test/waiting")
async def waiting(_: web.Request) -> web.Response:
    """Whether the memory is still to be freed. It is done in the thread that runs workflows, before the next of them."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        is_waiting = bool(queue.flags)
        if is_waiting:  # told between its look at the flags and its sleep, that thread would not have heard
            queue.not_empty.notify()
    return web.json_response({"waiting": is_waiting})
