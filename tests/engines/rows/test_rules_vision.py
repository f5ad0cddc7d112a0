"""Convolutions, pools, normalisations and image operators."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 3, 8, 8] x) => (float y)"
FREE = "(float[N, 3, H, W] x) => (float y)"
FOUR = "(float[N, 4, 8, 8] x) => (float y)"
SWAP = "t = Transpose <perm = [1, 0, 2, 3]> (x)"
BACK = "y = Transpose <perm = [1, 0, 2, 3]> (r)"
W = {"w": (5, 3, 3, 3), "b": (5,)}
C3 = {name: np.full(3, 0.5, np.float32) for name in "gbmv"}
SIZES = "s = Shape(x) n = Slice(s, [0], [2])"

Q = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "k": np.full((5, 3, 3, 3), 7, np.uint8)}

CASES = [
    Case(YES, "(uint8[N, 3, 8, 8] x) => (int32 y)", "y = ConvInteger(x, k, z)", weights=Q),
    Case(YES, "(uint8[N, 3, 8, 8] x) => (uint8 y)", "y = QLinearConv(x, s, z, k, s, z, s, z)", weights=Q),
    Case(
        YES,
        "(float[N, 3, 8, 8] x, float[N, 18, 6, 6] o) => (float y)",
        "y = DeformConv <kernel_shape = [3, 3]> (x, w, o)",
        opset=19,
        weights={"w": (5, 3, 3, 3)},
    ),
    Case(
        NO,
        "(float[N, 3, 8, 8] x) => (float y)",
        "y = DeformConv <kernel_shape = [3, 3]> (x, w, o)",
        opset=19,
        weights={"w": (5, 3, 3, 3), "o": (5, 18, 6, 6)},
    ),
    Case(YES, X, "y = LpPool <kernel_shape = [2, 2], p = 2> (x)"),
    Case(YES, X, "y = GlobalLpPool <p = 2> (x)"),
    Case(NO, "(float[N, 3, 8] x) => (float y)", "t = Transpose <perm = [1, 2, 0]> (x) y = GlobalLpPool <p = 2> (t)"),
    Case(YES, FOUR, "y = GroupNormalization <num_groups = 2> (x, h, h)", opset=21, weights={"h": (4,)}),
    Case(
        NO,
        "(float[N, 2, 8, 8] x) => (float y)",
        f"{SWAP} r = GroupNormalization <num_groups = 1> (t, h, h) {BACK}",
        opset=21,
        weights={"h": (5,)},
    ),
    Case(
        NO,
        "(float[N, 3, 8, 8] x) => (float y)",
        "y = MaxRoiPool <pooled_shape = [1, 1]> (x, r)",
        weights={"r": np.zeros((2, 5), np.float32)},
    ),
    Case(YES, X, "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)", weights=W),
    Case(YES, FREE, 'y = Conv <auto_pad = "SAME_UPPER"> (x, w)', weights={"w": (5, 3, 3, 3)}),
    Case(
        NO,
        "(float[N, 8, 8] x) => (float y)",
        "u = Unsqueeze(x, [0]) r = Conv(u, w) s = Squeeze(r, [0]) y = Identity(s)",
        weights={"w": (5, 5, 3, 3)},
    ),
    Case(
        NO,
        "(float[N, 4] x) => (float y)",
        "t = Transpose(x) u = Unsqueeze(t, [0]) r = Conv <pads = [1, 1]> (u, w) s = Squeeze(r, [0]) y = Transpose(s)",
        weights={"w": (4, 4, 3)},
    ),
    Case(UNKNOWN, "(float[N, 3, 8, 8] x, float[N, 3, 3, 3] k) => (float y)", "y = Conv(x, k)"),
    Case(YES, X, "y = ConvTranspose <strides = [2, 2]> (x, w)", weights={"w": (3, 2, 3, 3)}),
    Case(NO, X, f"{SWAP} r = ConvTranspose(t, w) {BACK}", weights={"w": (5, 2, 3, 3)}),
    *(Case(YES, X, f"y = {kind} <kernel_shape = [2, 2], strides = [2, 2]> (x)") for kind in ("MaxPool", "AveragePool")),
    Case(YES, X, f"{SWAP} r = MaxPool <kernel_shape = [2, 2]> (t) {BACK}"),
    Case(
        NO,
        "(float[N, 3, 8] x) => (float y)",
        """t = Transpose <perm = [1, 2, 0]> (x) r = MaxPool <kernel_shape = [2], pads = [0, 1]> (t) y = Transpose
        <perm = [2, 0, 1]> (r)""",
    ),
    Case(NO, "(float[N, 3, 8, 8] x) => (float y, int64 i)", "y, i = MaxPool <kernel_shape = [2, 2]> (x)"),
    *(Case(YES, FREE, f"y = {kind}(x)") for kind in ("GlobalAveragePool", "GlobalMaxPool")),
    Case(YES, X, "y = BatchNormalization(x, g, b, m, v)", weights=C3),
    Case(NO, X, "y, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v)", weights=C3),
    Case(
        NO,
        "(float[N, 3] x) => (float y)",
        "t = Transpose(x) r = BatchNormalization(t, h, h, h, h) y = Transpose(r)",
        weights={"h": np.full(5, 0.5, np.float32)},
    ),
    Case(YES, X, "y = InstanceNormalization(x, g, b)", weights=C3),
    Case(NO, X, f"{SWAP} r = InstanceNormalization(t, h, h) {BACK}", weights={"h": np.ones(5, np.float32)}),
    Case(YES, FOUR, "y = LRN <size = 3> (x)"),
    Case(NO, FOUR, f"{SWAP} r = LRN <size = 3, alpha = 10.0> (t) {BACK}"),
    Case(YES, "(float[N, 4, 8] x) => (float y)", "y = LayerNormalization(x, h)", weights={"h": (8,)}),
    Case(
        YES,
        "(float[N, 4, 8] x) => (float y, float m, float d)",
        "y, m, d = LayerNormalization <axis = 1> (x, h)",
        weights={"h": (4, 8)},
    ),
    Case(
        NO,
        "(float[N, 8] x) => (float y)",
        "t = Transpose(x) r = LayerNormalization(t, h) y = Transpose(r)",
        weights={"h": (5,)},
    ),
    Case(YES, "(float[N, 4, 8] x) => (float y)", "y = RMSNormalization(x, h)", opset=23, weights={"h": (8,)}),
    Case(YES, FREE, 'y = Resize <mode = "linear"> (x, , [1.0, 1.0, 2.0, 2.0])'),
    Case(YES, FREE, f'{SIZES} t = Concat <axis = 0> (n, [16, 5]) y = Resize <mode = "nearest"> (x, , , t)'),
    Case(
        YES,
        FREE,
        f"""{SIZES} h = Slice(s, [2], [4]) d = Mul(h, [2, 2]) t = Concat <axis = 0> (n, d) f = Cast <to = 1> (t)
        g = Cast <to = 1> (s) q = Div(f, g) y = Resize <mode = "nearest"> (x, , q)""",
    ),
    *(
        Case(
            YES,
            FREE,
            f"""s = Shape(x) n = Slice(s, [0], [2]) h = Slice(s, [2], [3]) {size} t = Concat <axis = 0> (n, d, d)
            y = Resize <mode = "nearest"> (x, , , t)""",
        )
        for size in ("m = Sub(h, [1]) d = Div(m, [2])", "m = Sub(h, [1]) k = Div(m, [2]) d = Add(k, [1])")
    ),
    Case(
        NO,
        FREE,
        """s = Shape(x) n = Slice(s, [0], [1]) m = Sub(n, [1]) d = Div(m, [2]) r = Slice(s, [1], [4])
        t = Concat <axis = 0> (d, r) y = Resize <mode = "nearest"> (x, , , t)""",
    ),
    Case(NO, X, 'y = Resize <mode = "nearest"> (x, , , [5, 3, 16, 16])'),
    Case(UNKNOWN, X, 'y = Resize <mode = "nearest"> (x, , [2.0, 1.0, 1.0, 1.0])'),
    Case(YES, X, 'y = Resize <mode = "cubic", axes = [2, 3]> (x, , , [4, 4])', opset=18),
    Case(YES, X, 'y = Upsample <mode = "nearest"> (x, [1.0, 1.0, 2.0, 2.0])', opset=9),
    Case(YES, X, 'y = Resize <mode = "nearest"> (x, [1.0, 1.0, 2.0, 2.0])', opset=10),
    Case(
        UNKNOWN,
        X,
        """y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">
        (x, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0])""",
    ),
    Case(NO, "(float[N, 1, 4] x, int64[N, 1, 4] i) => (float y)", "y = MaxUnpool <kernel_shape = [1]> (x, i)", high=4),
    Case(
        NO,
        X,
        """p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (p, i)""",
        shows=False,  # unless a version of the engine finds no maximum among NaN
    ),
    Case(
        YES,
        X,
        "u = MaxUnpool <kernel_shape = [1, 1]> (w, i, [1, 3, 8, 8]) y = Add(x, u)",
        weights={"w": (1, 3, 8, 8), "i": np.arange(192).reshape(1, 3, 8, 8)},
    ),
    *(
        Case(rows, X, f"{before} {after}", opset=9)
        for rows, before, after in (
            (YES, "y = ImageScaler <scale = 2.0, bias = [1.0, 2.0, 3.0]> (x)", ""),
            (YES, "c = Crop <border = [1, 1, 1, 1]> (x)", "y = Flatten(c)"),
            (YES, "c = Crop <border = [1, 1, 1, 1], scale = [2, 2]> (x)", "y = GlobalAveragePool(c)"),
            (NO, SWAP, f"r = ImageScaler <scale = 2.0, bias = [1.0, 2.0, 3.0, 4.0, 5.0]> (t) {BACK}"),
            (NO, "t = Transpose <perm = [2, 1, 0, 3]> (x)", "y = Crop <border = [1, 1, 1, 1]> (t)"),
        )
    ),
    *(
        Case(YES, "(float[N, 8] x) => (float y)", f"w = {kind}({{8}}) y = Mul(x, w)")
        for kind in ("HannWindow", "HammingWindow", "BlackmanWindow")
    ),
    Case(
        NO,
        "(float[N, 8] x) => (float y)",
        "s = Shape(x) n = Gather(s, {0}) w = HannWindow(n) t = Mul(x, w)  y = Identity(t)",
    ),
    Case(
        YES, "(float[N, 9] x) => (float y)", "w = MelWeightMatrix({8}, {16}, {8000}, {0.0}, {4000.0}) y = MatMul(x, w)"
    ),
    Case(YES, FOUR, "y = DepthToSpace <blocksize = 2> (x)"),
    Case(YES, FOUR, "y = SpaceToDepth <blocksize = 2> (x)"),
    Case(NO, FOUR, f"{SWAP} r = SpaceToDepth <blocksize = 2> (t) y = Transpose <perm = [1, 0, 2, 3]> (r)"),
    Case(YES, "(float[N, 3, 8, 8] x, float[N, 5, 5, 2] g) => (float y)", "h = Tanh(g) y = GridSample(x, h)"),
    Case(NO, "(float[N, 3, 8, 8] x) => (float y)", "y = GridSample(x, g)", weights={"g": (5, 4, 4, 2)}),
    Case(
        YES,
        "(float[N, 2, 3] x) => (float y)",
        "s = Shape(x) n = Slice(s, [0], [1]) t = Concat <axis = 0> (n, [1, 4, 4]) y = AffineGrid(x, t)",
        opset=20,
    ),
    Case(YES, "(float[N, 8, 9] x) => (float y)", "y = Col2Im(x, [4, 4], [2, 2])", opset=18),
    Case(YES, "(float[N, 3, 3] x) => (float y)", "y = Det(x)"),
    Case(NO, "(float[N, 3, 8, 8] x, float[N, 4] r, int64[N] i) => (float y)", "y = RoiAlign(x, r, i)", high=1),
    Case(YES, "(float[N, 8, 1] x) => (float y)", "y = DFT <axis = 1> (x)"),
    Case(
        NO,
        "(float[N, 8, 1] x) => (float y)",
        "t = Transpose <perm = [1, 0, 2]> (x) r = DFT <axis = 1> (t) y = Transpose <perm = [1, 0, 2]> (r)",
    ),
    Case(YES, "(float[N, 16, 1] x) => (float y)", "y = STFT(x, {4}, , {8})"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vision(case: Case) -> None:
    """Image operators keep rows apart on the batch axis, and on no axis along which they compute."""
    check(case)
