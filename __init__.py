"""D-ODE for ComfyUI: distilled ODE samplers. ComfyUI finds the nodes through ``comfy_entrypoint``.

Importing this does nothing else, so that test runners and other tools may import it where there is no ComfyUI.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI while it starts."""
    from .nodes.extension import DodeExtension

    return DodeExtension()
