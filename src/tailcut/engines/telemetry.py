"""Keeps the engines from reporting home: nothing that we start resolves a host that the user has not named.

The import of openvino sends an event to www.google-analytics.com where the package openvino_telemetry is installed,
which it requires. Without that package it has a stub of its own, so the package is hidden from this one import.
onnxruntime has events on Windows only, and a switch.
"""

import sys
from types import ModuleType

from tailcut.engines.installed import require

_PACKAGE = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """Import the package openvino without its telemetry. Where the process has imported it before, it stays as it is.

    Raises:
        UnsupportedError: it is not installed; says how to install it.
    """
    require("openvino")
    hides = "openvino" not in sys.modules and _PACKAGE not in sys.modules
    if hides:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # documented: its import raises then
    try:
        import openvino  # noqa: PLC0415  half a second, and only where it is asked for
    finally:
        if hides:
            del sys.modules[_PACKAGE]
    return openvino  # type: ignore[no-any-return]
