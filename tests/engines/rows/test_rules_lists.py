"""Operators of sequences of tensors."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4, 6] x) => (float y)"
PICKED = "a = SequenceAt(q, {0}) b = SequenceAt(q, {-1}) y = Mul(a, b)"

CASES = [
    Case(YES, X, f"q = SplitToSequence <axis = 1> (x, {{2}}) {PICKED}"),
    Case(YES, X, f"q = SplitToSequence <axis = -1> (x, [3, 3]) {PICKED}"),
    Case(YES, X, f"q = SplitToSequence <axis = 1> (x) {PICKED}"),
    Case(YES, X, f"q = SplitToSequence <axis = 1, keepdims = 0> (x) {PICKED}"),
    Case(YES, "(float[N, L, 6] x) => (float y)", f"q = SplitToSequence <axis = 1> (x, {{1}}) {PICKED}"),
    Case(
        YES,
        X,
        f"""t = Transpose <perm = [1, 0, 2]> (x) q = SplitToSequence <axis = 0, keepdims = 0> (t) {PICKED}""",
    ),
    # Parts of several sizes, of which none can be told from its number.
    Case(UNKNOWN, X, "q = SplitToSequence <axis = 1> (x, {3}) y = SequenceAt(q, {0})"),
    Case(UNKNOWN, X, "q = SplitToSequence <axis = 1> (x, [1, 3]) y = SequenceAt(q, {0})"),
    Case(UNKNOWN, "(float[N, L, 6] x) => (float y)", "q = SplitToSequence <axis = 1> (x, {2}) y = SequenceAt(q, {0})"),
    # The rows themselves, and a number that the rows choose.
    Case(UNKNOWN, X, f"q = SplitToSequence(x, {{1}}) {PICKED}"),
    Case(UNKNOWN, X, f"q = SplitToSequence <keepdims = 0> (x) {PICKED}"),
    Case(
        NO,
        "(float[N, 4] x, int64[N] i) => (float y)",
        "j = Squeeze(i, [0]) q = SplitToSequence <axis = 1> (x) y = SequenceAt(q, j)",
        runs=False,
    ),
    Case(
        UNKNOWN,
        X,
        "q = SplitToSequence <axis = 1> (x) r = SequenceInsert(q, w) y = SequenceAt(r, {0})",
        weights={"w": np.zeros((1, 1, 6), np.float32)},
    ),
    Case(UNKNOWN, X, "q = SplitToSequence <axis = 1> (x) y = ConcatFromSequence <axis = 0> (q)"),
    # Lists that are written out, and lists that are joined again.
    *(
        Case(YES, X, f"q = SequenceConstruct(x, x, x) {rest}")
        for rest in (
            "y = SequenceAt(q, {1})",
            "y = ConcatFromSequence <axis = 1> (q)",
            "y = ConcatFromSequence <axis = -1, new_axis = 1> (q)",
            "c = ConcatFromSequence <axis = 0, new_axis = 1> (q) y = ReduceMax <axes = [0], keepdims = 0> (c)",
            "n = SequenceLength(q) f = Cast <to = 1> (n) y = Div(x, f)",
        )
    ),
    Case(YES, X, "q = SplitToSequence <axis = 1> (x, [2, 2]) y = ConcatFromSequence <axis = 1> (q)"),
    Case(NO, X, "q = SequenceConstruct(x, x) y = ConcatFromSequence <axis = 0, new_axis = 1> (q)"),
    Case(UNKNOWN, X, "q = SequenceConstruct(x, x) y = ConcatFromSequence <axis = 0> (q)"),
    Case(UNKNOWN, X, "t = Transpose(x) q = SequenceConstruct(x, t) y = SequenceAt(q, {0})", runs=False),
    Case(UNKNOWN, X, "q = SequenceConstruct(x, w) y = SequenceAt(q, {0})", weights={"w": (1, 4)}),
    Case(UNKNOWN, X, "s = Shape(x) q = SequenceConstruct(s, s) a = SequenceAt(q, {0}) y = Expand(x, a)"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lists(case: Case) -> None:
    """Parts of one size beside the rows keep the rows apart."""
    check(case)
