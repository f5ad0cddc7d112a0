"""What is computed on the host is what OpenVINO computes, operator by operator."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_values.flow import operators
from tailcut.engines.openvino_values.host import Host, name_of

A = np.array([[3, -7, 5], [-2, 9, 4]], np.int64)


def number(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def scalar(value: int) -> Any:
    return ops.constant(np.int64(value))


GRAPHS: dict[str, Callable[[Any], Any]] = {
    "abs": ops.absolute,
    "add": lambda a: ops.add(a, number(10, 20, 30)),
    "broadcast": lambda a: ops.broadcast(a, number(4, 1, 3), broadcast_spec="BIDIRECTIONAL"),
    "clamp": lambda a: ops.clamp(a, -1, 4),
    "concat": lambda a: ops.concat([a, a], 1),
    "convert": lambda a: ops.convert(ops.greater(a, scalar(3)), "i64"),
    "cumsum": lambda a: ops.cum_sum(a, scalar(1)),
    "cumsum before": lambda a: ops.cum_sum(a, scalar(1), exclusive=True),
    "cumsum back": lambda a: ops.cum_sum(a, scalar(-1), exclusive=True, reverse=True),
    "divide": lambda a: ops.divide(a, scalar(2)),
    "floor mod": lambda a: ops.floor_mod(a, scalar(4)),
    "gather": lambda a: ops.gather(a, number(-1, 0), scalar(1)),
    "logic": lambda a: ops.logical_and(ops.greater(a, scalar(0)), ops.logical_not(ops.equal(a, scalar(9)))),
    "minimum": lambda a: ops.minimum(ops.maximum(a, scalar(-1)), scalar(4)),
    "mod": lambda a: ops.mod(a, scalar(4)),
    "negative": ops.negative,
    "product": lambda a: ops.multiply(a, a),
    "range": lambda a: ops.range(scalar(0), ops.reduce_max(a, number(0, 1)), scalar(2), "i64"),
    "reduce": lambda a: ops.reduce_sum(a, number(-1), keep_dims=True),
    "reduce min": lambda a: ops.reduce_min(a, number(0)),
    "reshape": lambda a: ops.reshape(a, number(0, -1, 1), special_zero=True),
    "select": lambda a: ops.select(ops.less(a, scalar(0)), ops.add(a, scalar(10)), a),
    "shape": lambda a: ops.shape_of(a, "i64"),
    "slice": lambda a: ops.slice(a, number(2), number(-9), number(-1), number(1)),
    "split": lambda a: ops.split(a, scalar(1), 3).output(1),
    "squeeze": lambda a: ops.squeeze(ops.unsqueeze(a, number(0, -1)), number(0)),
    "strided slice": lambda a: ops.strided_slice(
        a, number(0, 0, 1), number(0, 0, 3), number(1, 1, 1), [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]
    ),
    "strided slice to the end": lambda a: ops.strided_slice(
        a, number(0, 1), number(0, 0), number(1, 1), [1, 0], [1, 1]
    ),
    "subtract": lambda a: ops.subtract(a, scalar(1)),
    "tile": lambda a: ops.tile(a, number(2, 1)),
    "transpose": lambda a: ops.transpose(a, number(1, 0)),
    "variadic split": lambda a: ops.variadic_split(a, scalar(1), number(1, -1)).output(1),
}


def followed(result: Any, parameter: Any) -> tuple[ov.Model, Host | None]:
    """The graph, and how the host computes its only output."""
    model = ov.Model([result.output(0) if hasattr(result, "output") else result], [parameter], "graph")
    host = None
    for operator in operators(model, {name_of(parameter.output(0)): 0}):
        if operator.kind == "Result":
            host = operator.operands[0].host
    return model, host


@pytest.mark.parametrize("name", GRAPHS)
def test_the_host_computes_what_openvino_computes(name: str) -> None:
    parameter = ops.parameter([-1, 3], np.int64)
    model, host = followed(GRAPHS[name](parameter), parameter)
    assert host is not None
    expected = core().compile_model(model, "CPU")(A)[0]
    result = host.compute([A], {})
    assert np.array_equal(result, expected)
    assert host.sized_by == {}


@pytest.mark.parametrize(
    "graph",
    [
        lambda a: ops.multiply(a, ops.constant(np.float32(0.5))),  # rounded by each engine in its own way
        lambda a: ops.matmul(a, a, transpose_a=False, transpose_b=True),
    ],
)
def test_the_host_computes_nothing_with_floats(graph: Callable[[Any], Any]) -> None:
    parameter = ops.parameter([-1, 3], np.float32)
    assert followed(graph(parameter), parameter)[1] is None


def test_sizes_of_other_tensors_are_asked_for() -> None:
    """The host does not compute a product, but its size may decide an index."""
    parameter = ops.parameter([-1, 3], np.float32)
    product = ops.matmul(parameter, parameter, transpose_a=False, transpose_b=True)
    _, host = followed(ops.shape_of(product, "i64"), parameter)
    assert host is not None
    name = name_of(product.output(0))
    assert list(host.sized_by) == [name]
    assert host.compute([A], {name: (2, 2)}).tolist() == [2, 2]
    assert host.places == frozenset()
