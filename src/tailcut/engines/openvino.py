"""OpenVINO behind the engine protocol.

Each instance has two infer requests, shared by all bound objects: setting a request's tensors costs 2.2 us per call,
while an infer request for each of hundreds of row ranges would each keep scratch memory of its own (10 MB and more for
an image model). The C++ class's `infer` is called directly: 13 us for a 256-256-64-10 perceptron. A call whose batch
size differs from the previous one's takes about 20 us more, because OpenVINO infers all shapes again.

If the sizes of the inputs are fixed, instances are the streams of one compiled model. If they are free, each instance
is a compiled model of its own, because what a stream has cached for earlier sizes may be wrong (`shape_check.py`), and
which stream computes a call cannot be chosen. Each then needs memory for the weights again.
"""

import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from openvino.frontend import FrontEndManager

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.edits import prepare
from tailcut.engines.error_line import short
from tailcut.engines.files import FileKind, kind_of
from tailcut.engines.graph import read_spec
from tailcut.engines.graph_hints import read_hints
from tailcut.engines.hints import InputHints
from tailcut.engines.installed import is_installed
from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_files import read_file, spec_of
from tailcut.engines.openvino_instance import Instance, wrap
from tailcut.engines.openvino_lengths import ignored_lengths
from tailcut.engines.openvino_ports import separate
from tailcut.engines.openvino_reference import OpenVinoReference
from tailcut.engines.openvino_sizes import BoundSizes, SizeBounds, SizedReference, SizeInference
from tailcut.engines.openvino_values import ValueCheck
from tailcut.engines.shape_check import Reference, ShapeCheck
from tailcut.errors import EngineError, ModelFileError, ReleasedError, TailcutError, UnsupportedError
from tailcut.machine.allocator import loaded
from tailcut.machine.fingerprint import isa_flags
from tailcut.spec import DType, ModelSpec

_log = logging.getLogger("tailcut")
# The flags of /proc/cpuinfo of which a precision needs at least one.
_FLAGS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "f16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
_NAMES = {"bf16": "bfloat16", "f16": "float16"}


