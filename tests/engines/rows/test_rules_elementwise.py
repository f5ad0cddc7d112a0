"""Operators that compute element by element, and index arithmetic."""

import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO = Rows.INDEPENDENT, Rows.DEPENDENT
X = "(float[N, 4] x) => (float y)"
XZ = "(float[N, 4] x, float[N, 4] z) => (float y)"
COUNT = "s = Shape(x) n = Gather(s, {0})"
NUMBERS = f"{COUNT} r = Range({{0}}, n, {{1}}) u = Unsqueeze(r, [1])"

UNARY = (
    *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Exp", "HardSigmoid"),
    *("LeakyRelu", "Log", "Mish", "Reciprocal", "Round", "Selu", "Shrink", "Sign", "Sin", "Sinh", "Softplus"),
    *("Softsign", "Sqrt", "Tan", "ThresholdedRelu", "Relu", "Sigmoid", "Erf", "Neg", "HardSwish", "Identity", "Floor"),
)
PAIRS = (
    *(("float", "float", kind) for kind in ("Min", "Mean", "Sum", "Pow")),
    *(("float", "bool", kind) for kind in ("LessOrEqual", "GreaterOrEqual", "Equal", "Greater", "Less")),
    *(("bool", "bool", kind) for kind in ("And", "Or", "Xor")),
    *(("int32", "int32", kind) for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    ("uint8", "uint8", 'BitShift <direction = "LEFT">'),
    ("string", "string", "StringConcat"),
)

CASES = [
    *(
        Case(rows, f"({a}[N, 4] x, {a}[{shape}] z) => ({b} y)", f"y = {kind}(x, z)", opset=20, shows=False)
        for a, b, kind in PAIRS
        for rows, shape in ((YES, "N, 4"), (NO, "N"))
    ),
    Case(YES, "(int32[N, 4] x) => (int32 y)", "y = BitwiseNot(x)", opset=18),
    Case(YES, "(float[N, 4] x) => (bool y)", "y = IsInf(x)"),
    Case(YES, "(string[N, 4] x) => (bool y)", 'y = RegexFullMatch <pattern = "a.*"> (x)', opset=20),
    Case(YES, X, "i = Cast <to = 7> (x) y = CastLike(i, x)"),
    *(
        Case(YES, X, f"y = {kind} (x)", opset=9)
        for kind in (
            *("Affine <alpha = 2.0, beta = 1.0>", "ScaledTanh <alpha = 2.0, beta = 1.0>", "Scale <scale = 2.0>"),
            "ParametricSoftplus <alpha = 2.0, beta = 1.0>",
        )
    ),
    Case(NO, X, "t = Transpose(x) y = Affine <alpha = 2.0, beta = 1.0> (t)", opset=9),
    Case(YES, X, "y = Swish(x)", opset=24, runs=False),
    Case(YES, XZ, "y = SwiGLU <alpha = 2.0> (x, z)", opset=28, runs=False),
    Case(NO, X, "y = SwiGLU(x, w)", opset=28, weights={"w": (1, 4)}, runs=False),
    Case(YES, "(float[N, 4] x) => (int32 y)", "y = BitCast <to = 6> (x)", opset=26),
    Case(NO, "(float[N, 4] x) => (int32 y)", "t = Transpose(x) y = BitCast <to = 6> (t)", opset=26),
    *(Case(YES, X, f"y = {kind}(x)", opset=18) for kind in UNARY),
    Case(YES, XZ, "a = Add(x, z) b = Mul(a, x) c = Sub(b, z) y = Max(c, x, z)"),
    Case(YES, X, "y = Add(x, w)", weights={"w": (4,)}),
    Case(YES, X, "y = PRelu(x, w)", weights={"w": (1, 4)}),
    Case(NO, X, "y = Add(x, w)", weights={"w": (5, 4)}),
    Case(NO, "(float[N, 4] x, float[N] z) => (float y)", "y = Mul(x, z)"),
    Case(YES, "(float[N, 4] x, float[N, 1] z) => (float y)", "y = Mul(x, z)"),
    Case(NO, "(float[N, 1] x, float[N] z) => (float y)", "y = Mul(x, z)"),
    Case(NO, X, "t = Transpose(x) y = Add(x, t)"),
    Case(YES, X, "c = Greater(x, {0.0}) y = Where(c, x, {0.5})"),
    Case(YES, X, "y = Clip(x, {-1.0}, {1.0})"),
    Case(YES, X, "y = Clip <min = 0.0, max = 1.0> (x)", opset=10),
    Case(YES, "(float[N, 4] x) => (bool y)", "y = IsNaN(x)"),
    Case(YES, "(int64[N, 4] x) => (float y)", "a = Mod(x, [2]) b = Div(a, [3]) y = Cast <to = 1> (b)"),
    Case(YES, "(float[N, 4] x) => (string y)", "i = Cast <to = 7> (x) y = Cast <to = 8> (i)"),
    # The number of rows among the values, or only on the way to them.
    Case(NO, X, f"{COUNT} f = Cast <to = 1> (n) y = Div(x, f)"),
    Case(NO, X, f"{COUNT} f = Cast <to = 1> (n) g = Sqrt(f) y = Div(x, g)"),
    Case(NO, X, f"{COUNT} e = Equal(n, {{1}}) z = Neg(x) y = Where(e, x, z)"),
    Case(NO, X, f"{COUNT} m = Max(n, {{3}}) f = Cast <to = 1> (m) y = Div(x, f)"),
    Case(YES, X, f"{COUNT} m = Div(n, n) f = Cast <to = 1> (m) y = Div(x, f)"),
    Case(YES, X, f"{COUNT} e = Equal(n, {{0}}) o = Not(e) z = Neg(x) y = Where(o, x, z)"),
    Case(YES, X, f"{COUNT} m = Mod(n, n) f = Cast <to = 1> (m) y = Add(x, f)"),
    # A row's place among the values.
    Case(NO, X, f"{NUMBERS} f = Cast <to = 1> (u) y = Add(x, f)"),
    Case(NO, X, f"{NUMBERS} l = Less(u, {{1}}) z = Neg(x) y = Where(l, x, z)"),
    Case(NO, X, f"{NUMBERS} k = Mul(u, {{2}}) f = Cast <to = 1> (k) y = Add(x, f)"),
    Case(YES, X, f"{NUMBERS} t = Max(u, {{9}}) p = Shape(t) e = Expand({{1.0}}, p) y = Add(x, e)"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_elementwise(case: Case) -> None:
    """Elementwise operators keep rows apart unless broadcasting aligns them with something else."""
    check(case)
