"""Operators that join, cut and extend tensors along an axis."""

import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4, 6] x) => (float y)"
XZ = "(float[N, 4, 6] x, float[N, 4, 6] z) => (float y)"
COUNT = "s = Shape(x) n = Slice(s, [0], [1])"

CASES = [
    Case(YES, XZ, "y = Concat <axis = 1> (x, z)"),
    Case(NO, XZ, "y = Concat <axis = 0> (x, z)"),
    Case(NO, X, "y = Concat <axis = 0> (x, w)", weights={"w": (1, 4, 6)}),
    Case(NO, X, "y = Concat <axis = 1> (x, w)", weights={"w": (5, 1, 6)}),
    Case(NO, XZ, "t = Transpose <perm = [1, 0, 2]> (z) y = Concat <axis = 2> (x, t)"),
    # Guidance doubles the batch and takes it apart again.
    Case(YES, XZ, "d = Concat <axis = 0> (x, z) r = Relu(d) a, b = Split <axis = 0> (r) y = Sub(a, b)"),
    Case(
        YES,
        XZ,
        f"""{COUNT} d = Concat <axis = 0> (x, z) m = Add(n, n) a = Slice(d, [0], n, [0]) b = Slice(d, n, m, [0]) y
        = Sub(a, b)""",
    ),
    Case(NO, XZ, "d = Concat <axis = 0> (x, z) r = Softmax <axis = 0> (d) a, b = Split <axis = 0> (r) y = Sub(a, b)"),
    Case(YES, X, "a, y = Split <axis = 1> (x)"),
    Case(YES, X, "a, y = Split <axis = 1> (x, [1, 3])"),
    Case(YES, X, "a, y = Split <axis = 2, split = [2, 4]> (x)", opset=11),
    Case(YES, X, "a, y = Split <axis = 1, num_outputs = 2> (x)", opset=18),
    Case(NO, X, "a, y = Split <axis = 0> (x, [1, 4])"),
    Case(UNKNOWN, X, "a, y = Split <axis = 0> (x)"),
    Case(YES, X, "y = Slice(x, [1], [3], [1])"),
    Case(YES, X, "y = Slice(x, [-1], [9223372036854775807], [2])"),
    Case(YES, X, "y = Slice(x, [5], [-7], [2], [-1])"),
    Case(YES, X, "y = Slice(x, [0, 1], [2147483647, 3])"),
    Case(YES, X, "y = Slice <axes = [1], starts = [1], ends = [2]> (x)", opset=9),
    Case(YES, X, f"{COUNT} y = Slice(x, [0], n, [0])"),
    Case(NO, X, "y = Slice(x, [0], [2], [0])"),
    Case(NO, X, "y = Slice(x, [1], [9223372036854775807], [0])"),
    Case(NO, X, "y = Slice(x, [-1], [-9223372036854775807], [0], [-1])"),
    Case(UNKNOWN, X, f"{COUNT} m = Sub(n, [1]) y = Slice(x, [0], m, [0])"),
    Case(YES, X, "y = Pad(x, [0, 1, 0, 0, 0, 2])"),
    Case(YES, X, 'y = Pad <mode = "reflect"> (x, [1, 1], , [2])', opset=18),
    Case(YES, X, "y = Pad <pads = [0, 1, 0, 0, 0, 2]> (x)", opset=10),
    Case(NO, X, "y = Pad(x, [1, 0, 0, 0, 0, 0])"),
    Case(NO, X, "y = Pad(x, [0, 0, 0, -1, 0, 0])"),
    Case(YES, X, "y = CenterCropPad <axes = [1, 2]> (x, [2, 8])", opset=18),
    Case(NO, X, "y = CenterCropPad <axes = [0, 2]> (x, [3, 8])", opset=18),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_join(case: Case) -> None:
    """Along the rows only whole groups of all rows may be joined and cut."""
    check(case)
