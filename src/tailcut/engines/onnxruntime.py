"""onnxruntime behind the engine protocol.

A bound call goes to the C++ session directly: 4.8 us for a 256-256-64-10 perceptron, where `session.run` with fresh
arrays takes 9 (2 cores, AVX-512). The bypassed Python wrapper only adds a None check of the binding.
"""

import ctypes
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.edits import prepare
from tailcut.engines.empty_check import EmptyCheck
from tailcut.engines.error_line import short
from tailcut.engines.graph import read_spec
from tailcut.engines.graph_hints import read_hints
from tailcut.errors import EngineError, ModelFileError, ReleasedError, UnsupportedError
from tailcut.machine.quota import affinity_mask
from tailcut.spec import DType, TensorSpec

ort.disable_telemetry_events()
ort.set_default_logger_severity(4)  # fatal only: errors are raised, and need no log entry
_AS_REQUESTED = 1  # ArenaExtendStrategy::kSameAsRequested
_EXTENSIONS = {"ai.onnx.contrib", "com.microsoft.extensions"}  # domains of operators in onnxruntime-extensions
_ENDING = "DecodeImage"  # 0.15.2 does not handle libjpeg's errors, and libjpeg calls exit: 16 zero bytes do it
_LEVELS = {
    ("off", "plain"): ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ("off", "blocked"): ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ("basic", "plain"): ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ("basic", "blocked"): ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ("all", "plain"): ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,  # everything but the NCHWc layout
    ("all", "blocked"): ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class OnnxRuntimeEngine:
    """One session; its bound calls may run from `options.instances` threads at once."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        if options.precision in {"bf16", "f16"}:
            raise UnsupportedError(
                f"onnxruntime has no {options.precision} kernels for CPUs: use openvino, or f32 or int8"
            )
        if options.layout == "channels_last":
            raise UnsupportedError("onnxruntime has no layout channels_last: use blocked or plain")
        self.options = options
        prepared = prepare(path, options)
        self.hints = read_hints(prepared.graph)
        self.spec = read_spec(prepared.graph, path, name)
        self._empty = EmptyCheck.of(prepared.graph)
        source = prepared.source
        session = _session_options(options)
        register_extensions(path, prepared.graph, session)
        del prepared  # frees the graph before the engine builds its own
        try:
            model = source if isinstance(source, bytes) else str(source)
            self._session: Any = ort.InferenceSession(model, session, ["CPUExecutionProvider"], enable_fallback=0)
        except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base
            raise ModelFileError(f"{path}: onnxruntime cannot load it: {short(error)}") from None
        self._calls = _RunOptions()
        self._output_names = list(self.spec.output_names)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        session = self._open()
        check_arrays(self.spec, inputs, outputs)
        binding = session.io_binding()
        for tensors, arrays, bind in (
            (self.spec.inputs, inputs, binding.bind_input),
            (self.spec.outputs, outputs, binding.bind_output),
        ):
            for tensor in tensors:
                array = arrays[tensor.name]
                bind(tensor.name, "cpu", 0, _element(tensor), array.shape, array.ctypes.data)
        # Only the C++ objects are used below; the wrappers keep them alive.
        keep = (binding, dict(inputs), dict(outputs))
        run, bound = session._sess.run_with_iobinding, binding._iobinding  # noqa: SLF001  the head comment says why
        calls = self._calls

        def call(_keep: object = keep) -> None:
            if self._session is None:
                raise ReleasedError("the engine was closed")
            try:
                run(bound, calls[get_ident()])
            except Exception as error:  # noqa: BLE001  as in __init__
                calls.forget()
                raise EngineError(f"onnxruntime failed: {short(error)}") from None

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        session = self._open()
        if self._empty is not None:
            self._empty.check(inputs)
        if any(tensor.dtype is DType.BF16 for tensor in self.spec.inputs + self.spec.outputs):
            return self._run_bound(session, inputs)
        try:
            # Bypasses the wrapper, as in bind: it checks every input again, which takes 2 us of a small model's 9.
            results = session._sess.run(self._output_names, dict(inputs), self._calls[get_ident()])  # noqa: SLF001
        except Exception as error:  # noqa: BLE001  as in __init__
            self._calls.forget()
            raise EngineError(f"onnxruntime failed: {short(error)}") from None
        return dict(zip(self._output_names, map(np.asarray, results), strict=True))

    def interrupt(self, thread: int) -> None:
        """See `Interruptible.interrupt`; onnxruntime checks between two nodes, also inside a Loop."""
        self._calls[thread].terminate = True

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def _run_bound(self, session: Any, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run with bfloat16, which numpy lacks and `session.run` does not accept, by binding addresses."""
        binding = session.io_binding()
        held = {name: np.asarray(array, order="C") for name, array in inputs.items()}
        outputs: dict[str, np.ndarray] = {}
        try:
            for tensor in self.spec.inputs:
                array = held[tensor.name]
                if tensor.dtype is DType.BF16:
                    binding.bind_input(tensor.name, "cpu", 0, TensorProto.BFLOAT16, array.shape, array.ctypes.data)
                else:
                    binding.bind_cpu_input(tensor.name, array)
            for tensor in self.spec.outputs:
                binding.bind_output(tensor.name, "cpu")
            session._sess.run_with_iobinding(binding._iobinding, self._calls[get_ident()])  # noqa: SLF001  as in run
            for tensor, value in zip(self.spec.outputs, binding.get_outputs(), strict=True):
                outputs[tensor.name] = _bfloat16(value) if tensor.dtype is DType.BF16 else value.numpy()
        except Exception as error:  # noqa: BLE001  as in __init__
            self._calls.forget()
            raise EngineError(f"onnxruntime failed: {short(error)}") from None
        return outputs

    def _open(self) -> Any:
        if self._session is None:
            raise ReleasedError("the engine was closed")
        return self._session


class _RunOptions(dict[int, Any]):
    """Run options by thread, through which another thread can end a call; finding them takes 80 ns per call."""

    def __missing__(self, thread: int) -> Any:
        options = self[thread] = ort.RunOptions()
        return options

    def forget(self) -> None:
        """Drop this thread's options after a failed call: if it was terminated, they would end the next call, too."""
        self.pop(get_ident(), None)


def _bfloat16(value: Any) -> np.ndarray:
    """A copy of a bfloat16 output, read through its address."""
    shape = value.shape()
    array: np.ndarray = np.empty(shape, DType.BF16.numpy)
    if array.nbytes:
        ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
    return array


def _session_options(options: EngineOptions) -> Any:
    session = ort.SessionOptions()
    session.log_severity_level = 4
    session.graph_optimization_level = _LEVELS[options.graph, options.layout]
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.enable_cpu_mem_arena = options.arena
    session.enable_mem_pattern = options.arena
    if options.arena and options.arena_growth == "as_requested":
        _register_arena()
        session.add_session_config_entry("session.use_env_allocators", "1")
    session.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    if options.spinning and options.spin_us:
        session.add_session_config_entry("session.intra_op.spin_duration_us", str(options.spin_us))
    session.add_session_config_entry("session.disable_prepacking", "0" if options.prepack else "1")
    if options.pinning and options.threads > 1:
        # The pool counts the calling thread as its first, but does not bind it; CPUs are numbered from 1.
        cpus = sorted(affinity_mask())[1 : options.threads]
        if len(cpus) == options.threads - 1:
            places = ";".join(str(cpu + 1) for cpu in cpus)
            session.add_session_config_entry("session.intra_op_thread_affinities", places)
    return session


@cache
def _register_arena() -> None:
    """Register an arena that grows by exactly what is requested, shared by the sessions of this process that use one.

    Python cannot set this option for a session's own arena, only for arenas of the environment.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    default = {"max_mem": 0, "initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(default | {"arena_extend_strategy": _AS_REQUESTED}))


def register_extensions(path: Path, graph: onnx.ModelProto, session: Any) -> None:
    """Register the operators of onnxruntime-extensions (tokenisers, decoders) in a session if the graph has any.

    Raises:
        UnsupportedError: that package is not installed, or an operator may crash the process.
    """
    names = sorted({node.op_type for node in graph.graph.node if node.domain in _EXTENSIONS})
    if not names:
        return
    if _ENDING in names:
        raise UnsupportedError(
            f"{path}: the operator {_ENDING} of onnxruntime-extensions ends the process on bytes that are not an "
            "image: decode images in a step of a pipeline, or in the client"
        )
    try:
        extensions = import_module("onnxruntime_extensions")
    except ImportError:
        raise UnsupportedError(
            f"{path}: the operators {', '.join(names)} come from onnxruntime-extensions, which is not installed: "
            "pip install 'tailcut[text]'"
        ) from None
    session.register_custom_ops_library(extensions.get_library_path())


def _element(tensor: TensorSpec) -> Any:
    return TensorProto.BFLOAT16 if tensor.dtype is DType.BF16 else tensor.dtype.numpy.type