class OpenVinoEngine:
    """The instances of a model: a call takes an idle one and returns it."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        if options.precision in _FLAGS and not _FLAGS[options.precision] & isa_flags():
            raise UnsupportedError(f"this processor has no {_NAMES[options.precision]} instructions: use precision f32")
        allocator = loaded()
        if allocator is not None:  # openvino frees the allocator's memory with the C library, and crashes
            raise UnsupportedError(f"openvino cannot run on {allocator}: take it out of LD_PRELOAD")
        self.options = options
        kind = kind_of(path)
        onnx = kind is FileKind.ONNX
        source = _read_onnx(path, options, name) if onnx else _read_other(path, kind, options, name)
        model, self.spec, self.hints, self._bounds = source.model, source.spec, source.hints, source.bounds
        advice = "use onnxruntime" if onnx else "convert the model to ONNX, and use onnxruntime"
        _refuse_lengths(path, model, advice)
        self._values = ValueCheck(model, self.spec, path, advice, by_place=not onnx)
        if not onnx:
            self.hints = InputHints(below=self._values.below)
        try:
            compiled = core().compile_model(model, "CPU", _properties(options, shared=not _is_free(self.spec)))
        except Exception as error:  # noqa: BLE001  openvino raises plain RuntimeErrors
            raise ModelFileError(f"{path}: openvino cannot load it: {short(error)}") from None
        self._check: ShapeCheck | None = None
        self._bound_sizes: BoundSizes | None = None
        self._idle: queue.SimpleQueue[Instance | None] = queue.SimpleQueue()
        self._closed = False
        count = max(options.instances, 1)
        if _is_free(self.spec):
            recompile = _compiler(model, _properties(options, shared=False))
            self._bound_sizes = BoundSizes(SizeInference(model, self.spec, by_name=onnx), self.spec)
            if onnx and is_installed("onnxruntime"):
                reference = _onnx_reference(path, options, model, self.spec, self._values)
            else:
                reference = _own_reference(model, self.spec, options, self._values)
            if reference is not None:
                self._check = ShapeCheck(self.spec.name, reference, recompile, options.precision)
            compiled_models = [compiled if not number else recompile() for number in range(count)]
            instances = [Instance(compiled_model, self.spec, by_place=not onnx) for compiled_model in compiled_models]
        else:
            instances = [Instance(compiled, self.spec, by_place=not onnx) for _ in range(count)]
        for instance in instances:
            if self._check is not None:
                self._check.admit(instance)
            self._idle.put(instance)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        if self._closed:
            raise ReleasedError("the engine was closed")
        check_arrays(self.spec, inputs, outputs)
        arrays = {tensor.name: inputs[tensor.name] for tensor in self.spec.inputs}
        shapes = tuple(array.shape for array in arrays.values())
        self._bounds.check(shapes)
        ins = [wrap(array) for array in arrays.values()]
        outs = [wrap(outputs[tensor.name]) for tensor in self.spec.outputs]
        keep = (arrays, dict(outputs))
        check, take, give = self._check, self._idle.get, self._idle.put
        values = self._values if self._values.is_needed else None
        check_sizes = self._bound_sizes.check_of(shapes, outs) if self._bound_sizes is not None else None

        def call(_keep: object = keep) -> None:
            if values is not None:
                values.check(arrays, shapes)
            instance = take()
            if instance is None:
                give(None)
                raise ReleasedError("the engine was closed")
            try:
                if check is not None and shapes not in instance.proven:
                    check.prove(instance, arrays, shapes)
                if instance.holder is not call:
                    instance.hold(call, ins, outs)
                instance.compute()
            except RuntimeError as error:
                instance.holder = None
                self._failed(instance)
                if isinstance(error, TailcutError):
                    raise
                raise EngineError(f"openvino failed: {short(error)}") from None
            finally:
                give(instance)
            if check_sizes is not None:
                check_sizes()

        return call

    def run(self, inputs: Arrays) -> dict[str, Any]:
        """See `Engine.run`."""
        arrays = {tensor.name: inputs[tensor.name] for tensor in self.spec.inputs}
        shapes = tuple(array.shape for array in arrays.values())
        self._bounds.check(shapes)
        self._values.check(arrays, shapes)
        instance = self._idle.get()
        if instance is None:
            self._idle.put(None)
            raise ReleasedError("the engine was closed")
        try:
            if self._check is not None and shapes not in instance.proven:
                self._check.prove(instance, arrays, shapes)
            try:
                return instance.run(arrays)
            except EngineError:
                self._failed(instance)
                raise
        finally:
            self._idle.put(instance)

    def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        while not self._idle.empty():
            self._idle.get_nowait()
        self._idle.put(None)  # wakes calls that wait for an instance, or come later
        if self._check is not None:
            self._check.close()

    def _failed(self, instance: Instance) -> None:
        if self._check is not None:
            self._check.recover(instance)


@dataclass(frozen=True, slots=True)
class _ModelSource:
    """A model that has been read but not compiled, with its signature and checks."""

    model: Any
    spec: ModelSpec
    hints: InputHints
    bounds: SizeBounds = SizeBounds()  # noqa: RUF009  frozen


def _read_onnx(path: Path, options: EngineOptions, name: str | None) -> _ModelSource:
    prepared = prepare(path, options)
    hints, spec, source = read_hints(prepared.graph), read_spec(prepared.graph, path, name), prepared.source
    del prepared  # frees the graph before the engine builds its own
    _refuse_strings(path, spec, "use onnxruntime")
    try:
        # The ONNX front end, by name: otherwise, openvino tries all front ends, and some print errors.
        reader = FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(BytesIO(source) if isinstance(source, bytes) else str(source)))
    except Exception as error:  # noqa: BLE001  openvino raises plain RuntimeErrors
        raise ModelFileError(f"{path}: openvino cannot load it: {short(error)}") from None
    separate(model, spec)
    return _ModelSource(model, spec, hints)


def _read_other(path: Path, kind: FileKind, options: EngineOptions, name: str | None) -> _ModelSource:
    model = read_file(path, kind, options)
    spec = spec_of(model, path, kind, name)
    _refuse_strings(path, spec, "convert the model to ONNX, and use onnxruntime")
    separate(model, spec, by_place=True)
    return _ModelSource(model, spec, InputHints(), SizeBounds.of(model, spec))


def _refuse_strings(path: Path, spec: ModelSpec, advice: str) -> None:
    for tensor in spec.inputs + spec.outputs:
        if tensor.dtype is DType.BYTES:
            raise UnsupportedError(f"{path}: openvino does not support strings (tensor {tensor.name!r}): {advice}")


def _refuse_lengths(path: Path, model: Any, advice: str) -> None:
    kind = ignored_lengths(model)
    if kind:
        raise UnsupportedError(
            f"{path}: openvino ignores the sequence lengths of {kind} layers whose sizes are free: {advice}, "
            "or give all sizes with fixed_dims"
        )


def _is_free(spec: ModelSpec) -> bool:
    """Whether clients can choose sizes of the inputs."""
    return any(None in tensor.shape for tensor in spec.inputs)


def _compiler(model: Any, properties: dict[str, Any]) -> Callable[[], Any]:
    """A function that compiles the model again."""

    def recompile() -> Any:
        try:
            return core().compile_model(model, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"openvino cannot recompile the model: {short(error)}") from None

    return recompile


def _onnx_reference(
    path: Path, options: EngineOptions, model: Any, spec: ModelSpec, values: ValueCheck
) -> Reference | None:
    """A reference: onnxruntime with the file of this model; None, with a warning, if it cannot load the file."""
    from tailcut.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415  models of fixed sizes need it not

    wanted = EngineOptions(
        threads=options.threads,
        spinning=False,
        arena=False,
        u8_input=options.u8_input,
        outputs=options.outputs,
        fixed_dims=options.fixed_dims,
    )
    advice = "use the engine onnxruntime"
    try:
        engine = OnnxRuntimeEngine(path, wanted, spec.name)
        sizes = SizeInference(model, spec, by_name=True)
        return Reference(SizedReference(engine, sizes, values, advice), "onnxruntime", advice)
    except TailcutError as error:
        _log.warning("%s: openvino's outputs for new sizes are not checked: %s", spec.name, error)
        return None


def _own_reference(model: Any, spec: ModelSpec, options: EngineOptions, values: ValueCheck) -> Reference:
    """OpenVINO itself, compiled without its known faults, as a reference for files that no other engine reads."""
    engine = OpenVinoReference(model, spec, options.threads, values)
    return Reference(engine, "openvino without its snippets", "convert the model to ONNX, and use onnxruntime")


def _properties(options: EngineOptions, *, shared: bool) -> dict[str, Any]:
    """The properties of a compiled model that has all instances (`shared`) or one of them."""
    instances = options.instances if shared else 1
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": instances,
        "INFERENCE_PRECISION_HINT": options.precision if options.precision in _FLAGS else "f32",
        # Separate compiled models would all be bound to the same cores.
        "ENABLE_CPU_PINNING": options.pinning and (shared or options.instances == 1),
    }
    if options.threads:
        properties["INFERENCE_NUM_THREADS"] = options.threads * instances
    return properties
