"""Quantisation with fixed scales and with scales from the data."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"
ONE = {"s": np.array(0.05, np.float32), "z": np.array(3, np.uint8)}
FOUR = {"s": np.full(4, 0.05, np.float32), "z": np.zeros(4, np.uint8)}
FIVE = {"s": np.full(5, 0.05, np.float32), "z": np.zeros(5, np.uint8)}
THERE_AND_BACK = "q = QuantizeLinear <axis = {axis}> (x, s, z) y = DequantizeLinear <axis = {axis}> (q, s, z)"

CASES = [
    Case(YES, X, THERE_AND_BACK.format(axis=0), weights=ONE),
    Case(YES, X, THERE_AND_BACK.format(axis=1), weights=FOUR),
    Case(NO, X, THERE_AND_BACK.format(axis=0), weights=FIVE),
    *(
        Case(verdict, signature, body, opset=21, weights={"s": np.ones(shape, np.float32)})
        for body in (
            "q = QuantizeLinear <axis = 1, block_size = 2> (x, s) y = Cast <to = 1> (q)",
            "q = Cast <to = 3> (x) y = DequantizeLinear <axis = 1, block_size = 2> (q, s)",
        )
        for verdict, signature, shape in ((NO, X, (1, 2)), (NO, "(float[N, 4, 3] x) => (float y)", (1, 2, 3)))
    ),
    Case(NO, X, "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)"),
    Case(
        NO,
        X,
        """q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) f = Cast <to = 1> (i) y = Mul(f, s)""",
        weights={"w": np.ones((4, 3), np.int8)},
    ),
    Case(
        YES, X, "q, s, z = DynamicQuantizeLinear(w) d = DequantizeLinear(q, s, z) y = Add(x, d)", weights={"w": (1, 4)}
    ),
    Case(
        UNKNOWN,
        "(float[N, 4] x, float[N] s) => (float y)",
        "a = Abs(s) q = QuantizeLinear <axis = 0> (x, a) y = DequantizeLinear <axis = 0> (q, a)",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quantize(case: Case) -> None:
    """A scale that is taken over the whole batch makes rows depend on each other."""
    check(case)
