"""Engines: one protocol, one option set, one way to open a model."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from tailcut.engines.base import Engine, EngineOptions
from tailcut.engines.telemetry import import_openvino
from tailcut.machine.quota import affinity_mask, usable_cpus_and_why
from tailcut.machine.topology import cores_of, topology


@dataclass(frozen=True, slots=True)
class EngineThreads:
    """How many threads compute one call, and the reason, for the user to read."""

    count: int
    reason: str


def open_engine(path: Path, options: EngineOptions, name: str | None = None) -> Engine:
    """Load a model file; the engine's own library is imported only now.

    Args:
        path: an ONNX file, with its external weights beside it where it has any.
        options: the engine and its settings. `threads = 0` becomes a count: left to themselves, engines start a thread
            for each core of the host, whatever a quota or a mask leaves of them.
        name: of the model; the file's stem where none is given.

    Raises:
        ModelFileError: missing, empty, corrupt, or not ONNX; names the file and the reason.
        UnsupportedError: a tensor type or setting that this engine or machine does not have; names it.
    """
    options = msgspec.structs.replace(options, threads=engine_threads(options).count)
    if options.name == "openvino":
        import_openvino()
        from tailcut.engines.openvino import OpenVinoEngine  # noqa: PLC0415  0.2 s that onnxruntime's users need not pay

        return OpenVinoEngine(path, options, name)
    from tailcut.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  likewise

    return OnnxRuntimeEngine(path, options, name)


def engine_threads(options: EngineOptions) -> EngineThreads:
    """The threads of one instance, and the reason: where none are given, the usable CPUs, shared among the instances.

    One for each core, as engines choose by themselves: the second CPU of a core has no arithmetic units of its own.
    """
    if options.threads:
        return EngineThreads(options.threads, "as the settings say")
    cpus = usable_cpus_and_why()
    cores = cores_of(topology(), affinity_mask())
    usable, reason = cpus.count, cpus.reason
    if cores < usable:
        usable, reason = cores, f"one for each core of {usable} CPUs"
    return EngineThreads(max(1, usable // max(options.instances, 1)), reason)


__all__ = ["Engine", "EngineOptions", "EngineThreads", "engine_threads", "open_engine"]
