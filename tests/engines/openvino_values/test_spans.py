"""An interval holds all that an operator may return."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from tailcut.engines.openvino_values.flow import Known, operators
from tailcut.engines.openvino_values.host import name_of
from tailcut.engines.openvino_values.spans import ANY, Box, Interval


def number(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def scalar(value: int) -> Any:
    return ops.constant(np.int64(value))


def known(result: Any, parameter: Any) -> Known:
    model = ov.Model([result if isinstance(result, ov.Output) else result.output(0)], [parameter], "graph")
    found = [o.operands[0] for o in operators(model, {name_of(parameter.output(0)): 0}) if o.kind == "Result"]
    return found[0]


def span(result: Any, parameter: Any, between: Interval, *inputs: np.ndarray) -> Interval:
    return known(result, parameter).span.within(Box({0: between}, inputs), {})


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (lambda a: ops.add(a, scalar(10)), (3, 15)),
        (lambda a: ops.subtract(scalar(10), a), (5, 17)),
        (lambda a: ops.multiply(a, scalar(-2)), (-10, 14)),
        (lambda a: ops.multiply(a, a), (-35, 49)),
        (lambda a: ops.divide(a, scalar(-2)), (-2.5, 3.5)),
        (lambda a: ops.divide(scalar(9), a), (-9, 9)),
        (lambda a: ops.mod(a, scalar(4)), (-4, 4)),
        (lambda a: ops.floor_mod(a, scalar(4)), (0, 4)),
        (lambda a: ops.power(a, scalar(2)), (-49, 49)),
        (ops.negative, (-5, 7)),
        (ops.absolute, (0, 7)),
        (lambda a: ops.minimum(a, scalar(2)), (-7, 2)),
        (lambda a: ops.maximum(a, scalar(2)), (2, 5)),
        (lambda a: ops.clamp(a, -1, 3), (-1, 3)),
        (lambda a: ops.greater(a, scalar(0)), (0, 1)),
        (lambda a: ops.select(ops.greater(a, scalar(0)), a, scalar(9)), (-7, 9)),
        (lambda a: ops.concat([a, ops.add(a, scalar(10))], 1), (-7, 15)),
        (lambda a: ops.gather(a, number(1), scalar(1)), (-7, 5)),
        (lambda a: ops.gather(number(3, 4, 9), a, scalar(0)), (3, 9)),
        (lambda a: ops.reduce_sum(a, number(1)), (-21, 15)),
        (lambda a: ops.cum_sum(a, scalar(1)), (-21, 15)),
        (lambda a: ops.convert(ops.sigmoid(ops.convert(a, "f32")), "i64"), (0, 1)),
        (lambda a: ops.convert(ops.exp(ops.convert(ops.multiply(a, scalar(1000)), "f32")), "i32"), (0, 2**31 - 1)),
        (lambda a: ops.convert(ops.multiply(ops.convert(a, "f32"), ops.constant(np.float32(0.5))), "i64"), (-3.5, 2.5)),
        (lambda a: ops.multiply(ops.convert(a, "i32"), ops.constant(np.int32(2**30))), (-(2**31), 2**31 - 1)),
        (lambda a: ops.add(a, ops.gather(ops.shape_of(a), scalar(0), scalar(0))), (-5, 7)),
    ],
)
def test_intervals(graph: Callable[[Any], Any], expected: Interval) -> None:
    parameter = ops.parameter([-1, 3], np.int64)
    array = np.array([[-7, 5, 0], [1, 2, 3]])
    assert span(graph(parameter), parameter, (-7, 5), array) == expected


def test_floats_that_are_not_followed_may_be_anything() -> None:
    parameter = ops.parameter([-1, 3], np.float32)
    product = ops.matmul(parameter, parameter, transpose_a=False, transpose_b=True)
    assert span(product, parameter, (0, 1)) == ANY


def test_deep_graphs_are_followed() -> None:
    """Deeper than calls may be, and with each tensor used twice."""
    parameter = ops.parameter([-1, 3], np.int64)
    result = parameter
    for _ in range(3000):
        result = ops.maximum(result, ops.negative(result))
    value = known(result, parameter).span
    assert value.within(Box({0: (-7, 5)}), {}) == (-5, 7)
    assert value.places() == {0}
    assert value.sized_by() == {}
