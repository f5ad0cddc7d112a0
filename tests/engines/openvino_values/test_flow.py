"""What is known of a tensor follows from the operators before it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from tailcut.engines.openvino_values.flow import Known, operators
from tailcut.engines.openvino_values.host import name_of


def scalar(value: float) -> Any:
    return ops.constant(np.float32(value))


def known(result: Any, parameter: Any) -> Known:
    model = ov.Model([result if isinstance(result, ov.Output) else result.output(0)], [parameter], "graph")
    found = [o.operands[0] for o in operators(model, {name_of(parameter.output(0)): 0}) if o.kind == "Result"]
    return found[0]


@pytest.mark.parametrize(
    ("graph", "low", "high"),
    [
        (ops.exp, False, False),
        (ops.relu, True, False),
        (ops.sigmoid, True, True),
        (lambda x: ops.negative(ops.relu(x)), False, True),
        (ops.absolute, True, False),
        (lambda x: ops.minimum(x, scalar(3)), False, True),
        (lambda x: ops.maximum(ops.minimum(x, scalar(3)), scalar(0)), True, True),
        (lambda x: ops.clamp(x, 0, 3), True, True),
        (lambda x: ops.clamp(x, 0, 3e38), True, False),
        (lambda x: ops.subtract(scalar(5), ops.relu(x)), False, True),
        (lambda x: ops.multiply(ops.relu(x), scalar(2)), False, False),
        (lambda x: ops.multiply(ops.sigmoid(x), scalar(2)), True, True),
        (lambda x: ops.floor_mod(x, scalar(4)), True, True),
        (ops.non_zero, True, True),
        (lambda x: ops.topk(x, ops.constant(np.int64(1)), 1, "max", "value").output(1), True, True),
        (lambda x: ops.topk(x, ops.constant(np.int64(1)), 1, "max", "value").output(0), False, False),
        (lambda x: ops.convert(ops.greater(x, scalar(0)), "i64"), True, True),
        (
            lambda x: ops.gather(ops.constant(np.arange(9)), ops.convert(x, "i64"), ops.constant(np.int64(0))),
            True,
            True,
        ),
    ],
)
def test_bounds(graph: Callable[[Any], Any], *, low: bool, high: bool) -> None:
    parameter = ops.parameter([-1, 3], np.float32)
    result = known(graph(parameter), parameter)
    assert result.varies
    assert (result.low, result.high) == (low, high)


def test_sizes_are_no_values() -> None:
    parameter = ops.parameter([-1, 3], np.float32)
    assert not known(ops.shape_of(ops.exp(parameter)), parameter).varies


def test_elements_of_an_input_are_followed() -> None:
    """All of them, or some; arithmetic makes others of them."""
    parameter = ops.parameter([-1, 3], np.int64)
    moved = ops.unsqueeze(ops.convert(parameter, "i32"), ops.constant(np.array([0])))
    assert (known(moved, parameter).source, known(moved, parameter).whole) == (0, True)
    column = ops.gather(parameter, ops.constant(np.int64(0)), ops.constant(np.int64(1)))
    assert (known(column, parameter).source, known(column, parameter).whole) == (0, False)
    assert known(ops.add(parameter, ops.constant(np.int64(1))), parameter).source is None


def test_sizes_that_follow_from_values() -> None:
    parameter = ops.parameter([-1, 3], np.float32)
    assert known(ops.relu(ops.non_zero(parameter)), parameter).sized
    assert not known(ops.relu(parameter), parameter).sized
