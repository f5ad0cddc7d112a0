"""Engines: one protocol, one option set, one way to open a model."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tailcut.engines.base import Engine, EngineOptions
from tailcut.engines.installed import require
from tailcut.engines.reshaped import ReshapedEngine
from tailcut.engines.telemetry import import_openvino
from tailcut.errors import UnsupportedError
from tailcut.machine.quota import affinity_mask, usable_cpus_and_why
from tailcut.machine.topology import cores_of, topology


@dataclass(frozen=True, slots=True)
class EngineThreads:
    """How many threads compute one call, and the reason in words."""

    count: int
    reason: str


# onnxruntime's telemetry starts a thread at import and waits for it at exit: a forked child, which does not have that
# thread, would hang or abort at exit.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# openvino cannot be imported without HOME and a passwd entry. Container runtimes set this value then.
try:
    Path.home()
except RuntimeError:
    os.environ["HOME"] = "/"

# Engines that can be opened in a forked child whose parent computes with them. While four threads computed, all of 90
# forked children opened onnxruntime; one of 60 hung in openvino's `compile_model`.
OPEN_AFTER_FORK = frozenset({"onnxruntime"})


def open_engine(path: Path, options: EngineOptions, name: str | None = None) -> Engine:
    """Load a model file; the library of the engine is imported only now.

    Args:
        path: a model file, with its external weights beside it where it has some, or the directory of a SavedModel.
            Kinds other than ONNX are each computed by one engine only.
        options: the engine and its settings. `threads = 0` is replaced by a number: by themselves, engines would start
            a thread for each core of the host, whatever a quota or an affinity mask allows.
        name: of the model; None: the file's stem.

    Raises:
        ModelFileError: the file is missing, empty, corrupt, or of a kind that the engine does not compute; the message
            names the file and the reason.
        UnsupportedError: this engine or machine does not support a tensor type or setting; the message names it.
    """
    options = msgspec.structs.replace(options, threads=engine_threads(options).count)
    if options.precision == "tf32" and options.device == "cpu":
        raise UnsupportedError("precision tf32 needs a CUDA device: use f32 on the CPU, or device cuda")
    on_cuda = options.device == "cuda" and options.name != "none"
    engine = _open_on_cuda(path, options, name) if on_cuda else import_engine(options.name)(path, options, name)
    if not options.reshapes:
        return engine
    try:
        return ReshapedEngine(engine, options.reshapes)
    except UnsupportedError:
        engine.close()
        raise


def import_engine(name: str) -> Callable[[Path, EngineOptions, str | None], Engine]:
    """Import the library of an engine; returns the function that loads a model with it.

    Raises:
        UnsupportedError: the library is not installed; the message says how to install it.
    """
    if name == "openvino":
        import_openvino()
        from tailcut.engines.openvino import OpenVinoEngine  # noqa: PLC0415  0.2 s, only for its users

        return OpenVinoEngine
    if name == "none":
        from tailcut.engines.none import NoneEngine  # noqa: PLC0415  for measurements only

        return NoneEngine
    if name == "torch":
        require("torch")
        from tailcut.engines.torch.script import open_torch  # noqa: PLC0415  2 s, only for its users

        return open_torch
    require("onnxruntime")
    from tailcut.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  likewise

    return OnnxRuntimeEngine


def _open_on_cuda(path: Path, options: EngineOptions, name: str | None) -> Engine:
    if options.name == "onnxruntime":
        import_engine("onnxruntime")
        from tailcut.engines.cuda.onnx import OnnxCudaEngine  # noqa: PLC0415  only where it is asked for

        return OnnxCudaEngine(path, options, name)
    if options.name != "torch":
        raise UnsupportedError(f"device cuda has no engine {options.name}: use torch or onnxruntime, or device cpu")
    import_engine("torch")
    from tailcut.engines.cuda.engine import CudaEngine  # noqa: PLC0415  only where it is asked for

    return CudaEngine(path, options, name)


def engine_threads(options: EngineOptions) -> EngineThreads:
    """The threads of one instance, and the reason; by default, the usable CPUs are divided among the instances.

    That is one thread per core, as engines choose by themselves: the second CPU of a core shares its arithmetic units.
    """
    if options.threads:
        return EngineThreads(options.threads, "as the settings say")
    cpus = usable_cpus_and_why()
    cores = cores_of(topology(), affinity_mask())
    usable, reason = cpus.count, cpus.reason
    if cores < usable:
        usable, reason = cores, f"one for each core of {usable} CPUs"
    return EngineThreads(max(1, usable // max(options.instances, 1)), reason)


__all__ = [
    "OPEN_AFTER_FORK",
    "Engine",
    "EngineOptions",
    "EngineThreads",
    "engine_threads",
    "import_engine",
    "open_engine",
]
