"""D-ODE for Stable Diffusion WebUI: Forge, reForge, AUTOMATIC1111. ``scripts/dode_webui.py`` loads this folder as one package.

It is not loaded under its folder's name, since these hosts have a module ``webui`` of their own. Importing it does nothing.
"""
