"""Refuses integers with which OpenVINO would compute wrongly, and models that it computes wrongly for all requests.

What an operator needs (`widths.py`) is checked with interval arithmetic, from the smallest and the largest value of
each input. A request within the intervals of an accepted one is accepted, so most requests cost only two reductions per
input. If the intervals are too wide, the host computes the exact values.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.engines.openvino_values.flow import Operator
from tailcut.engines.openvino_values.host import Sizes
from tailcut.engines.openvino_values.spans import ANY, Box, Interval, hull
from tailcut.engines.openvino_values.widths import NAMES, WIDE, Width, unlike, widths
from tailcut.errors import InvalidInputError, UnsupportedError

Shapes = tuple[tuple[int, ...], ...]
_MOST_SHAPES = 4096  # remembered; beyond that, all are dropped and inferred again


class WidthCheck:
    """Checks that OpenVINO computes a graph's integers exactly; threads can share it.

    Args:
        needed: what the operators need.
        ports: the graph's inputs, by index.
        names: the names of the inputs.
    """

    def __init__(self, needed: Sequence[Width], ports: Mapping[int, Any], names: Sequence[str]) -> None:
        self._widths = list(needed)
        self._names = names
        read = {index: _type(port) for index, port in ports.items() if _is_read(port)}
        self._wide = {index: WIDE[dtype] for index, dtype in read.items() if dtype in WIDE}
        self._places = sorted({*self._wide, *(index for width in needed for index in width.places)})
        self._right: dict[Shapes, dict[int, Interval]] = {}  # intervals in which all results are exact
        self._lock = threading.Lock()

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to check."""
        return bool(self._wide or self._widths)

    @property
    def sized_by(self) -> dict[str, Any]:
        """The tensors whose sizes have to be known for a request, by name."""
        return {name: port for width in self._widths for name, port in width.sized_by.items()}

    def check(self, inputs: Sequence[np.ndarray], shapes: Shapes, sizes: Sizes, spans: dict[int, Interval]) -> None:
        """Refuse a request that OpenVINO would compute with other numbers.

        Args:
            inputs: its arrays, in the order of the spec.
            shapes: their shapes.
            sizes: the sizes of tensors, by name.
            spans: the smallest and the largest value of each input, by index; missing ones are computed and added.

        Raises:
            InvalidInputError: a value is out of the range in which OpenVINO is exact.
        """
        for index in self._places:
            if index not in spans:
                span_of_input(inputs, index, spans)
        for index, (low, high) in self._wide.items():
            least, most = spans[index]
            if least < low or most > high:
                text = "a value is out of bounds: openvino computes with 32 bits"
                raise InvalidInputError(f"{givers(self._names, [index])}: {text}")
        right = self._right.get(shapes)
        if not self._widths or (right is not None and self._is_inside(spans, right)):
            return
        self._look_closely(inputs, shapes, sizes, {index: spans[index] for index in self._places})

    def _is_inside(self, spans: Mapping[int, Interval], right: Mapping[int, Interval]) -> bool:
        return all(right[index][0] <= spans[index][0] and spans[index][1] <= right[index][1] for index in self._places)

    def _look_closely(
        self, inputs: Sequence[np.ndarray], shapes: Shapes, sizes: Sizes, spans: dict[int, Interval]
    ) -> None:
        spans = {index: _as_floats(*span) for index, span in spans.items()}
        known = self._right.get(shapes)
        boxes = [spans] if known is None else [{index: hull(spans[index], known[index]) for index in spans}, spans]
        for within in boxes:
            box, intervals = Box(within, inputs, sizes), dict[int, Interval]()
            if all(width.holds_in(box, intervals) for width in self._widths):
                with self._lock:
                    if len(self._right) >= _MOST_SHAPES:
                        self._right.clear()
                    self._right[shapes] = within
                return
        for width in self._widths:
            if not width.holds_in(box, intervals) and not width.holds_for(inputs, sizes):
                low, high = _span_in(width)
                text = (
                    f"a value is out of bounds: openvino computes the {width.kind} of this model exactly from "
                    f"{low:.0f} to {high:.0f} only"
                )
                raise InvalidInputError(f"{givers(self._names, width.places)}: {text}")


def checked_widths(operator: Operator, inputs: Mapping[int, Interval], path: Path, advice: str) -> list[Width]:
    """What an operator needs of a request's values to be computed exactly.

    Raises:
        UnsupportedError: OpenVINO would compute it wrongly whatever the request.
    """
    fault = unlike(operator)
    if fault:
        raise UnsupportedError(f"{path}: openvino {fault}: {advice}")
    needed = list(widths(operator, inputs))
    for width in needed:
        if not width.can_check:
            low, high = _span_in(width)
            raise UnsupportedError(
                f"{path}: openvino computes {width.kind} in {NAMES[width.dtype]} exactly only from {low:.0f} "
                f"to {high:.0f}, and nothing in this model keeps values in that range: {advice}"
            )
    return needed


def widest_of(port: Any) -> Interval:
    """The widest interval of an input whose values are known to fit into 32 bits."""
    kind = port.get_element_type()
    if _type(port) in WIDE:
        return WIDE[_type(port)]
    if _type(port) == "boolean":
        return 0, 1
    if not kind.is_integral():
        return ANY
    span = np.iinfo(kind.to_dtype())
    return float(span.min), float(span.max)


def span_of_input(inputs: Sequence[np.ndarray], index: int, spans: dict[int, Interval]) -> Interval:
    """The smallest and the largest value of an input, recorded in `spans`; (inf, -inf) without elements."""
    array = inputs[index]
    if not array.size:
        result: Interval = (np.inf, -np.inf)
    else:
        result = (array.min(), array.max()) if array.dtype.kind != "V" else ANY
    spans[index] = result
    return result


def givers(names: Sequence[str], places: Sequence[int]) -> str:
    """The inputs with these indices, in words."""
    return ("input " if len(places) == 1 else "inputs ") + ", ".join(repr(names[index]) for index in places)


def _as_floats(least: float, most: float) -> Interval:
    """An interval of Python floats, because numpy's integers would overflow."""
    if least > most:  # no elements
        return 0.0, 0.0
    return (float(least), float(most)) if least <= most else ANY


def _span_in(width: Width) -> Interval:
    """The interval in which an operator is exact, for a message."""
    return width.ways[0][0].between


def _is_read(port: Any) -> bool:
    """Whether any operator reads the values of an input."""
    return any(target.get_node().get_type_name() != "ShapeOf" for target in port.get_target_inputs())


def _type(port: Any) -> str:
    return str(port.get_element_type().get_type_name())
