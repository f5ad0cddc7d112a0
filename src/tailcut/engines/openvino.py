"""OpenVINO behind the engine protocol.

One infer request for each instance, shared by all bound objects: setting its tensors costs 2.2 us a call, while a
request for each of hundreds of row ranges would each keep scratch memory of its own (10 MB and more for an image
model). The C++ class's `infer` is called directly: 13 us for a 256-256-64-10 perceptron. A change of batch size from
one call to the next costs about 20 us more, because the graph is shaped anew.
"""

import queue
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import _pyopenvino
from openvino.frontend import FrontEndManager

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.edits import prepare
from tailcut.engines.graph import read_spec, short
from tailcut.errors import EngineError, ModelFileError, ReleasedError, UnsupportedError
from tailcut.machine.fingerprint import isa_flags
from tailcut.spec import DType

_infer = _pyopenvino.InferRequest.infer
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_NO_INPUTS: dict[object, object] = {}


class OpenVinoEngine:
    """One compiled model with a stream for each instance."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        if options.precision == "bf16" and not _BF16_FLAGS & isa_flags():
            raise UnsupportedError("this processor has no bfloat16 instructions: use precision f32")
        self.options = options
        prepared = prepare(path, options)
        self.spec = read_spec(prepared.graph, path, name)
        source = prepared.source
        del prepared  # the graph, before the engine makes its own
        for tensor in self.spec.inputs + self.spec.outputs:
            if tensor.dtype is DType.BYTES:
                raise UnsupportedError(f"{path}: openvino takes no strings (tensor {tensor.name!r}): use onnxruntime")
        try:
            # The ONNX front end by name: left to guess, openvino tries others, which print what they dislike.
            reader = FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(BytesIO(source) if isinstance(source, bytes) else str(source)))
            self._model: Any = ov.Core().compile_model(model, "CPU", _properties(options))
        except Exception as error:  # noqa: BLE001  openvino raises plain RuntimeErrors
            raise ModelFileError(f"{path}: openvino cannot load it: {short(error)}") from None
        self._input_ports = [self._port(self._model.inputs, tensor.name) for tensor in self.spec.inputs]
        self._output_ports = [self._port(self._model.outputs, tensor.name) for tensor in self.spec.outputs]
        self._idle: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._loose: queue.SimpleQueue[Any] = queue.SimpleQueue()  # for `run`: their outputs are their own
        for _ in range(max(options.instances, 1)):
            self._idle.put(_Request(self._model.create_infer_request()))

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        if self._model is None:
            raise ReleasedError("the engine was closed")
        check_arrays(self.spec, inputs, outputs)
        ins = [(port, _wrap(inputs[t.name])) for port, t in zip(self._input_ports, self.spec.inputs, strict=True)]
        outs = [(port, _wrap(outputs[t.name])) for port, t in zip(self._output_ports, self.spec.outputs, strict=True)]
        keep = (dict(inputs), dict(outputs))
        take, give = self._idle.get, self._idle.put

        def call(_keep: object = keep) -> None:
            request = take()
            if request is None:
                give(None)
                raise ReleasedError("the engine was closed")
            try:
                if request.bound is not call:
                    for port, tensor in ins:
                        request.infer_request.set_tensor(port, tensor)
                    for port, tensor in outs:
                        request.infer_request.set_tensor(port, tensor)
                    request.bound = call
                _infer(request.infer_request, _NO_INPUTS, share_outputs=True, decode_strings=False)
            except RuntimeError as error:
                request.bound = None
                raise EngineError(f"openvino failed: {short(error)}") from None
            finally:
                give(request)

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        if self._model is None:
            raise ReleasedError("the engine was closed")
        try:
            request = self._loose.get_nowait()
        except queue.Empty:
            request = self._model.create_infer_request()
        try:
            # Held until the call is over: openvino keeps the address of what it shares, and not the array.
            held = [np.asarray(inputs[tensor.name], order="C") for tensor in self.spec.inputs]
            for port, array in zip(self._input_ports, held, strict=True):
                request.set_tensor(port, _wrap(array))
            _infer(request, _NO_INPUTS, share_outputs=True, decode_strings=False)
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {short(error)}") from None
        outputs = {}
        for port, tensor in zip(self._output_ports, self.spec.outputs, strict=True):
            data = request.get_tensor(port).data
            if tensor.dtype is DType.BF16:
                data = data.view(DType.BF16.numpy)
            outputs[tensor.name] = np.array(data, tensor.dtype.numpy)
        self._loose.put(request)
        return outputs

    def close(self) -> None:
        """See `Engine.close`."""
        self._model = None
        for requests in (self._idle, self._loose):
            while not requests.empty():
                requests.get_nowait()
        self._idle.put(None)  # tells whoever still calls

    def _port(self, ports: list[Any], name: str) -> Any:
        for port in ports:
            if name in port.names:
                return port
        raise UnsupportedError(f"openvino lost tensor {name!r} while it compiled the model: use onnxruntime")


class _Request:
    """An infer request, and which bound object's tensors it holds now."""

    __slots__ = ("bound", "infer_request")

    def __init__(self, infer_request: Any) -> None:
        self.infer_request = infer_request
        self.bound: Bound | None = None


def _wrap(array: np.ndarray) -> Any:
    # Views of a request's bytes are read-only, which openvino refuses to share: those are copied.
    if array.dtype == DType.BF16.numpy:  # numpy's own types end at float16: it goes by its bits
        bits = array.view(np.uint16) if array.flags.writeable else array.view(np.uint16).copy()
        return ov.Tensor(bits, ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=bool(array.flags.writeable))


def _properties(options: EngineOptions) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": options.instances,
        "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
        "ENABLE_CPU_PINNING": options.pinning,
    }
    if options.threads:
        properties["INFERENCE_NUM_THREADS"] = options.threads * options.instances
    return properties
