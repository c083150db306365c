"""Names of a host that moves: what is not there turns off what needs it, and nothing else."""

import importlib
from dataclasses import dataclass
from typing import Any


class MissingFeature(ImportError):
    """A host lacks something that is needed of it."""


@dataclass(frozen=True)
class Host:
    """A program that this one runs in.

    Attributes:
        name: for messages, such as "this ComfyUI".
        advice: what to do where a name is missing; a sentence without its full stop.

    Example:
        >>> host = Host("this Python", "Install a newer one")
        >>> host.feature("math:pi") > 3, host.optional("math:no_such_name")
        (True, None)
    """

    name: str
    advice: str

    def feature(self, path: str) -> Any:
        """A name of the host, ``"module:name"`` or ``"module"``.

        Raises:
            MissingFeature: it is not there.
        """
        module, _, name = path.partition(":")
        try:
            found = importlib.import_module(module)
            return getattr(found, name) if name else found
        except (ImportError, AttributeError) as error:
            raise MissingFeature(f"{self.name} has no {path.replace(':', '.')} ({error}). {self.advice}") from error

    def optional(self, path: str) -> Any:
        """A name of the host, or None."""
        try:
            return self.feature(path)
        except MissingFeature:
            return None
