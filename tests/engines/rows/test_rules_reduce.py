"""Operators that combine elements along axes."""

import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO = Rows.INDEPENDENT, Rows.DEPENDENT
X = "(float[N, 4, 6] x) => (float y)"
KINDS = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)

CASES = [
    *(Case(YES, X, f"y = {kind} <axes = [1, -1], keepdims = 0> (x)") for kind in KINDS),
    *(Case(NO, X, f"y = {kind} <axes = [0], keepdims = 1> (x)", shows="Log" not in kind) for kind in KINDS),
    Case(NO, X, "m = ReduceMean <axes = [0]> (x) y = Sub(x, m)"),
    Case(NO, X, "m = ReduceMean(x) y = Sub(x, m)"),
    Case(NO, X, "m = ReduceMean <keepdims = 0> (x) y = Sub(x, m)"),
    Case(YES, X, "y = ReduceSum(x, [1])"),
    Case(NO, X, "m = ReduceSum(x, [-3]) y = Sub(x, m)"),
    Case(YES, X, "y = ReduceSum <noop_with_empty_axes = 1> (x)"),
    Case(YES, X, "y = ReduceMax <keepdims = 0> (x, [1])", opset=18),
    Case(NO, X, "m = ReduceMax(x, [0, 1]) y = Sub(x, m)", opset=18),
    *(Case(YES, X, f"y = {kind} <axis = 1> (x)") for kind in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Case(NO, X, f"y = {kind} <axis = 0> (x)") for kind in ("Softmax", "LogSoftmax", "Hardmax")),
    Case(NO, "(float[N] x) => (float y)", "y = Softmax(x)"),
    Case(YES, X, "y = Softmax(x)", opset=11),
    Case(NO, X, "y = Softmax <axis = 0> (x)", opset=11),
    Case(
        NO,
        X,
        "t = Transpose <perm = [1, 0, 2]> (x) s = Softmax <axis = 1> (t) y = Transpose <perm = [1, 0, 2]> (s)",
        opset=11,
    ),
    Case(
        YES,
        X,
        "t = Transpose <perm = [1, 0, 2]> (x) s = Softmax <axis = 2> (t) y = Transpose <perm = [1, 0, 2]> (s)",
        opset=11,
    ),
    Case(YES, X, "y = CumSum(x, {1})"),
    Case(NO, X, "y = CumSum(x, {0})"),
    Case(NO, X, "y = CumSum(x, {-3})"),
    Case(YES, X, "y = CumProd(x, {1})", opset=26, runs=False),
    Case(NO, X, "y = CumProd(x, {0})", opset=26, runs=False),
    Case(YES, X, "y = LpNormalization <axis = -1> (x)"),
    Case(NO, X, "y = LpNormalization <axis = 0> (x)"),
    Case(YES, "(float[N, 3, 4, 4] x) => (float y)", "y = MeanVarianceNormalization <axes = [2, 3]> (x)"),
    Case(NO, "(float[N, 3, 4, 4] x) => (float y)", "y = MeanVarianceNormalization(x)"),
    Case(YES, "(float[N, 4] x) => (int64 y)", "y = ArgMax <axis = 1> (x)"),
    Case(NO, "(float[N, 4] x) => (int64 y)", "y = ArgMax(x)"),
    Case(NO, "(float[N, 4] x) => (int64 y)", "m = ArgMin <axis = 0> (x) i = Cast <to = 7> (x) y = Add(i, m)"),
    Case(YES, "(float[N, 4] x) => (float y, int64 i)", "y, i = TopK(x, [2])"),
    Case(NO, "(float[N, 4] x) => (float y, int64 i)", "y, i = TopK <axis = 0> (x, [1])"),
    # Sizes that are multiplied by a reduction.
    Case(
        YES,
        X,
        """s = Shape(x) p = ReduceProd <keepdims = 1> (s) n = Slice(s, [0], [1]) d = Div(p, n) t = Concat <axis =
        0> (n, d) y = Reshape(x, t)""",
    ),
    Case(NO, X, "s = Shape(x) f = Cast <to = 1> (s) p = ReduceMean <keepdims = 0> (f) y = Add(x, p)"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reduce(case: Case) -> None:
    """What is combined beside the rows keeps them apart."""
    check(case)
