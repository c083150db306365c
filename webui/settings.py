"""The extension's settings in the WebUI."""

from pathlib import Path
from typing import Any

from .host import feature, option

SECTION = ("dode", "D-ODE")
ENABLED, FOLDERS, GENERIC = "dode_enabled", "dode_folders", "dode_generic"


def enabled() -> bool:
    """Whether the names are to be in the lists. Read before the settings are made, when only what was saved is there."""
    return option(ENABLED, True) is not False


def takes_generic() -> bool:
    """Whether a file that was fitted on several models is taken for a model that has no other."""
    return option(GENERIC, False) is True


def more_folders() -> list[Path]:
    """Folders with parameter files beside the WebUI's own."""
    return [Path(text.strip()).expanduser() for text in str(option(FOLDERS, "")).split(";") if text.strip()]


def add_settings() -> None:
    """Called by the host while it makes its page of settings."""
    kind, options = feature("modules.options:OptionInfo"), feature("modules.shared:opts")
    switch: Any = kind(True, "Show D-ODE among the samplers and schedule types", section=SECTION)
    if hasattr(switch, "needs_reload_ui"):
        switch = switch.needs_reload_ui()
    options.add_option(ENABLED, switch)
    label = "More folders with D-ODE parameter files, such as ComfyUI's output/dode and models/dode; put ; between several"
    options.add_option(FOLDERS, kind("", label, section=SECTION))
    label = "D-ODE takes a file that was fitted on several other models where the model has none of its own"
    options.add_option(GENERIC, kind(False, label, section=SECTION))
