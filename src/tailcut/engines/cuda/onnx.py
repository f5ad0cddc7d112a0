"""An ONNX model on a CUDA device, through onnxruntime's provider: bound device memory, and a graph for each bucket.

A batch is copied into device memory of its bucket, computed there by a call that is bound to that memory, and copied
out into the rows of the answer. onnxruntime captures the second call of a binding as a CUDA graph, under the number
that the call states, and replays it from then on. Only the first 64 bindings have graphs: where requests have many
lengths, further ones are launched operator by operator. onnxruntime keeps graphs for each thread, and so does this
engine: every calling thread has device memory of its own, and threads copy simultaneously. Replays take turns, because
a session with graphs computes one call at a time.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.cuda.buckets import bucket_of
from tailcut.engines.cuda.faults import device_error
from tailcut.engines.cuda.provider import PROVIDER, check_options, missing_provider, provider_options
from tailcut.engines.edits import prepare, whole_model
from tailcut.engines.error_line import short
from tailcut.engines.graph import read_spec
from tailcut.engines.graph_hints import read_hints
from tailcut.engines.onnxruntime import register_extensions
from tailcut.engines.phases import PhaseTimes
from tailcut.errors import ModelFileError, ReleasedError, TailcutError, UnsupportedError
from tailcut.spec import DType

_log = logging.getLogger("tailcut")
_MOST_BINDINGS = 64  # bindings of one engine with a graph, and as many without
_NO_GRAPH = -1  # the number for calls that onnxruntime neither captures nor replays
_LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a session computes: the provider, and the device of its tensors."""

    provider: str = PROVIDER
    memory: str = "cuda"


STAND_IN = Placement("CPUExecutionProvider", "cpu")  # in place of a device: everything but the provider is the same


@dataclass(slots=True)
class _Binding:
    """Device memory for one bucket and one thread, the call that is bound to it, and input arrays on the host."""

    io: Any
    calls: Any  # run options of its calls
    captured: bool  # whether they are a graph
    inputs: list[Any]
    outputs: list[Any]
    staged: list[np.ndarray]
    filled: int = 0  # rows of the last batch


