"""Computes values that follow from a request's integers, such as indices, with numpy, before OpenVINO uses them.

Nothing here does arithmetic on floats, because engines round differently.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_LEAST, _MOST = -(2**31), 2**31 - 1  # OpenVINO computes with 32 bits
Sizes = Mapping[str, tuple[int, ...]]  # by tensor name


@dataclass(frozen=True)
class Host:
    """A tensor that can be computed on the host.

    Args:
        node: the operator that computes it; a Parameter if it is an input.
        index: the index of the operator's output.
        operands: the operator's operands.
        source: the index of the input, if it is one.
    """

    node: Any
    index: int
    operands: tuple["Host", ...] = ()
    source: int = -1

    @cached_property
    def places(self) -> frozenset[int]:
        """The indices of the inputs whose values it needs."""
        if self.source >= 0:
            return frozenset([self.source])
        return frozenset[int]().union(*(operand.places for operand in self.operands if not self._is_shape))

    @cached_property
    def sized_by(self) -> dict[str, Any]:
        """The tensors whose sizes it needs, by name."""
        result: dict[str, Any] = {}
        if self._is_shape and not self.operands:
            result[name_of(self.node.input_value(0))] = self.node.input_value(0)
        for operand in self.operands:
            result |= operand.sized_by
        return result

    def compute(self, inputs: Sequence[np.ndarray], sizes: Sizes) -> np.ndarray:
        """Its values for a request.

        Raises:
            ValueError, IndexError: the request's sizes do not fit the operators.
        """
        with np.errstate(all="ignore"):
            return self._compute(inputs, sizes, {})

    @cached_property
    def is_sized(self) -> bool:
        """Whether it depends on a request's sizes."""
        return self._is_shape or any(operand.is_sized for operand in self.operands)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The operator's attributes."""
        attributes: dict[str, Any] = self.node.get_attributes()
        return attributes

    @cached_property
    def _is_shape(self) -> bool:
        return bool(self.node.get_type_name() == "ShapeOf")

    @cached_property
    def _constant(self) -> np.ndarray | None:
        return np.asarray(self.node.data) if self.node.get_type_name() == "Constant" else None

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return _FUNCTIONS[str(self.node.get_type_name())]

    @cached_property
    def dtype(self) -> Any:
        """The dtype of its values."""
        return self.node.output(self.index).get_element_type().to_dtype()

    @cached_property
    def _measured(self) -> str:
        """The name of the tensor whose sizes it holds."""
        return name_of(self.node.input_value(0))

    def _compute(self, inputs: Sequence[np.ndarray], sizes: Sizes, known: dict[int, np.ndarray]) -> np.ndarray:
        if self.source >= 0:
            return inputs[self.source]
        if self._constant is not None:
            return self._constant
        result = known.get(id(self))
        if result is not None:
            return result
        if self._is_shape:
            shape = inputs[self.operands[0].source].shape if self.operands else sizes[self._measured]
            result = np.array(shape, np.int64)
        else:
            operands = [operand._compute(inputs, sizes, known) for operand in self.operands]  # noqa: SLF001  its own
            result = np.asarray(self._function(self, *operands), self.dtype)
        known[id(self)] = result
        return result


def name_of(port: Any) -> str:
    """The name of a tensor, which is unique in the process."""
    return f"{port.get_node().get_name()}:{port.get_index()}"


def is_integral(port: Any) -> bool:
    """Whether a tensor holds integers or booleans."""
    kind = port.get_element_type()
    return bool(kind.is_integral() or kind.get_type_name() == "boolean")


def can_compute(node: Any) -> bool:
    """Whether the host can compute an operator, on integers."""
    kind = node.get_type_name()
    if kind in {"Constant", "ShapeOf"}:
        return True
    if kind not in _FUNCTIONS:
        return False
    attributes = node.get_attributes()
    if attributes.get("mode") == "explicit" or attributes.get("batch_dims") or attributes.get("ellipsis_mask"):
        return False
    return kind in _KEEPING or all(map(is_integral, [*node.outputs(), *node.input_values()]))


def _axes(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(axis) for axis in values.reshape(-1))


def _reshape(host: Host, array: np.ndarray, target: np.ndarray) -> np.ndarray:
    dims = [int(dim) for dim in target]
    if host.attributes.get("special_zero"):
        dims = [array.shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]
    reshaped: np.ndarray = array.reshape(dims)
    return reshaped


def _squeeze(_: Host, array: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.squeeze(array, None if axes is None else _axes(axes))


def _broadcast(_: Host, array: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(int(dim) for dim in target)))


def _gather(_: Host, array: np.ndarray, indices: np.ndarray, axis: np.ndarray) -> np.ndarray:
    return np.take(array, indices, int(axis.reshape(-1)[0]))


