"""Imports a user's function by its name on the command line."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tailcut.errors import UsageError


def import_function(name: str) -> Callable[..., Any]:
    """Import the function `module:function`, from the current folder or the installed packages.

    Raises:
        UsageError: the name is not of this form, the module cannot be imported, or it has no such function.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UsageError(f"{name!r} does not name a function: write MODULE:FUNCTION, such as package.module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # finds scripts in the current folder, like `python -m`
    try:
        value: Any = import_module(module_name)
    except Exception as error:
        raise UsageError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        value = getattr(value, part, None)
        if value is None:
            raise UsageError(f"{module_name} has no {path}")
    if not callable(value):
        raise UsageError(f"{name} is not a function")
    function: Callable[..., Any] = value
    return function
