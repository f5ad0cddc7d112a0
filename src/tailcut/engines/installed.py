"""Which engines are installed, and the command that installs each of the others. Imports none of them."""

import sys
from importlib.util import find_spec

from tailcut.errors import UnsupportedError

_NAMES = {"torch": "PyTorch"}  # the others are called what they are imported as


def is_installed(engine: str) -> bool:
    """Whether the library of an engine can be imported; "none" needs no library."""
    return engine == "none" or sys.modules.get(engine) is not None or find_spec(engine) is not None


def how_to_install(engine: str) -> str:
    """The command that adds an engine to an installation, for a shell."""
    return f"pip install 'tailcut[{engine}]'"


def require(engine: str) -> None:
    """Do nothing where an engine is installed.

    Raises:
        UnsupportedError: it is not; says how to install it.
    """
    if not is_installed(engine):
        name = _NAMES.get(engine, engine)
        raise UnsupportedError(f"the engine {name} is not installed: {how_to_install(engine)}")