class OnnxCudaEngine:
    """One session; its bound calls may run from any number of threads."""

    def __init__(
        self, path: Path, options: EngineOptions, name: str | None = None, placement: Placement | None = None
    ) -> None:
        check_options(options)
        if placement is None:
            reason = missing_provider(ort.__version__, ort.get_available_providers())
            if reason:
                raise UnsupportedError(reason)
        self._placement = placement or Placement()
        self.options = options
        prepared = prepare(path, options)
        self.hints, self.spec = read_hints(prepared.graph), read_spec(prepared.graph, path, name)
        for tensor in self.spec.inputs + self.spec.outputs:
            if tensor.dtype in {DType.BYTES, DType.BF16}:
                raise UnsupportedError(f"{path}: device cuda does not support {tensor.dtype} tensors ({tensor.name!r})")
        self._fixed = not self.spec.passed_on and all(
            None not in (tensor.row_shape if self.spec.batchable else tensor.shape) for tensor in self.spec.outputs
        )
        source = prepared.source if options.precision != "f16" else _halved(path, prepared.source)
        self._session: Any = self._load(path, prepared.graph, source)
        self._bucket_of = bucket_of(options.cuda.buckets)
        self._bindings: dict[tuple[object, ...], _Binding] = {}
        self._lock = threading.Lock()  # for the bindings
        self._turn = threading.Lock()  # for calls of a session with graphs
        self._number = 0
        self.phases = PhaseTimes()

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        self._open()
        check_arrays(self.spec, inputs, outputs)
        ins = [inputs[name] for name in self.spec.input_names]
        outs = [outputs[name] for name in self.spec.output_names]

        def call() -> None:
            self._compute(ins, outs)

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        ins = [np.ascontiguousarray(inputs[name]) for name in self.spec.input_names]
        if self._fixed and not (self.spec.batched and self.spec.is_uneven(map(len, ins))):
            results: Sequence[np.ndarray] = self._compute(ins, None)
        else:
            results = self._guarded(lambda: self._open().run(None, dict(zip(self.spec.input_names, ins, strict=True))))
        return dict(zip(self.spec.output_names, results, strict=True))

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None
        self._bindings.clear()

    def _compute(self, ins: Sequence[np.ndarray], outs: Sequence[np.ndarray] | None) -> Sequence[np.ndarray]:
        session, rows = self._open(), len(ins[0]) if self.spec.batched else 0
        bucket = self._bucket_of(rows) if rows else 0
        shapes = tuple((bucket, *array.shape[1:]) if rows else array.shape for array in ins)
        return self._guarded(lambda: self._staged(session, shapes, ins, outs, rows))

    def _staged(
        self,
        session: Any,
        shapes: tuple[tuple[int, ...], ...],
        ins: Sequence[np.ndarray],
        outs: Sequence[np.ndarray] | None,
        rows: int,
    ) -> Sequence[np.ndarray]:
        """Copy a batch in, compute it, and copy it out, into `outs` or into new memory."""
        binding = self._binding(session, shapes, ins)
        whole = not rows or rows == shapes[0][0]
        if not whole:
            _fill(binding, ins, rows)
        began = time.perf_counter_ns()
        for value, array in zip(binding.inputs, ins if whole else binding.staged, strict=True):
            value.update_inplace(array)
        copied = time.perf_counter_ns()
        self._run(session, binding)
        computed = time.perf_counter_ns()
        results = [value.numpy()[: rows or None] for value in binding.outputs]
        for target, result in zip(outs or (), results, strict=outs is not None):
            target[...] = result
        ended = time.perf_counter_ns()
        # Each step waits for the device, because onnxruntime has no events: the second includes the time of launching.
        self.phases.record((copied - began) / 1e3, 0.0, (computed - copied) / 1e3, (ended - computed) / 1e3)
        return outs or results

    def _run(self, session: Any, binding: _Binding) -> None:
        if not self._graphs:
            session.run_with_iobinding(binding.io)
            return
        with self._turn:
            session.run_with_iobinding(binding.io, binding.calls)

    def _binding(self, session: Any, shapes: tuple[tuple[int, ...], ...], ins: Sequence[np.ndarray]) -> _Binding:
        """The binding of a bucket for this thread, which its first batch makes."""
        key = (threading.get_ident(), *shapes)
        binding = self._bindings.get(key)
        if binding is None:
            with self._lock:
                others = [other for other, held in list(self._bindings.items()) if not held.captured]
                if len(others) >= _MOST_BINDINGS:
                    for other in others:
                        self._bindings.pop(other, None)
                binding = self._bindings[key] = self._bound(session, shapes, ins)
        return binding

    def _bound(self, session: Any, shapes: tuple[tuple[int, ...], ...], ins: Sequence[np.ndarray]) -> _Binding:
        rows = shapes[0][0] if self.spec.batched else 0
        staged = [np.zeros(shape, array.dtype) for shape, array in zip(shapes, ins, strict=True)]
        inputs = [self._there(array.shape, array.dtype) for array in staged]
        outputs = [
            self._there((rows, *tensor.row_shape) if rows else tensor.shape, tensor.dtype.numpy)
            for tensor in self.spec.outputs
        ]
        io = session.io_binding()
        for tensor, value in zip(self.spec.inputs, inputs, strict=True):
            io.bind_ortvalue_input(tensor.name, value)
        for tensor, value in zip(self.spec.outputs, outputs, strict=True):
            io.bind_ortvalue_output(tensor.name, value)
        # onnxruntime keeps each graph until the session ends, even without its binding.
        captured = self._graphs and self._number < _MOST_BINDINGS
        self._number += captured
        calls = ort.RunOptions()
        if self._graphs:
            calls.add_run_config_entry("gpu_graph_id", str(self._number if captured else _NO_GRAPH))
        return _Binding(io, calls, captured, inputs, outputs, staged)

    def _there(self, shape: Sequence[int | None], dtype: Any) -> Any:
        """Allocate memory on the device."""
        index = self.options.cuda.index
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, self._placement.memory, index)

    def _load(self, path: Path, graph: onnx.ModelProto, source: Path | bytes) -> Any:
        """Load a session, with graphs where the model allows them."""
        bound = self._fixed and not self.spec.separate_axes
        self._graphs = self.options.cuda.graphs and bound and self._placement.memory == "cuda"
        try:
            return self._session_of(path, graph, source)
        except ModelFileError as error:
            if not self._graphs or "graph capture" not in str(error):
                raise
            _log.warning("%s: computed without CUDA graphs: some of its operators run on the CPU", path.name)
            self._graphs = False
            return self._session_of(path, graph, source)

    def _session_of(self, path: Path, graph: onnx.ModelProto, source: Path | bytes) -> Any:
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = _LEVELS[self.options.graph]
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        register_extensions(path, graph, settings)
        provider_settings = (
            provider_options(self.options, graphs=self._graphs) if self._placement.provider == PROVIDER else {}
        )
        providers = [(self._placement.provider, provider_settings)]
        if self._placement.provider != "CPUExecutionProvider":
            providers.append(("CPUExecutionProvider", {}))  # for operators on shapes, which onnxruntime runs there
        try:
            model = source if isinstance(source, bytes) else str(source)
            session = ort.InferenceSession(model, settings, providers, enable_fallback=0)
        except Exception as error:  # noqa: BLE001  onnxruntime's errors have no common base class
            raise ModelFileError(f"{path}: onnxruntime cannot load it on the device: {short(error)}") from None
        if self._placement.provider not in session.get_providers():
            raise UnsupportedError(
                "device cuda: onnxruntime's CUDA provider does not start: check nvidia-smi, and install the CUDA and "
                "cuDNN versions that onnxruntime-gpu names"
            )
        return session

    def _guarded(self, compute: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
        try:
            return compute()
        except TailcutError:
            raise
        except Exception as error:  # noqa: BLE001  as in _session_of
            self._bindings.clear()  # a failed call may have left anything in their memory
            raise device_error(error, "onnxruntime") from None

    def _open(self) -> Any:
        if self._session is None:
            raise ReleasedError("the engine was closed")
        return self._session


def _fill(binding: _Binding, ins: Sequence[np.ndarray], rows: int) -> None:
    """Copy rows into the input arrays, and zero rows of an earlier batch behind them."""
    for staged, array in zip(binding.staged, ins, strict=True):
        staged[:rows] = array
        staged[rows : max(rows, binding.filled)] = 0
    binding.filled = rows


def _halved(path: Path, source: Path | bytes) -> bytes:
    """The model with its floats in half precision, except inputs and outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415  only this precision needs it

    model = whole_model(path) if isinstance(source, Path) else onnx.load_model_from_string(source)
    try:
        return bytes(convert_float_to_float16(model, keep_io_types=True).SerializeToString())
    except Exception as error:  # noqa: BLE001  as in _session_of
        raise UnsupportedError(f"{path}: cannot be computed in f16: {short(error)}") from None
