"""Keeps engines from sending telemetry: Tailcut contacts no host that the user has not named.

Importing openvino sends an event to www.google-analytics.com if the package openvino_telemetry is installed, which
openvino requires. Without that package it uses a stub, so the package is hidden during this import. onnxruntime sends
events on Windows only, where they can be switched off.
"""

import sys
from types import ModuleType

from tailcut.engines.installed import require

_PACKAGE = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """Import openvino without its telemetry; no effect if the process has imported it before.

    Raises:
        UnsupportedError: openvino is not installed; says how to install it.
    """
    require("openvino")
    hides = "openvino" not in sys.modules and _PACKAGE not in sys.modules
    if hides:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # documented: importing it then raises
    try:
        import openvino  # noqa: PLC0415  half a second, and only where it is asked for
    finally:
        if hides:
            del sys.modules[_PACKAGE]
    return openvino  # type: ignore[no-any-return]
