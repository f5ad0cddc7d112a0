"""Operators that move and regroup elements."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4, 6] x) => (float y)"
FREE = "(float[N, L, 6] x) => (float y)"
SIZES = "s = Shape(x) n = Gather(s, [0]) l = Gather(s, [1])"  # the number of rows, and the length of x
TOKEN = {"w": (1, 1, 6)}

CASES = [
    Case(YES, X, "y = Reshape(x, [0, -1])"),
    Case(YES, X, "y = Reshape(x, [-1, 24])"),
    Case(YES, X, "y = Reshape(x, [-1, 2, 12])"),
    Case(YES, X, "y = Reshape(x, [0, 0, 2, 3])"),
    Case(NO, X, "y = Reshape(x, [1, -1])"),
    Case(NO, X, "y = Reshape(x, [5, 24])"),
    Case(NO, X, "y = Reshape(x, [-1, 6])"),
    Case(NO, X, "y = Reshape(x, [-1, 16])"),
    Case(NO, X, "y = Reshape(x, [2, -1])"),
    Case(YES, X, "r = Reshape(x, [-1, 6]) y = Reshape(r, [-1, 4, 6])"),
    Case(YES, X, "r = Reshape(x, [1, -1]) y = Reshape(r, [-1, 4, 6])"),
    Case(YES, X, "r = Reshape(x, [1, -1, 4, 6]) y = Squeeze(r, [0])"),
    Case(NO, X, "r = Reshape(x, [-1, 6]) t = Transpose(r) y = Reshape(t, [-1, 4, 6])"),
    Case(YES, X, "r = Reshape(x, [-1, 6]) a = Softmax <axis = 1> (r) y = Reshape(a, [-1, 4, 6])"),
    Case(NO, X, "r = Reshape(x, [-1, 6]) a = Softmax <axis = 0> (r) y = Reshape(a, [-1, 4, 6])"),
    # Rows and another axis folded together and taken apart, as in attention with heads.
    Case(
        YES,
        FREE,
        f"""{SIZES} h = Mul(n, l) t = Concat <axis = 0> (h, [-1]) r = Reshape(x, t) u = Concat <axis = 0> (n, l,
        [6]) y = Reshape(r, u)""",
    ),
    Case(
        YES,
        FREE,
        f"""{SIZES} p = Transpose <perm = [1, 0, 2]> (x) h = Mul(n, l) t = Concat <axis = 0> (h, [6]) r = Reshape(p, t)
        u = Concat <axis = 0> (l, n, [6]) v = Reshape(r, u) y = Transpose <perm = [1, 0, 2]> (v)""",
    ),
    Case(
        UNKNOWN,
        FREE,
        f"{SIZES} p = Transpose <perm = [1, 0, 2]> (x) u = Concat <axis = 0> (n, l, [6]) y = Reshape(p, u)",
    ),
    Case(UNKNOWN, FREE, f"{SIZES} u = Concat <axis = 0> (l, n, [6]) y = Reshape(x, u)"),
    Case(
        YES,
        FREE,
        f"""{SIZES} h = Mul(n, l) t = Concat <axis = 0> (h, [6]) r = Reshape(x, t) c = Div(h, l) u = Concat <axis
        = 0> (c, l, [6]) y = Reshape(r, u)""",
    ),
    Case(YES, X, "y = Flatten(x)"),
    Case(YES, X, "y = Flatten <axis = -2> (x)"),
    Case(NO, X, "y = Flatten <axis = 0> (x)"),
    Case(NO, X, "y = Flatten <axis = 2> (x)"),
    Case(YES, X, "y = Transpose <perm = [0, 2, 1]> (x)"),
    Case(NO, X, "y = Transpose <perm = [1, 0, 2]> (x)"),
    Case(NO, X, "y = Transpose(x)"),
    Case(YES, X, "u = Unsqueeze(x, [0]) y = Squeeze(u, [0])"),
    Case(NO, X, "y = Unsqueeze(x, [0])"),
    Case(YES, X, "y = Unsqueeze <axes = [1]> (x)", opset=11),
    Case(NO, "(float[N, 1] x) => (float y)", "y = Squeeze(x)"),
    Case(NO, X, "y = Squeeze(x, [0])"),
    Case(YES, "(float[N, 1, 4] x) => (float y)", "y = Squeeze(x, [1])"),
    # Class tokens, initial states and masks that are made for each row.
    Case(
        YES,
        FREE,
        f"{SIZES} t = Concat <axis = 0> (n, [1, 6]) c = Expand(w, t) y = Concat <axis = 1> (c, x)",
        weights=TOKEN,
    ),
    Case(
        NO,
        FREE,
        f"{SIZES} t = Concat <axis = 0> (n, [1, 6]) c = Expand(w, t) y = Concat <axis = 1> (c, x)",
        weights={"w": (5, 1, 6)},
    ),
    Case(
        YES,
        FREE,
        f"""{SIZES} t = Concat <axis = 0> (n, [-1, -1]) k = Shape(t) o = ConstantOfShape <value = int64[1] {{1}}> (k)
        g = Mul(o, {{-1}}) e = Equal(t, g) h = Where(e, o, t) c = Expand(w, h) y = Concat <axis = 1> (c, x)""",
        weights=TOKEN,
    ),
    Case(YES, FREE, f"{SIZES} t = Concat <axis = 0> (n, l, [6]) z = ConstantOfShape(t) y = Add(x, z)"),
    # A tensor without elements has rows, too.
    Case(
        NO,
        FREE,
        f"""{SIZES} t = Concat <axis = 0> (n, l, [0]) z = ConstantOfShape(t) k = Concat <axis = 0> (n, [1, 1])
        r = Tile(z, k) p = Pad(r, [0, 0, 0, 0, 0, 6]) y = Add(x, p)""",
    ),
    Case(
        YES,
        FREE,
        f"{SIZES} t = Concat <axis = 0> (n, [1, 1]) c = Tile(w, t) y = Concat <axis = 1> (c, x)",
        weights=TOKEN,
    ),
    Case(YES, X, "y = Tile(x, [1, 2, 1])"),
    Case(NO, X, "y = Tile(x, [2, 1, 1])"),
    Case(YES, X, "y = Expand(x, [1, 1, 6])"),
    Case(NO, X, "y = Expand(x, [3, 1, 1, 1])"),
    Case(NO, X, "t = Constant <value_ints = [5, 1, 6]>() y = Expand(w, t)", weights=TOKEN),
    # The number of rows, and their places, as an answer.
    Case(NO, FREE, f"{SIZES} f = Cast <to = 1> (n) y = Expand(f, s)"),
    Case(NO, FREE, "n = Size(x) s = Shape(x) f = Cast <to = 1> (n) y = Expand(f, s)"),
    Case(NO, FREE, f"{SIZES} b = Squeeze(n) r = Range({{0}}, b, {{1}}) y = Cast <to = 1> (r)"),
    Case(NO, "(float[N] x) => (float y)", "s = Shape(x) f = Cast <to = 1> (s) y = Add(x, f)"),
    # A target that is data, and one that repeats the shape through a table.
    Case(
        NO,
        X,
        "k = Cast <to = 7> (x) m = ReduceMax <keepdims = 0> (k) t = Reshape(m, [1]) y = Expand(x, t)",
        shows=False,
    ),
    Case(YES, X, "p = Gather(w, [0, 1]) y = Reshape(x, p)", weights={"w": np.array([0, 24])}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layout(case: Case) -> None:
    """Regrouping keeps rows apart where whole axes are folded and unfolded, and nowhere else."""
    check(case)
