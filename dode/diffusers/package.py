"""The package diffusers, which is optional."""

import importlib
from typing import Any

from dode.errors import DependencyError


def imported(name: str) -> Any:
    """A module of diffusers.

    Raises:
        DependencyError: it is not installed, or too old.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"{name} cannot be imported ({error}). Install it with: pip install 'd-ode[diffusers]'"
        ) from error
