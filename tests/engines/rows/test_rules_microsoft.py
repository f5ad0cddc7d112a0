"""Operators of onnxruntime's own domain."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, build, check

from tailcut.engines.rows import analyse_rows
from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"
LONG = "(float[N, 5, 8] x) => (float y)"
QUANTIZED = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "q": np.full((4, 3), 7, np.uint8)}
TAKE = "q8 = QuantizeLinear(x, s, z)"
GIVE = "y = DequantizeLinear(r, s, z)"
GATES = "(float[N, 5, 8] x, float[N, 5, 8] z, float[N, 5, 1] s) => (float y)"
EMBEDDED = {
    name: np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    for name, shape in (("t", (3, 8)), ("p", (5, 8)), ("g", 8), ("b", 8))
}
NORM = {"g": (8,), "b": (8,)}

WIDE = {"q": np.full((8, 24), 7, np.uint8), "b": np.zeros(24, np.float32), **{n: QUANTIZED[n] for n in "sz"}}
ROTARY = {"c": (9, 2), "s": (9, 2)}
LSTM8 = "com.microsoft.DynamicQuantizeLSTM <hidden_size = 2> (t, w, r, , , , , , s, z, s, z)"

CASES = [
    Case(YES, "(float[N, 2, 8] x) => (float y)", "y = com.microsoft.BiasAdd(x, b, x)", weights=NORM, runs=False),
    Case(YES, X, "y = com.microsoft.TransposeMatMul <transB = 1> (x, w)", weights={"w": (3, 4)}),
    Case(YES, LONG, "y = com.microsoft.SkipSimplifiedLayerNormalization(x, x, g)", weights=NORM),
    Case(
        YES,
        LONG,
        "q8 = QuantizeLinear(x, s, z) y = com.microsoft.QAttention <num_heads = 2> (q8, q, b, s, s, , z, z)",
        weights=WIDE,
    ),
    Case(
        NO,
        LONG,
        """q8 = QuantizeLinear(x, s, z) t = Transpose <perm = [1, 0, 2]> (q8)
    r = com.microsoft.QAttention <num_heads = 2> (t, q, b, s, s, , z, z) y = Transpose <perm = [1, 0, 2]> (r)""",
        weights=WIDE,
    ),
    Case(YES, X, f"{TAKE} r = com.microsoft.QLinearLeakyRelu(q8, s, z, s, z) {GIVE}", weights=QUANTIZED),
    Case(
        YES,
        "(float[N, 3, 4, 4] x) => (float y)",
        f"{TAKE} r = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (q8, s, z, s, z) {GIVE}",
        weights=QUANTIZED,
    ),
    Case(
        NO,
        "(float[N, 3] x) => (float y)",
        f"u = Unsqueeze(x, [1]) t = Transpose <perm = [1, 0, 2]> (u) y = {LSTM8}",
        weights={
            "w": np.ones((1, 3, 8), np.int8),
            "r": np.ones((1, 2, 8), np.int8),
            "s": np.ones(1, np.float32),
            "z": np.zeros(1, np.int8),
        },
        runs=False,
    ),
    Case(YES, X, "y = com.microsoft.Gelu(x)"),
    Case(YES, X, "y = com.microsoft.QuickGelu <alpha = 1.0> (x)"),
    Case(YES, X, "y = com.microsoft.FastGelu(x, w)", weights={"w": (4,)}),
    Case(YES, X, "y = com.microsoft.BiasGelu(x, w)", weights={"w": (4,)}),
    Case(YES, X, "y = com.microsoft.FusedMatMul <transB = 1> (x, w)", weights={"w": (3, 4)}),
    Case(NO, X, "y = com.microsoft.FusedMatMul <transB = 1> (x, x)"),
    Case(YES, X, 'y = com.microsoft.FusedGemm <activation = "Relu"> (x, w)', weights={"w": (4, 3)}),
    Case(
        YES,
        "(float[N, 3, 8, 8] x) => (float y)",
        'y = com.microsoft.FusedConv <activation = "Relu"> (x, w)',
        weights={"w": (5, 3, 3, 3)},
    ),
    *(
        Case(
            rows,
            "(float[N, 3, 8, 8] x, float[N, 5, 6, 6] z) => (float y)",
            f"y = com.microsoft.FusedConv(x, w, , {added})",
            weights={"w": (5, 3, 3, 3), "a": (1, 5, 6, 6), "b": (5, 5, 6, 6)},
        )
        for rows, added in ((YES, "z"), (NO, "a"), (NO, "b"))
    ),
    Case(YES, LONG, "y = com.microsoft.SkipLayerNormalization(x, x, g, b)", weights=NORM),
    Case(YES, LONG, "y = com.microsoft.SkipLayerNormalization(x, k, g, b)", weights={**NORM, "k": (1, 5, 8)}),
    Case(NO, LONG, "y = com.microsoft.SkipLayerNormalization(k, x, g, b)", weights={**NORM, "k": (1, 5, 8)}),
    Case(NO, LONG, "y = com.microsoft.SkipSimplifiedLayerNormalization(k, x, g)", weights={**NORM, "k": (1, 5, 8)}),
    Case(
        NO,
        "(float[N, 5, 1] x) => (float y)",
        """t = Transpose <perm = [1, 2, 0]> (x) r = com.microsoft.SkipLayerNormalization(t, t, g, b) y = Transpose
        <perm = [2, 0, 1]> (r)""",
        weights={"g": (5,), "b": (5,)},
    ),
    Case(YES, LONG, "y = SimplifiedLayerNormalization <axis = -1> (x, g)", weights=NORM),
    Case(
        YES,
        "(int32[N, 5] x, int32[N, 5] m) => (float y)",
        "y, k = com.microsoft.EmbedLayerNormalization(x, , t, p, , g, b, m)",
        weights={"t": (3, 8), "p": (5, 8), **NORM},
    ),
    *(
        Case(
            rows,
            "(int32[N, 5] x, int32[N, 5] m) => (float y)",
            f"y, k = com.microsoft.QEmbedLayerNormalization(x, {rest}, s, s, s, s, s, z, z, z, z, z)",
            weights={**EMBEDDED, "s": QUANTIZED["s"], "z": QUANTIZED["z"], "i": np.ones((1, 5), np.int32)},
        )
        for rows, rest in ((YES, "x, t, p, t, g, b, m"), (YES, "x, t, p, t, g, b, "), (NO, "i, t, p, t, g, b, m"))
    ),
    Case(YES, LONG, "y = com.microsoft.Attention <num_heads = 2> (x, w, b)", weights={"w": (8, 24), "b": (24,)}),
    Case(
        NO,
        LONG,
        """t = Transpose <perm = [1, 0, 2]> (x) r = com.microsoft.Attention <num_heads = 2> (t, w, b) y =
        Transpose <perm = [1, 0, 2]> (r)""",
        weights={"w": (8, 24), "b": (24,)},
    ),
    Case(
        YES,
        "(float[N, 5, 8] x, int32[N, 5] m) => (float y)",
        "y = com.microsoft.Attention <num_heads = 2> (x, w, b, m)",
        weights={"w": (8, 24), "b": (24,)},
    ),
    Case(
        YES,
        "(float[N, 5, 8] x, float[N, 4, 8] k) => (float y)",
        "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, k, k)",
    ),
    Case(
        NO,
        LONG,
        """t = Transpose <perm = [1, 0, 2]> (x) r = com.microsoft.MultiHeadAttention <num_heads = 2> (t, t, t) y =
        Transpose <perm = [1, 0, 2]> (r)""",
    ),
    *(
        Case(YES, f"(float[N, {shape}] x, int64[N, 5] p) => (float y)", body, weights=ROTARY, high=9)
        for shape, body in (
            ("5, 8", "y = com.microsoft.RotaryEmbedding(x, p, c, s)"),
            ("5, 8", "y = com.microsoft.RotaryEmbedding <num_heads = 2, interleaved = 1> (x, p, c, s)"),
            ("2, 5, 4", "y = com.microsoft.RotaryEmbedding(x, p, c, s)"),
            ("2, 5, 6", "y = com.microsoft.RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 4> (x, p, c, s)"),
        )
    ),
    Case(YES, LONG, "y = com.microsoft.RotaryEmbedding(x, [3], c, s)", weights=ROTARY),
    Case(NO, LONG, "y = com.microsoft.RotaryEmbedding(x, p, c, s)", weights={**ROTARY, "p": np.zeros((1, 5), int)}),
    Case(
        NO,
        "(float[N, 5, 8] x, int64[N] p) => (float y)",
        "y = com.microsoft.RotaryEmbedding(x, p, c, s)",
        weights=ROTARY,
    ),
    Case(
        NO,
        "(float[N, 5, 8] x, int64[N, 5] p) => (float y)",
        """u = Transpose <perm = [1, 0, 2]> (x) q = Transpose(p) r = com.microsoft.RotaryEmbedding(u, q, c, s)
        y = Transpose <perm = [1, 0, 2]> (r)""",
        weights=ROTARY,
        shows=False,  # each position by itself
    ),
    *(  # heads that do not fill the row, or may not: some versions of the engine read beyond it
        Case(UNKNOWN, f"(float[N, {shape}] x) => (float y)", body, weights=ROTARY, runs=False)
        for shape, body in (
            ("5, 8", "y = com.microsoft.RotaryEmbedding <num_heads = 1> (x, [3], c, s)"),
            ("5, 6", "y = com.microsoft.RotaryEmbedding(x, [3], c, s)"),
            ("2, 5, 8", "y = com.microsoft.RotaryEmbedding(x, [3], c, s)"),
            ("5, W", "y = com.microsoft.RotaryEmbedding(x, [3], c, s)"),
            ("5, 8", "y = com.microsoft.RotaryEmbedding <is_packed_batching = 1> (x, [3], c, s)"),
        )
    ),
    *(
        Case(
            rows,
            GATES,
            f"{outputs} = com.microsoft.{body}",
            weights={"g": (8,), "h": (1, 5, 8), "k": (1, 5, 1), "c": (5, 8)},
        )
        for rows, outputs, body in (
            (YES, "y", "GatedRMSNorm(x, g, z)"),
            (NO, "y", "GatedRMSNorm(x, g, h)"),
            (YES, "y", "GatedAdd(x, z, s)"),
            (NO, "y", "GatedAdd(x, h, s)"),
            (NO, "y", "GatedAdd(x, z, k)"),
            (YES, "y", "BranchwiseRMSNorm(x)"),
            (YES, "y", "BranchwiseRMSNorm(x, c)"),
            (YES, "y", "BranchwiseRMSNorm <num_branches = 2> (x, g)"),
            (YES, "y", "ScaledSiLU <alpha = 2.0> (x)"),
            (YES, "y", "ScaledSiLU(x, {0.5})"),
            (YES, "d, y", "LinearAttentionGate(x, g, g, z)"),
            (NO, "d, y", "LinearAttentionGate(x, g, g, h)"),
        )
    ),
    *(
        Case(
            NO,
            "(float[N, 5, 8] x) => (float y)",
            f"""t = Transpose <perm = [1, 2, 0]> (x) r = com.microsoft.{body}
            y = Transpose <perm = [2, 0, 1]> (r)""",
            weights={"g": (5,)},
            shows=shows,
        )
        for body, shows in (
            ("GatedRMSNorm(t, g, t)", True),
            ("BranchwiseRMSNorm(t)", True),
            ("LinearAttentionGate(t, g, g)", False),  # for a fixed number of rows
        )
    ),
    Case(UNKNOWN, GATES, "y = com.microsoft.GatedAdd(x, z, z, w)", weights={"w": (8, 1)}, runs=False),
    Case(NO, X, "y = com.microsoft.DynamicQuantizeMatMul(x, q, s, z)", weights=QUANTIZED),
    Case(YES, X, f"{TAKE} r = com.microsoft.QLinearAdd(q8, s, z, q8, s, z, s, z) {GIVE}", weights=QUANTIZED),
    Case(
        NO,
        X,
        f"{TAKE} t = Transpose(q8) r = com.microsoft.QLinearMul(q8, s, z, t, s, z, s, z) {GIVE}",
        weights=QUANTIZED,
    ),
    Case(YES, X, f"{TAKE} r = com.microsoft.QLinearSigmoid(q8, s, z, s, z) {GIVE}", weights=QUANTIZED),
    Case(YES, X, f"{TAKE} r = com.microsoft.QGemm(q8, s, z, q, s, z, , s, z) {GIVE}", weights=QUANTIZED),
    Case(
        YES,
        X,
        f"{TAKE} r = com.microsoft.QLinearConcat <axis = 1> (s, z, q8, s, z, q8, s, z) {GIVE}",
        weights=QUANTIZED,
    ),
    Case(
        NO, X, f"{TAKE} r = com.microsoft.QLinearConcat <axis = 0> (s, z, q8, s, z, q8, s, z) {GIVE}", weights=QUANTIZED
    ),
    Case(
        YES,
        X,
        f"{TAKE} r = com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (q8, s, z, s, z) {GIVE}",
        weights=QUANTIZED,
    ),
    Case(
        YES,
        "(float[N, 3, 4, 4] x) => (float y)",
        f"{TAKE} r = com.microsoft.QLinearGlobalAveragePool <channels_last = 0> (q8, s, z, s, z) {GIVE}",
        weights=QUANTIZED,
    ),
    Case(
        YES,
        "(uint8[N, 4] x) => (float y)",
        "y = com.microsoft.MatMulIntegerToFloat(x, q, s, s, z, z)",
        weights=QUANTIZED,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_microsoft(case: Case) -> None:
    """Fused and quantised operators treat rows as what they were made of."""
    check(case)


def test_an_unknown_operator_is_unknown() -> None:
    """An operator of a known domain without a rule, and one of an unknown domain, are unknown by name."""
    for body, text in (("y = com.microsoft.Sampling(x)", "Sampling"), ("y = other.Thing(x)", "'other'")):
        evidence = analyse_rows(build(Case(UNKNOWN, X, body)))
        assert evidence.rows is UNKNOWN
        assert text in evidence.reason
