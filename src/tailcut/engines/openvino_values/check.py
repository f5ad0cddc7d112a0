"""Checks the values of each request before OpenVINO computes it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from tailcut.engines.base import Arrays
from tailcut.engines.error_line import short
from tailcut.engines.openvino_ports import ports_in_order
from tailcut.engines.openvino_values.demands import Demand, demands, unfit
from tailcut.engines.openvino_values.flow import operators
from tailcut.engines.openvino_values.host import name_of
from tailcut.engines.openvino_values.width_check import WidthCheck, checked_widths, givers, span_of_input, widest_of
from tailcut.engines.openvino_values.widths import Width
from tailcut.errors import EngineError, InvalidInputError, UnsupportedError
from tailcut.spec import ModelSpec

Shapes = tuple[tuple[int, ...], ...]
_MOST_SHAPES = 4096  # remembered; beyond that, all are dropped and inferred again


@dataclass(frozen=True, slots=True)
class _Limit:
    """A demand with its bounds for requests of certain sizes."""

    demand: Demand
    low: np.ndarray
    high: np.ndarray
    narrow_low: float
    narrow_high: float


class ValueCheck:
    """Checks what a graph demands of the values of its inputs; threads can share it.

    Args:
        model: an `openvino.Model`, which stays as it is.
        spec: its signature.
        path: its file, for messages.
        advice: what to do if the model is refused, for messages.
        by_place: find inputs by index, not by name.

    Raises:
        UnsupportedError: an operator uses values of a request that cannot be checked.
    """

    def __init__(self, model: Any, spec: ModelSpec, path: Path, advice: str, *, by_place: bool = False) -> None:
        self._names = spec.input_names
        self._model = model.clone()
        self._ports = ports_in_order(self._model.inputs, spec.inputs, by_place=by_place)
        places = {name_of(port): index for index, port in enumerate(self._ports)}
        self._demands: list[Demand] = []
        widest = {index: widest_of(port) for index, port in enumerate(self._ports)}
        needed: list[Width] = []
        for operator in operators(self._model, places):
            needed += checked_widths(operator, widest, path, advice)
            part = unfit(operator)
            result = [] if part else list(demands(operator))
            part = part or next((demand.part for demand in result if not demand.can_check), "")
            if part:
                raise UnsupportedError(
                    f"{path}: openvino does not check the {part} of {operator.kind}, which values of a request decide "
                    f"in this model: {advice}"
                )
            self._demands += result
        self._widths = WidthCheck(needed, dict(enumerate(self._ports)), self._names)
        self._sized_by = {name: port for demand in self._demands for name, port in demand.sized_by.items()}
        self._sized_by |= self._widths.sized_by
        self._lock = threading.Lock()
        self._limits: dict[Shapes, tuple[list[_Limit], Mapping[str, tuple[int, ...]]]] = {}
        if not self._sized_by:
            del self._model, self._ports  # not needed any more

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to check."""
        return bool(self._demands) or self._widths.is_needed

    @property
    def below(self) -> dict[str, int]:
        """By input name, the exclusive upper bound of its indices, if the graph has one."""
        result: dict[str, int] = {}
        for demand in self._demands:
            value = demand.value
            if value.whole and value.source is not None and demand.dims is not None and len(demand.axes) == 1:
                name, most = self._names[value.source], int(demand.limits({})[1]) + 1
                result[name] = min(most, result.get(name, most))
        return result

    def check(self, arrays: Arrays, shapes: Shapes) -> None:
        """Refuse values out of bounds; the message does not contain them, since they may belong to another request.

        Args:
            arrays: the request's arrays, by input name.
            shapes: their shapes, in the order of the spec.

        Raises:
            InvalidInputError: a value is out of bounds.
            EngineError: the sizes do not fit the graph.
        """
        if not self.is_needed:
            return
        inputs = [arrays[name] for name in self._names]
        limits, sizes = self._limits.get(shapes) or self._learn(inputs, shapes)
        spans: dict[int, tuple[float, float]] = {}
        for limit in limits:
            index = limit.demand.value.source
            if index is not None:
                least, most = spans.get(index) or span_of_input(inputs, index, spans)
                if least > limit.narrow_low - 1 and most < limit.narrow_high + 1:  # a float is truncated
                    continue
            self._look_closely(limit, inputs, sizes)
        self._widths.check(inputs, shapes, sizes, spans)

    def _look_closely(self, limit: _Limit, inputs: Sequence[np.ndarray], sizes: Mapping[str, tuple[int, ...]]) -> None:
        demand, host = limit.demand, limit.demand.value.host
        low, high = limit.low, limit.high
        if host is not None:
            try:
                values = host.compute(inputs, sizes)
            except (ValueError, IndexError, MemoryError):
                if demand.inner:  # perhaps in a branch that is not taken
                    return
                raise EngineError(f"the sizes of {self._givers(demand)} do not fit {demand.kind}") from None
            if _is_within(values, limit):
                return
            if low.ndim:
                wrong = np.argwhere(~((values > low - 1) & (values < high + 1)))
                low, high = low[wrong[0, -1]], high[wrong[0, -1]]
        bounds = f"{low} to {high}" if np.isfinite(high) else f"{low} or more"
        text = f"a value is out of bounds: the {demand.part} of {demand.kind} may be {bounds}"
        raise InvalidInputError(f"{self._givers(demand)}: {text}")

    def _givers(self, demand: Demand) -> str:
        """The inputs that a demand's values come from, in words."""
        host = demand.value.host
        return givers(self._names, sorted(host.places) if host is not None else [demand.value.source or 0])

    def _learn(
        self, inputs: Sequence[np.ndarray], shapes: Shapes
    ) -> tuple[list[_Limit], Mapping[str, tuple[int, ...]]]:
        """The limits for new sizes, and the sizes of tensors by OpenVINO's shape inference."""
        sizes = self._infer(shapes) if self._sized_by else {}
        limits = []
        for demand in self._demands:
            if any(name not in sizes for name in demand.sized_by):
                if demand.inner:
                    continue
                raise EngineError(f"openvino does not say how large the table of {demand.kind} is for these sizes")
            low, high = demand.limits(sizes)
            limit = _Limit(demand, low, high, float(low.max()), float(high.min()))
            if not _always_holds(limit, inputs):
                limits.append(limit)
        with self._lock:
            if len(self._limits) >= _MOST_SHAPES:
                self._limits.clear()
            self._limits[shapes] = limits, sizes
        return limits, sizes

    def _infer(self, shapes: Shapes) -> Mapping[str, tuple[int, ...]]:
        wanted = {port: ov.PartialShape(list(shape)) for port, shape in zip(self._ports, shapes, strict=True)}
        with self._lock:
            try:
                self._model.reshape(wanted)
            except RuntimeError as error:
                raise EngineError(f"openvino refuses these sizes: {short(error)}") from None
            result = {name: port.get_partial_shape() for name, port in self._sized_by.items()}
        return {name: tuple(dim.get_length() for dim in shape) for name, shape in result.items() if shape.is_static}


def _is_within(values: np.ndarray, limit: _Limit) -> bool:
    if not values.size:
        return True
    if limit.low.ndim:
        return bool(((values > limit.low - 1) & (values < limit.high + 1)).all())
    return bool(values.min() > limit.narrow_low - 1 and values.max() < limit.narrow_high + 1)


def _always_holds(limit: _Limit, inputs: Sequence[np.ndarray]) -> bool:
    """Whether no value of the input's dtype can be out of bounds."""
    index = limit.demand.value.source
    if index is None or inputs[index].dtype.kind not in "iub":
        return False
    if inputs[index].dtype.kind == "b":
        return limit.narrow_low <= 0 and limit.narrow_high >= 1
    span = np.iinfo(inputs[index].dtype)
    return limit.narrow_low <= span.min and limit.narrow_high >= span.max
