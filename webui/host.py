"""The WebUI as the adapter needs it: every name taken from the host goes through here.

The forks differ in what they have, and nothing here asks for versions: what is there is used, and what is missing turns off
what needs it.
"""

from typing import Any

from dode.host_names import Host
from dode.host_names import MissingFeature as MissingFeature

_host = Host(
    "this WebUI",
    "The extension is made for Forge, reForge and AUTOMATIC1111 from 1.9 on; update the WebUI, and the extension if that does "
    "not help",
)
feature, optional = _host.feature, _host.optional


def option(name: str, default: Any) -> Any:
    """A setting of the host, or the default where this host has none of that name."""
    return getattr(feature("modules.shared:opts"), name, default)


def state() -> Any:
    """What the host's job is doing, and whether the user has asked it to stop."""
    return feature("modules.shared:state")


def loaded() -> Any:
    """The checkpoint that is loaded."""
    return feature("modules.shared").sd_model


_said: set[str] = set()


def say_once(text: str) -> None:
    """Write a line to the console, unless it stands there since the start. These hosts hide what is logged as information."""
    if text not in _said:
        _said.add(text)
        print(f"D-ODE: {text}", flush=True)
