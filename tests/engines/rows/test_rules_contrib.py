"""Operators of onnxruntime that ONNX has, too, or had no word for."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"
XZ = "(float[N, 4] x, float[N, 4] z) => (float y)"
SQUARE = "(float[N, 4, 4] x) => (float y)"
IMAGE = "(float[N, 3, 6, 6] x) => (float y)"
COUNT = "s = Shape(x) n = Gather(s, {0})"
TURN = "t = Transpose <perm = [1, 0, 2]> (x)"
Q = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
TAKE = "q = QuantizeLinear(x, s, z)"
QCONV = {**Q, "k": np.random.default_rng(2).integers(2, 5, (5, 3, 3, 3)).astype(np.uint8)}
WHERE = "com.microsoft.QLinearWhere(c, q, s, z, {other}, s, z, s, z)"
FIXED = {"o": np.full((5, 4), 9, np.uint8), "p": np.full((1, 4), 9, np.uint8)}
HASHES = (
    ("string[N, 4] x", "uint32", ""),
    ("int32[N, 4] x", "int32", "<positive = 0>"),
    ("int64[N, 4] x", "uint32", ""),
)


def axis(number: int) -> dict[str, np.ndarray]:
    return {"a": np.array(number, np.int32)}


CASES = [
    # A k-nearest-neighbour model measures from each row to each of its samples.
    *(
        Case(YES, X, f'y = com.microsoft.CDist <metric = "{metric}"> (x, w)', weights={"w": (3, 4)})
        for metric in ("euclidean", "sqeuclidean")
    ),
    Case(YES, X, "d = com.microsoft.CDist(w, x) y = Transpose(d)", weights={"w": (3, 4)}),
    Case(NO, X, "y = com.microsoft.CDist(w, x)", weights={"w": (5, 4)}),
    Case(NO, XZ, "y = com.microsoft.CDist(x, z)"),
    Case(NO, X, "y = com.microsoft.CDist(x, x)"),
    Case(NO, X, "t = Transpose(x) d = com.microsoft.CDist(t, w) y = Transpose(d)", weights={"w": (3, 5)}),
    Case(
        YES,
        SQUARE,
        "p = Add(x, i) y = com.microsoft.Inverse(p)",
        weights={"i": 9000 * np.eye(4, dtype=np.float32)},
    ),
    Case(NO, X, "y = com.microsoft.Inverse(x)", runs=False),
    Case(
        NO,
        SQUARE,
        f"{TURN} r = com.microsoft.Inverse(t) y = Transpose <perm = [1, 0, 2]> (r)",
        runs=False,  # the engine does not look whether a matrix is square, and ends the process
    ),
    *(
        Case(UNKNOWN, f"(float[N, {shape}] x) => (float y)", "y = com.microsoft.Inverse(x)", runs=False)
        for shape in ("4, 5", "A, B", "A, 4")
    ),
    *(Case(YES, X, "y = com.microsoft.ExpandDims(x, a)", weights=axis(number)) for number in (1, 2, -1, -2)),
    Case(NO, X, "y = com.microsoft.ExpandDims(x, a)", weights=axis(0)),
    Case(NO, X, "y = com.microsoft.ExpandDims(x, a)", weights=axis(-3)),
    Case(UNKNOWN, X, "y = com.microsoft.ExpandDims(x, a)", weights=axis(3), runs=False),
    *(
        Case(YES, f"({given}) => ({result} y)", f"y = com.microsoft.MurmurHash3 {options} (x)")
        for given, result, options in HASHES
    ),
    Case(YES, X, "y = com.microsoft.UnfoldTensor <dim = 1, size = 2> (x)"),
    Case(
        YES,
        "(float[N, 9] x) => (float y)",
        "u = com.microsoft.UnfoldTensor <size = 4, step = 2> (x) y = Reshape(u, [-1, 12])",
    ),
    Case(NO, X, "y = com.microsoft.UnfoldTensor <dim = 0, size = 1> (x)", shows=False),
    Case(NO, X, "t = Transpose(x) y = com.microsoft.UnfoldTensor <size = 2> (t)"),
    Case(
        YES, "(float[N, 4, 6] x, int64[N, 2] i) => (float y)", "y = com.microsoft.GatherND(w, i)", weights={"w": (3, 3)}
    ),
    Case(NO, X, "y = com.microsoft.GatherND(x, i)", weights={"i": np.zeros((5, 1), np.int64)}),
    Case(
        YES, "(float[N, 3, 8, 8] x, float[N, 5, 5, 2] g) => (float y)", "h = Tanh(g) y = com.microsoft.GridSample(x, h)"
    ),
    Case(NO, IMAGE, "y = com.microsoft.GridSample(x, g)", weights={"g": (5, 4, 4, 2)}),
    Case(YES, X, "y = com.microsoft.Pad(x, [0, 1, 0, 2])"),
    Case(YES, X, "y = com.microsoft.Pad(x, p)", weights={"p": np.array([[0, 1, 0, 2]])}),
    Case(NO, X, "y = com.microsoft.Pad(x, [1, 0, 0, 0])"),
    Case(YES, SQUARE, "y = com.microsoft.Trilu(x)"),
    Case(NO, X, "y = com.microsoft.Trilu(x)"),
    Case(
        NO,
        SQUARE,
        f"{TURN} r = Transpose <perm = [1, 2, 0]> (t) u = com.microsoft.Trilu(r) y = Transpose <perm = [2, 0, 1]> (u)",
    ),
    Case(YES, X, f"{COUNT} r = com.microsoft.Range({{0}}, n) y = Gather(x, r)"),
    Case(YES, X, "r = com.microsoft.Range({0}, {4}, {1}) f = Cast <to = 1> (r) y = Add(x, f)"),
    Case(NO, X, f"{COUNT} r = com.microsoft.Range({{0}}, n) u = Unsqueeze(r, [1]) f = Cast <to = 1> (u) y = Add(x, f)"),
    Case(NO, "(float[N] x) => (float y)", "y, i, c = com.microsoft.Unique(x)"),
    Case(
        NO,
        IMAGE,
        "y = com.microsoft.CropAndResize(x, r, b, c)",
        weights={"r": np.ones((5, 4), np.float32), "b": np.zeros(5, np.int32), "c": np.array([2, 2], np.int32)},
    ),
    *(
        Case(YES, IMAGE, f"y = com.microsoft.ConvTransposeWithDynamicPads(x, w, {pads})", weights={"w": (3, 2, 3, 3)})
        for pads in ("[0, 0, 0, 0]", "[1, 1, 1, 1]")
    ),
    Case(
        NO,
        "(float[N, 2, 6, 6] x) => (float y)",
        "t = Transpose <perm = [1, 0, 2, 3]> (x) y = com.microsoft.ConvTransposeWithDynamicPads(t, w, [0, 0, 0, 0])",
        weights={"w": (5, 2, 3, 3)},
    ),
    *(
        Case(YES, f"(uint8[N, {shape}] x) => (uint8 y)", f"y = com.microsoft.{body}", weights=QCONV, high=200)
        for shape, body in (
            ("6, 6, 3", "NhwcMaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)"),
            ("H, W, 3", "NhwcMaxPool <kernel_shape = [2, 2], ceil_mode = 1> (x)"),
            ("6, 6, 3", "QLinearConv <channels_last = 1> (x, s, z, k, s, z, s, z)"),
            ("3, 6, 6", "QLinearConv(x, s, z, k, s, z, s, z)"),
        )
    ),
    Case(
        YES,
        "(uint8[N, 6, 6, 3] x) => (uint8 y)",
        """c = com.microsoft.QLinearConv <channels_last = 1> (x, s, z, k, s, z, s, z)
        p = com.microsoft.NhwcMaxPool <kernel_shape = [2, 2]> (c) y = Reshape(p, [-1, 45])""",
        weights=QCONV,
        high=200,
    ),
    *(
        Case(
            NO,
            "(uint8[N, 1, 6, 3] x) => (uint8 y)",
            f"""t = Transpose <perm = [1, 0, 2, 3]> (x) r = com.microsoft.{body}
            y = Transpose <perm = [1, 0, 2, 3]> (r)""",
            weights=QCONV,
            high=200,
        )
        for body in (
            "NhwcMaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (t)",
            "QLinearConv <channels_last = 1, pads = [1, 1, 1, 1]> (t, s, z, k, s, z, s, z)",
        )
    ),
    *(
        Case(
            rows,
            f"(int16[N, 4] x, int16[{shape}] z) => (int32 y)",
            "y = com.microsoft.MatMulInteger16(x, z)",
            runs=runs,
        )
        for rows, shape, runs in ((NO, "N, 4", False), (NO, "N, 4, 5", True))
    ),
    Case(
        YES,
        "(int16[N, 4] x) => (int32 y)",
        "y = com.microsoft.MatMulInteger16(x, w)",
        weights={"w": np.ones((4, 3), np.int16)},
    ),
    *(
        Case(
            rows,
            "(float[N, 4] x, bool[N, 4] c) => (uint8 y)",
            f"{TAKE} {before} y = {WHERE.format(other=other)}",
            weights={**Q, **FIXED},
        )
        for rows, before, other in (
            (YES, "", "q"),
            (YES, "", "p"),
            (NO, "", "o"),
            (NO, "f = Gather(q, {0}) g = Slice(q, [1], [9]) h = Concat <axis = 0> (g, g)", "h"),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contrib(case: Case) -> None:
    """They treat rows as their relatives in ONNX, or each element by itself."""
    check(case)
