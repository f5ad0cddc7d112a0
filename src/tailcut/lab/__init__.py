"""Measures functions and servers, and reads and writes the results. `benchmark` is loaded at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailcut.lab.microbench import benchmark

__all__ = ["benchmark"]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'tailcut.lab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module("tailcut.lab.microbench"), name)
    return value
