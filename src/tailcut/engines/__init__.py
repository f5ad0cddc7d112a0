"""Engines: one protocol, one option set, one way to open a model."""

import logging
from pathlib import Path

import msgspec

from tailcut.engines.base import Engine, EngineOptions
from tailcut.machine.quota import affinity_mask, usable_cpus_and_why
from tailcut.machine.topology import cores_of, topology

_log = logging.getLogger("tailcut")


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
    options = _with_threads(options, name or path.stem)
    if options.name == "openvino":
        from tailcut.engines.openvino import OpenVinoEngine  # noqa: PLC0415  0.2 s that onnxruntime's users need not pay

        return OpenVinoEngine(path, options, name)
    from tailcut.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  likewise

    return OnnxRuntimeEngine(path, options, name)


def _with_threads(options: EngineOptions, name: str) -> EngineOptions:
    """The options with a number of threads, shared out among the instances; one a core, as engines do by themselves."""
    if options.threads:
        return options
    cpus = usable_cpus_and_why()
    cores = cores_of(topology(), affinity_mask())
    usable, reason = cpus.count, cpus.reason
    if cores < usable:
        usable, reason = cores, f"one for each core of {usable} CPUs"
    threads = max(1, usable // max(options.instances, 1))
    _log.info("%s: engine threads: %d (instances: %d): %s", name, threads, options.instances, reason)
    return msgspec.structs.replace(options, threads=threads)


__all__ = ["Engine", "EngineOptions", "open_engine"]
