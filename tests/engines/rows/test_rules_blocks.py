"""Products and look-ups with weights that are quantised in blocks, and mixtures of experts."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 32] x) => (float y)"
SQUARE = "(float[N, 5, 32] x) => (float y)"
IDS = "(int64[N, 4] x) => (float y)"
RANDOM = np.random.default_rng(3)
NBITS = {"q": np.full((3, 1, 16), 7, np.uint8), "s": np.ones(3, np.float32)}
NBITS_BODY = "com.microsoft.MatMulNBits <K = {k}, N = 3, bits = 4, block_size = 32>"
BNB4 = {"q": RANDOM.integers(0, 255, 48).astype(np.uint8), "s": np.ones(6, np.float32)}
BNB4_BODY = "com.microsoft.MatMulBnb4 <K = {k}, N = {n}, block_size = 16, quant_type = 1, transB = {t}>"


def bytes_of(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 255, shape).astype(np.uint8)


TABLE = {"q": bytes_of(9, 16), "s": np.abs(RANDOM.standard_normal((9, 2))).astype(np.float32)}
GATHER = "com.microsoft.GatherBlockQuantized <bits = {bits}, block_size = 16, gather_axis = 0, quantize_axis = 1>"
EXPERTS = {"g": (8, 4), "u": (4, 16, 8), "d": (4, 8, 16)}
MOE = 'com.microsoft.MoE <k = 2, activation_type = "silu", normalize_routing_weights = 1>'
PACKED = {
    "g": (32, 4),
    "u": bytes_of(4, 16, 16),
    "us": np.full((4, 16), 0.1, np.float32),
    "d": bytes_of(4, 32, 8),
    "ds": np.full((4, 32), 0.1, np.float32),
}
QMOE = 'com.microsoft.QMoE <k = 2, activation_type = "silu", expert_weight_bits = 4>'

CASES = [
    Case(YES, X, f"y = {NBITS_BODY.format(k=32)} (x, q, s)", weights=NBITS),
    Case(YES, SQUARE, f"y = {NBITS_BODY.format(k=32)} (x, q, s)", weights=NBITS),
    Case(NO, X, f"t = Transpose(x) y = {NBITS_BODY.format(k=5)} (t, q, s)", weights=NBITS),
    *(
        Case(YES, signature, f"y = {BNB4_BODY.format(k=k, n=n, t=turned)} (x, q, s)", weights=BNB4)
        for k, n, turned in ((32, 3, 1), (3, 32, 0))
        for signature in (X, SQUARE)
    ),
    Case(NO, X, f"t = Transpose(x) y = {BNB4_BODY.format(k=5, n=3, t=1)} (t, q, s)", weights=BNB4),
    Case(
        UNKNOWN,
        X,
        f"s = ReduceMax <axes = [1], keepdims = 0> (x) y = {BNB4_BODY.format(k=32, n=3, t=1)} (w, q, s)",
        weights={"q": BNB4["q"], "w": (5, 32)},
        runs=False,
    ),
    # Whatever a byte holds, the number of blocks tells how long a row of the table is.
    Case(YES, IDS, f"e = {GATHER.format(bits=4)} (q, x, s) y = Reshape(e, [-1, 128])", weights=TABLE),
    Case(
        YES,
        IDS,
        f"e = {GATHER.format(bits=8)} (q, x, s) y = Reshape(e, [-1, 64])",
        weights={"q": TABLE["q"], "s": TABLE["s"][:, :1]},
    ),
    Case(YES, "(int64[N] x) => (float y)", f"y = {GATHER.format(bits=4)} (q, x, s)", weights=TABLE),
    Case(NO, "(int64[N] x) => (float y)", f"e = {GATHER.format(bits=4)} (q, x, s) y = CumSum(e, {{0}})", weights=TABLE),
    Case(NO, IDS, f"t = Transpose(x) e = {GATHER.format(bits=4)} (q, t, s) y = Identity(e)", weights=TABLE),
    # Each token is sent to experts of its own.
    Case(YES, "(float[N, 8] x) => (float y)", f"r = MatMul(x, g) y = {MOE} (x, r, u, , d)", weights=EXPERTS),
    Case(
        YES,
        "(float[N, 5, 8] x) => (float y)",
        f"f = Reshape(x, [-1, 8]) r = MatMul(f, g) y = {MOE} (x, r, u, , d)",
        weights=EXPERTS,
    ),
    Case(
        YES,
        "(float[N, 5, 8] x) => (float y)",
        f"""f = Reshape(x, [-1, 8]) r = MatMul(f, g) o = {MOE} (f, r, u, , d) y = Reshape(o, [-1, 5, 8])""",
        weights=EXPERTS,
    ),
    Case(
        NO,
        "(float[N, 5, 8] x) => (float y)",
        f"""t = Transpose <perm = [1, 0, 2]> (x) f = Reshape(t, [-1, 8]) r = MatMul(f, g)
        y = {MOE} (x, r, u, , d)""",
        weights=EXPERTS,
    ),
    Case(
        NO,
        "(float[N, 8] x) => (float y)",
        f"y = {MOE} (x, r, u, , d)",
        weights={**EXPERTS, "r": (5, 4)},
    ),
    Case(
        YES,
        "(float[N, 5, 32] x) => (float y)",
        f"f = Reshape(x, [-1, 32]) r = MatMul(f, g) y = {QMOE} (x, r, u, us, , d, ds)",
        weights=PACKED,
    ),
    Case(
        YES,
        "(float[N, 32] x, float[N, 4] w) => (float y)",
        f"r = MatMul(x, g) y = {QMOE} (x, r, u, us, , d, ds, , , , , , , , w)",
        weights=PACKED,
    ),
    Case(
        NO,
        "(float[N, 32] x) => (float y)",
        f"r = MatMul(x, g) y = {QMOE} (x, r, u, us, , d, ds, , , , , , , , w)",
        weights={**PACKED, "w": (5, 4)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks(case: Case) -> None:
    """Weights without rows keep the rows apart, whatever they are packed in."""
    check(case)
