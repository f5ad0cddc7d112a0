"""Engines: one protocol, one option set, one way to open a model."""

import os
from pathlib import Path

from tailcut.engines.base import Engine, EngineOptions

# onnxruntime's telemetry starts a thread when it is imported, and waits for that thread when the process ends: a forked
# child, which does not have it, hangs or aborts at its exit.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# openvino cannot be imported where there is neither HOME nor a passwd entry. This is what container runtimes set then.
try:
    Path.home()
except RuntimeError:
    os.environ["HOME"] = "/"

# Engines that open in a forked child whose parent computes with them. Of 90 children forked while four threads did so,
# all opened onnxruntime; of 60, one hung for good in openvino's `compile_model`.
OPEN_AFTER_FORK = frozenset({"onnxruntime"})


def open_engine(path: Path, options: EngineOptions, name: str | None = None) -> Engine:
    """Load a model file; the engine's own library is imported only now.

    Args:
        path: an ONNX file, with its external weights beside it where it has any.
        options: the engine and its settings.
        name: of the model; the file's stem where none is given.

    Raises:
        ModelFileError: missing, empty, corrupt, or not ONNX; names the file and the reason.
        UnsupportedError: a tensor type or setting that this engine or machine does not have; names it.
    """
    if options.name == "openvino":
        from tailcut.engines.openvino import OpenVinoEngine  # noqa: PLC0415  0.2 s that onnxruntime's users need not pay

        return OpenVinoEngine(path, options, name)
    if options.name == "none":
        from tailcut.engines.none import NoneEngine  # noqa: PLC0415  for measurements only

        return NoneEngine(path, options, name)
    from tailcut.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  likewise

    return OnnxRuntimeEngine(path, options, name)


__all__ = ["OPEN_AFTER_FORK", "Engine", "EngineOptions", "open_engine"]
