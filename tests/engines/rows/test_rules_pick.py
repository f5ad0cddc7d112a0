"""Operators that pick or write elements by their number."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4, 6] x) => (float y)"
IDS = "(int64[N, 4] x) => (float y)"
COUNT = "s = Shape(x) n = Gather(s, {0}) r = Range({0}, n, {1})"
ENDS = f"{COUNT} f = ReduceMax <axes = [2], keepdims = 0> (x) a = ArgMax <axis = 1, keepdims = 0> (f)"
PAIRS = f"{ENDS} u = Unsqueeze(r, [-1]) v = Unsqueeze(a, [-1])"

BEAMS = f"{COUNT} f = Reshape(x, [0, -1]) v, i = TopK <axis = 1> (f, [4])"
FLAT = "c = Unsqueeze(r, [1]) m = Mul(c, {4}) a = Add(d, m) g = Reshape(a, [-1]) l = Reshape(x, [-1, 6])"
HUGE = "(float[N, 4, 2000000] x) => (float y)"
DIVIDED = "q = Cast <to = 1> (i) w = Div(q, {6.0})"
ROUNDED = "b = Div(i, {6}) n0 = Less(i, {0}) o = Xor(n0, no) t = Mod(i, {6}) e = Equal(t, {0}) u = Not(e) p = And(o, u)"

CASES = [
    Case(YES, IDS, "y = Gather(w, x)", weights={"w": (3, 5)}),
    Case(NO, IDS, "y = Gather <axis = 1> (w, x)", weights={"w": (2, 3, 5)}),
    Case(YES, X, "y = Gather <axis = 1> (x, {0})"),
    Case(YES, X, "y = Gather <axis = 2> (x, [0, -1, 3])"),
    Case(NO, X, "y = Gather(x, [0])"),
    Case(NO, X, "y = Gather(x, [0, 0, 0, 0, 0])"),
    Case(NO, "(float[N, 4] x, int64[N] i) => (float y)", "y = Gather(x, i)", high=1),
    Case(NO, "(float[N, 4] x, int64[N] i) => (float y)", "y = Gather <axis = 1> (x, i)"),
    Case(NO, X, f"{COUNT} p = Gather(w, r) y = Add(x, p)", weights={"w": (9, 4, 6)}),
    # The state at the end of each row's text, in the ways of the exporters.
    Case(YES, X, f"{COUNT} y = Gather(x, r)"),
    Case(YES, X, f"{PAIRS} i = Concat <axis = -1> (u, v) y = GatherND(x, i)"),
    Case(YES, X, f"{ENDS} k = Mul(r, {{4}}) i = Add(k, a) l = Reshape(x, [-1, 6]) y = Gather(l, i)"),
    Case(UNKNOWN, X, f"{ENDS} k = Mul(r, {{3}}) i = Add(k, a) l = Reshape(x, [-1, 6]) y = Gather(l, i)"),
    Case(
        UNKNOWN,
        "(float[N, 4, 6] x, int64[N] e) => (float y)",
        f"{COUNT} k = Mul(r, {{4}}) i = Add(k, e) l = Reshape(x, [-1, 6]) y = Gather(l, i)",
    ),
    # The last token, as transformers counts it: `(ids.eq(pad).int().argmax(-1) - 1) % length`.
    Case(
        YES,
        "(int64[N, L] ids, float[N, L, 6] h) => (float y)",
        """s = Shape(h) n = Gather(s, {0}) l = Gather(s, {1}) r = Range({0}, n, {1}) e = Equal(ids, {0})
        j = Cast <to = 6> (e) a = ArgMax <axis = 1, keepdims = 0> (j) b = Sub(a, {1}) m = Mod(b, l) k = Mul(r, l)
        i = Add(k, m) f = Reshape(h, [-1, 6]) y = Gather(f, i)""",
    ),
    *(
        Case(
            verdict,
            "(float[N, 4, 6] x, int64[N] e) => (float y)",
            f"""{COUNT} k = Mul(r, {{4}}) d = Sub(e, {{2}}) {rest} i = Add(k, m) l = Reshape(x, [-1, 6])
            y = Gather(l, i)""",
            high=9,
        )
        for verdict, rest in (
            (YES, "m = Mod(d, {4})"),
            (YES, "c = Mod(e, {2}) o = Add(c, {3}) m = Mod(d, o)"),
            (UNKNOWN, "m = Mod <fmod = 1> (d, {4})"),
            (UNKNOWN, "m = Mod(d, {5})"),
            (UNKNOWN, "m = Mod(d, {-4})"),
        )
    ),
    # The beams that a search goes on with: `topk // vocabulary + row * beams`, in the ways of the exporters.
    *(
        Case(
            verdict,
            X,
            f"{BEAMS} {rest} {FLAT} h = Gather(l, g) y = Reshape(h, [-1, 4, 6])",
            opset=20,
            weights={
                "no": np.array(False),
                "yes": np.array(True),
                "six": np.array(6.0),
                "half": np.array(6, np.float16),
            },
        )
        for verdict, rest in (
            (YES, "d = Div(i, {6})"),
            (YES, "d = Div(i, [7])"),
            (YES, "s1 = Shape <start = 2, end = 3> (x) d = Div(i, s1)"),
            (YES, f"{ROUNDED} k = Sub(b, {{1}}) d = Where(p, k, b)"),
            (YES, f"{DIVIDED} k = Floor(w) d = Cast <to = 7> (k)"),
            (YES, f"{DIVIDED} d = Cast <to = 7> (w)"),
            (YES, "q = Cast <to = 11> (i) w = Div(q, six) k = Floor(w) d = Cast <to = 7> (k)"),
            (UNKNOWN, "d = Div(i, {5})"),
            (UNKNOWN, "d = Div(i, {-6})"),
            (UNKNOWN, "d = Div(i, [6, 6, 6, 6])"),
            (UNKNOWN, "k = Sub(i, {1}) d = Div(k, {6})"),
            (UNKNOWN, "k = Add(i, {1}) d = Div(k, {6})"),
            (UNKNOWN, "d = Div({6}, i)"),
            (UNKNOWN, f"{ROUNDED} k = Sub(b, {{1}}) d = Where(p, b, k)"),
            (UNKNOWN, f"{ROUNDED} k = Sub(b, {{1}}) d = Where(u, k, b)"),
            (UNKNOWN, f"{ROUNDED} k = Sub(b, {{1}}) z = Xor(n0, yes) d = Where(z, k, b)"),
            (UNKNOWN, "b = Div(i, {6}) n1 = Less(i, {1}) k = Sub(b, {1}) d = Where(n1, k, b)"),
            (UNKNOWN, "b = Div(i, {6}) z = Sub(i, {3}) n1 = Less(z, {0}) k = Sub(b, {1}) d = Where(n1, k, b)"),
            (UNKNOWN, f"{DIVIDED} k = Ceil(w) d = Cast <to = 7> (k)"),
            (UNKNOWN, f"{DIVIDED} k = Add(w, {{0.5}}) d = Cast <to = 7> (k)"),
            (UNKNOWN, f"{DIVIDED} k = Div(w, {{1.0}}) d = Cast <to = 7> (k)"),
            (UNKNOWN, "q = Cast <to = 1> (i) w = Div(q, {5.0}) k = Floor(w) d = Cast <to = 7> (k)"),
            (UNKNOWN, "q = Cast <to = 1> (i) w = Div(q, {6.5}) k = Floor(w) d = Cast <to = 7> (k)"),
            (UNKNOWN, "q = Cast <to = 1> (i) w = Div(q, {-6.0}) k = Floor(w) d = Cast <to = 7> (k)"),
            (UNKNOWN, "q = Cast <to = 10> (i) w = Div(q, half) k = Floor(w) d = Cast <to = 7> (k)"),
            (UNKNOWN, f"{DIVIDED} j = Cast <to = 10> (w) k = Floor(j) d = Cast <to = 7> (k)"),
        )
    ),
    Case(UNKNOWN, X, f"{BEAMS} d = Div(i, {{6}}) {FLAT.replace('{4}', '{3}')} y = Gather(l, g)"),
    *(
        Case(
            verdict,
            HUGE,
            f"{BEAMS} {rest} {FLAT.replace('6', '2000000')} h = Gather(l, g) y = Reshape(h, [-1, 4, 2000000])",
            runs=False,
        )
        for verdict, rest in (
            (YES, "d = Div(i, {2000000})"),
            # Of numbers that float32 may not have, one is rounded up to the next beam.
            (UNKNOWN, f"{DIVIDED.replace('6', '2000000')} k = Floor(w) d = Cast <to = 7> (k)"),
        )
    ),
    Case(
        UNKNOWN,
        "(float[N, 4, 6] x, int64[N, 4] i) => (float y)",
        f"{COUNT} d = Div(i, {{6}}) {FLAT} h = Gather(l, g) y = Reshape(h, [-1, 4, 6])",
    ),
    Case(UNKNOWN, X, f"{PAIRS} i = Concat <axis = -1> (v, u) t = Transpose <perm = [1, 0, 2]> (x) y = GatherND(t, i)"),
    Case(YES, X, f"{PAIRS} i = Concat <axis = -1> (u, v) z = Gather <axis = 1> (x, {{0}}) y = ScatterND(x, i, z)"),
    Case(
        NO,
        X,
        """z = Gather <axis = 1> (x, {0}) i = Constant <value_ints = [0]>() j = Unsqueeze(i, [0]) k = Slice(z,
        [0], [1]) y = ScatterND(x, j, w)""",
        weights={"w": (1, 4, 6)},
    ),
    Case(YES, "(float[N, 4] x, int64[N, 2] i) => (float y)", "y = GatherElements <axis = 1> (x, i)"),
    Case(NO, "(float[N, 4] x, int64[N, 4] i) => (float y)", "y = GatherElements <axis = 0> (x, i)", high=1),
    Case(
        NO,
        "(float[N, 4] x) => (float y)",
        "y = GatherElements <axis = 1> (x, i)",
        weights={"i": np.zeros((1, 2), np.int64)},
    ),
    Case(
        YES,
        "(float[N, 4] x, int64[N, 4] i) => (float y)",
        'y = ScatterElements <axis = 1, reduction = "add"> (x, i, x)',
    ),
    Case(
        NO,
        "(float[N, 4] x, int64[N, 4] i) => (float y)",
        'y = ScatterElements <axis = 0, reduction = "add"> (x, i, x)',
        high=1,
    ),
    Case(YES, "(float[N, 4] x, int64[N, 4] i) => (float y)", "y = Scatter <axis = 1> (x, i, x)", opset=9, high=1),
    Case(YES, "(float[N, 4, 6] x, int64[N, 4, 1] i) => (float y)", "y = GatherND <batch_dims = 1> (x, i)"),
    Case(YES, "(int64[N, 4, 2] i) => (float y)", "y = GatherND(w, i)", weights={"w": (3, 3)}),
    Case(NO, X, "y = GatherND(x, i)", weights={"i": np.zeros((5, 1), np.int64)}),
    Case(
        YES,
        X,
        "t = Transpose <perm = [1, 2, 0]> (x) g = GatherND(t, i) y = Transpose(g)",
        weights={"i": np.array([[0, 1], [2, 3]])},
    ),
    Case(
        YES,
        X,
        "t = Transpose <perm = [1, 0, 2]> (x) u = Neg(t) g = ScatterND(t, i, u) y = Transpose <perm = [1, 0, 2]> (g)",
        weights={"i": np.array([[0], [2], [1], [3]])},
    ),
    Case(YES, X, "y = Compress <axis = 1> (x, w)", weights={"w": np.array([True, False, True, False])}),
    Case(NO, X, "y = Compress <axis = 0> (x, w)", weights={"w": np.array([True])}),
    Case(NO, "(float[N, 4] x, bool[N] c) => (float y)", "y = Compress <axis = 0> (x, c)"),
    Case(NO, X, "y = Compress(x, w)", weights={"w": np.array([True])}, shows=False),
    Case(YES, X, "y = Trilu <upper = 1> (x)"),
    Case(NO, "(float[N, 4] x) => (float y)", "y = Trilu <upper = 1> (x)"),
    Case(NO, "(float[N, 4] x) => (float y)", "e = EyeLike(x) y = Add(x, e)"),
    Case(YES, IDS, "y = OneHot(x, {3}, [0.0, 1.0])"),
    Case(NO, IDS, "y = OneHot <axis = 0> (x, {3}, [0.0, 1.0])"),
    Case(NO, "(int64[N, 4] x) => (float y)", "s = Shape(x) n = Gather(s, [0]) y = OneHot(x, n, [0.0, 1.0])"),
    Case(
        YES,
        "(float[N, 4] x) => (float y)",
        """k = ArgMax <axis = 1, keepdims = 0> (x) l = Add(k, [1]) y = ReverseSequence <batch_axis = 0, time_axis
        = 1> (x, l)""",
    ),
    Case(
        NO,
        "(float[N, 4] x) => (float y)",
        "y = ReverseSequence <batch_axis = 1, time_axis = 0> (x, [1, 1, 1, 1])",
        shows=False,
    ),
    Case(NO, "(float[N, 4] x) => (int64 y)", "m = Greater(x, {0.0}) z = NonZero(m) y = Transpose(z)"),
    # Where a weight is not 0.
    Case(
        YES, X, "z = NonZero(w) i = Squeeze(z, [0]) y = Gather <axis = 1> (x, i)", weights={"w": np.array([1, 0, 2, 0])}
    ),
    Case(
        YES,
        X,
        "z = NonZero(w) a, b = Split <axis = 0> (z) i = Squeeze(b, [0]) y = Gather <axis = 2> (x, i)",
        weights={"w": np.array([[True, False, True], [False, False, True]])},
    ),
    Case(
        YES,
        "(float[N, 100] x) => (float y)",
        "z = NonZero(w) i = Squeeze(z, [0]) y = Gather <axis = 1> (x, i)",
        weights={"w": np.arange(100) % 3},
    ),
    Case(NO, X, "z = NonZero(w) i = Squeeze(z, [0]) y = Gather(x, i)", weights={"w": np.array([1])}),
    Case(NO, X, "s = Shape(x) z = NonZero(s) i = Squeeze(z, [0]) y = Gather <axis = 1> (x, i)", shows=False),
    Case(NO, "(float[N] x) => (float y)", "y = Unique(x)"),
    Case(NO, "(float[N, 3, 4] x, float[N, 2, 3] p) => (int64 y)", "y = NonMaxSuppression(x, p, {9})"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pick(case: Case) -> None:
    """Picking beside the rows keeps them apart; along them only a row's own number does."""
    check(case)