def _slice(_: Host, array: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    starts, stops, steps = parts[:3]
    axes = _axes(parts[3]) if len(parts) > 3 else range(len(starts))
    chosen = [slice(None)] * array.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        before = int(step) < 0 and int(stop) < -array.shape[axis]  # the end is before the first element
        chosen[axis] = slice(int(start), None if before else int(stop), int(step))
    picked: np.ndarray = array[tuple(chosen)]
    return picked


def _strided_slice(host: Host, array: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    begins, ends = parts[:2]
    steps = parts[2] if len(parts) > 2 else np.ones_like(begins)
    masks = host.attributes

    def has(mask: str, index: int) -> bool:
        return index < len(masks[mask]) and bool(masks[mask][index])

    chosen: list[Any] = []
    for index, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if has("new_axis_mask", index):
            chosen.append(None)
        elif has("shrink_axis_mask", index):
            chosen.append(int(begin))
        else:
            first = None if has("begin_mask", index) else int(begin)
            last = None if has("end_mask", index) else int(end)
            chosen.append(slice(first, last, int(step)))
    picked: np.ndarray = array[tuple(chosen)]
    return picked


def _split(host: Host, array: np.ndarray, axis: np.ndarray) -> np.ndarray:
    return np.split(array, host.attributes["num_splits"], int(axis))[host.index]


def _variadic_split(host: Host, array: np.ndarray, axis: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    sizes = [int(length) for length in lengths]
    if -1 in sizes:
        sizes[sizes.index(-1)] = array.shape[int(axis)] - sum(sizes) - 1
    return np.split(array, np.cumsum(sizes)[:-1], int(axis))[host.index]


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduced(host: Host, array: np.ndarray, axes: np.ndarray) -> Any:
        return function(array, axis=_axes(axes), keepdims=bool(host.attributes["keep_dims"]))

    return reduced


def _cumsum(host: Host, array: np.ndarray, axis: np.ndarray) -> np.ndarray:
    attributes, along = host.attributes, int(axis.reshape(-1)[0])
    array = np.flip(array, along) if attributes["reverse"] else array
    sums = np.cumsum(array, along)
    sums = sums - array if attributes["exclusive"] else sums
    return np.asarray(np.flip(sums, along) if attributes["reverse"] else sums)


def _divide(_: Host, numbers: np.ndarray, by: np.ndarray) -> np.ndarray:
    quotient: np.ndarray = np.abs(numbers) // np.abs(by) * np.sign(numbers) * np.sign(by)  # to zero, as OpenVINO
    return quotient


def _clamp(host: Host, array: np.ndarray) -> np.ndarray:
    attributes = host.attributes
    clamped: np.ndarray = np.clip(array, attributes["min"], attributes["max"])
    return clamped


def _convert(host: Host, array: np.ndarray) -> np.ndarray:
    """Cast with saturation: engines differ in what they do with numbers outside of the type's range."""
    kind = host.dtype
    if np.issubdtype(kind, np.integer):
        span = np.iinfo(kind)
        array = np.clip(np.nan_to_num(array, nan=span.min), max(span.min, _LEAST), min(span.max, _MOST))
    converted: np.ndarray = array.astype(kind)
    return converted


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _host, *operands: function(*operands)


_KEEPING: Mapping[str, Callable[..., Any]] = {  # elements are only moved, so floats are allowed
    "Broadcast": _broadcast,
    "Concat": lambda host, *parts: np.concatenate(parts, host.attributes["axis"]),
    "Convert": _convert,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": lambda _host, array, repeats: np.tile(array, _axes(repeats)),
    "Transpose": lambda _host, array, order: np.transpose(array, _axes(order) or None),
    "Unsqueeze": lambda _host, array, axes: np.expand_dims(array, _axes(axes)),
    "VariadicSplit": _variadic_split,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **_KEEPING,
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "Clamp": _clamp,
    "CumSum": _cumsum,
    "Divide": _divide,
    "Equal": _plain(np.equal),
    "FloorMod": _plain(np.mod),
    "Greater": _plain(np.greater),
    "GreaterEqual": _plain(np.greater_equal),
    "Less": _plain(np.less),
    "LessEqual": _plain(np.less_equal),
    "LogicalAnd": _plain(np.logical_and),
    "LogicalNot": _plain(np.logical_not),
    "LogicalOr": _plain(np.logical_or),
    "LogicalXor": _plain(np.logical_xor),
    "Maximum": _plain(np.maximum),
    "Minimum": _plain(np.minimum),
    "Mod": _plain(np.fmod),
    "Multiply": _plain(np.multiply),
    "Negative": _plain(np.negative),
    "NotEqual": _plain(np.not_equal),
    "Range": _plain(np.arange),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Select": _plain(np.where),
    "Subtract": _plain(np.subtract),
}
