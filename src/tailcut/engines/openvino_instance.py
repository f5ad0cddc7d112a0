"""A compiled OpenVINO model with its infer requests, used by one call at a time."""

from typing import Any

import numpy as np
import openvino as ov
from openvino import _pyopenvino

from tailcut.engines.base import Arrays, Bound
from tailcut.engines.error_line import short
from tailcut.engines.openvino_ports import ports_in_order
from tailcut.errors import EngineError
from tailcut.spec import DType, ModelSpec

Shapes = tuple[tuple[int, ...], ...]
_infer = _pyopenvino.InferRequest.infer
_NO_INPUTS: dict[object, object] = {}
_MOST_SHAPES = 4096  # remembered; beyond that, all are dropped and checked again


class Instance:
    """Two infer requests: one for arrays that stay bound, and one that allocates its own outputs.

    Args:
        compiled: the model; `take_over` replaces it.
        spec: its signature.
        by_place: find tensors by index, because their names are Tailcut's, not the model's.

    Raises:
        UnsupportedError: the compiled model has lost a tensor.
    """

    __slots__ = ("_bound", "_by_place", "_loose", "_spec", "holder", "input_ports", "output_ports", "proven")

    def __init__(self, compiled: Any, spec: ModelSpec, *, by_place: bool = False) -> None:
        self._spec = spec
        self._by_place = by_place
        self.take_over(compiled)

    def take_over(self, compiled: Any) -> None:
        """Compute with this compiled model from now on."""
        self.input_ports = ports_in_order(compiled.inputs, self._spec.inputs, by_place=self._by_place)
        self.output_ports = ports_in_order(compiled.outputs, self._spec.outputs, by_place=self._by_place)
        self._bound: Any = compiled.create_infer_request()
        self._loose: Any = compiled.create_infer_request()
        self.holder: Bound | None = None  # owner of the arrays in the bound request
        self.proven: set[Shapes] = set()  # input shapes for which answers were found right

    def learn(self, shapes: Shapes) -> None:
        """Record that answers for these shapes are right."""
        if len(self.proven) >= _MOST_SHAPES:
            self.proven.clear()
        self.proven.add(shapes)

    def hold(self, holder: Bound, inputs: list[Any], outputs: list[Any]) -> None:
        """Set the tensors of the bound request, in the order of the spec; `holder` owns the arrays."""
        self.holder = None
        for port, tensor in zip(self.input_ports, inputs, strict=True):
            self._bound.set_tensor(port, tensor)
        for port, tensor in zip(self.output_ports, outputs, strict=True):
            self._bound.set_tensor(port, tensor)
        self.holder = holder

    def compute(self) -> None:
        """Compute on the arrays that are bound.

        Raises:
            RuntimeError: openvino failed.
        """
        _infer(self._bound, _NO_INPUTS, share_outputs=True, decode_strings=False)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute all outputs into fresh arrays.

        Raises:
            EngineError: openvino failed.
        """
        request = self._loose
        try:
            # Referenced until the call is over: openvino keeps the address of a shared array, but no reference.
            held = [np.asarray(inputs[tensor.name], order="C") for tensor in self._spec.inputs]
            for port, array in zip(self.input_ports, held, strict=True):
                request.set_tensor(port, wrap(array))
            _infer(request, _NO_INPUTS, share_outputs=True, decode_strings=False)
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {short(error)}") from None
        outputs = {}
        for port, tensor in zip(self.output_ports, self._spec.outputs, strict=True):
            data = request.get_tensor(port).data
            if tensor.dtype is DType.BF16:
                data = data.view(DType.BF16.numpy)
            outputs[tensor.name] = np.array(data, tensor.dtype.numpy)
        return outputs


def wrap(array: np.ndarray) -> Any:
    """An array as an OpenVINO tensor, without a copy if it is writeable."""
    # Views of a request's bytes are read-only; openvino does not share such arrays, so they are copied.
    if array.dtype == DType.BF16.numpy:  # numpy itself has no bfloat16: pass its bits
        bits = array.view(np.uint16) if array.flags.writeable else array.view(np.uint16).copy()
        return ov.Tensor(bits, ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=bool(array.flags.writeable))
