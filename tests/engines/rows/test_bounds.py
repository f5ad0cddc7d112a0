"""Bounds of integers that are not carried one by one; what graphs make of them stands in `test_rules_pick`."""

import pytest
from onnx import TensorProto

from tailcut.engines.rows.bounds import bound_as_floats, limit_of
from tailcut.engines.rows.sizes import number
from tailcut.engines.rows.values import Value, vector


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (vector([number(0), number(3)]), 4),
        (vector([number(-1), number(3)]), None),
        (vector([number(1)], real=True), None),
        (Value((), below=number(7)), 7),
        (Value((), real=True, below=number(7)), None),
        (Value(()), None),
    ],
)
def test_integers_of_at_least_0_have_a_limit(value: Value, limit: int | None) -> None:
    """Carried or not; floats have none."""
    assert limit_of(value) == (None if limit is None else number(limit))


@pytest.mark.parametrize(
    ("below", "target", "kept"),
    [
        (2**22, TensorProto.FLOAT, True),
        (2**22 + 1, TensorProto.FLOAT, False),
        (2**22 + 1, TensorProto.DOUBLE, False),
        (7, TensorProto.FLOAT16, False),
        (7, TensorProto.BFLOAT16, False),
    ],
)
def test_floats_that_have_every_integer_keep_the_bound(below: int, target: int, kept: bool) -> None:
    """A half has no odd number above 2048, and rounds it to a neighbour."""
    assert bound_as_floats(Value((), below=number(below)), target) == (number(below) if kept else None)
