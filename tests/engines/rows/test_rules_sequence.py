"""Recurrent operators and attention."""

import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 5, 3] x) => (float y)"
OUT = "(float[N, 5, 3] x) => (float a, float b)"
TURN = "t = Transpose <perm = [1, 0, 2]> (x)"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(kind: str, directions: int = 1) -> dict[str, tuple[int, ...]]:
    rows = 2 * GATES[kind]
    return {"w": (directions, rows, 3), "r": (directions, rows, 2)}


QKV = "(float[N, 5, 8] q, float[N, 4, 8] k, float[N, 4, 8] v) => (float y)"
CONVOLUTION = {"w": (4, 1, 3), "b": (4,), "f": (5, 4, 2), "g": (5, 2, 4, 4), "h": (5, 4, 8)}
PAST = "(float[N, 4, 5] x, float[N, 4, 2] p) => (float y, float s)"
GATED = "(float[N, 4, 8] q, float[N, 4, 8] k, float[N, 4, 8] v, float[N, 2, 4, 4] p, float[N, 4, 2] d) => (float y)"
TOKENS = "(float[N, 4, 8] q, float[N, 4, 8] k, float[N, 4, 8] v) => (float y)"
CACHE = "(float[N, 4, 3] x, float[N, 2, 3] z, int64[N] i) => (float y)"
HEADS = "q_num_heads = 2, kv_num_heads = 2"

CASES = [
    *(
        Case(
            YES,
            OUT,
            f"""{TURN} o, h = {kind} <hidden_size = 2, direction = "bidirectional"> (t, w, r)
            a = Transpose <perm = [2, 0, 1, 3]> (o) b = Transpose <perm = [1, 0, 2]> (h)""",
            weights=weights(kind, 2),
        )
        for kind in GATES
    ),
    *(Case(NO, X, f"y = {kind} <hidden_size = 2> (x, w, r)", weights=weights(kind)) for kind in GATES),
    Case(
        YES,
        X,
        f"{TURN} o, h = LSTM <hidden_size = 2> (t, w, r) s = Squeeze(h, [0]) y = Gemm(s, g)",
        weights={**weights("LSTM"), "g": (2, 3)},
    ),
    Case(
        YES,
        "(float[N, 5, 3] x, int32[N] l) => (float y)",
        f"{TURN} o, h = LSTM <hidden_size = 2> (t, w, r, , l) y = Squeeze(h, [0])",
        weights=weights("LSTM"),
    ),
    Case(
        YES,
        X,
        f"""s = Shape(x) n = Slice(s, [0], [1]) z = Concat <axis = 0> ([1], n, [2]) i = ConstantOfShape(z) {TURN}
    o, h = LSTM <hidden_size = 2> (t, w, r, , , i, i) y = Squeeze(h, [0])""",
        weights=weights("LSTM"),
    ),
    Case(
        NO,
        X,
        f"{TURN} o, h = LSTM <hidden_size = 2> (t, w, r, , , i, i) y = Squeeze(h, [0])",
        weights={**weights("LSTM"), "i": (1, 5, 2)},
    ),
    Case(YES, QKV, f"y = Attention <{HEADS}> (q, k, v)", opset=23),
    Case(
        YES, "(float[N, 5, 8] q, float[N, 1, 5, 5] m) => (float y)", f"y = Attention <{HEADS}> (q, q, q, m)", opset=23
    ),
    Case(YES, "(float[N, 5, 8] q) => (float y)", f"y = Attention <{HEADS}, is_causal = 1> (q, q, q)", opset=23),
    Case(
        YES, "(float[N, 5, 8] q) => (float y)", f"y = Attention <{HEADS}> (q, q, q, m)", opset=23, weights={"m": (5, 5)}
    ),
    Case(
        NO,
        "(float[N, 5, 8] q) => (float y)",
        f"y = Attention <{HEADS}> (q, q, q, m)",
        opset=23,
        weights={"m": (5, 1, 5, 5)},
    ),
    Case(
        NO,
        "(float[N, 5, 8] q) => (float y)",
        f"t = Transpose <perm = [1, 0, 2]> (q) a = Attention <{HEADS}> (t, t, t) y = Transpose <perm = [1, 0, 2]> (a)",
        opset=23,
    ),
    Case(
        NO, "(float[N, 5, 8] q) => (float y)", f"y = Attention <{HEADS}> (q, w, w)", opset=23, weights={"w": (5, 4, 8)}
    ),
    Case(
        YES,
        "(float[N, 2, 5, 8] x, int64[N, 5] p) => (float y)",
        "y = RotaryEmbedding(x, c, d, p)",
        opset=23,
        weights={"c": (9, 4), "d": (9, 4)},
    ),
    Case(
        UNKNOWN,
        "(float[N, 2, 5, 8] x) => (float y)",
        "y = RotaryEmbedding(x, c, d)",
        opset=23,
        weights={"c": (5, 5, 4), "d": (5, 5, 4)},
    ),
]

STATES = [
    *(
        Case(rows, signature, f"y, s = {domain}{body}", opset=opset, weights=CONVOLUTION, shows=shows)
        for domain, opset in (("", 27), ("com.microsoft.", 17))
        for rows, signature, body, shows in (
            (YES, "(float[N, 4, 5] x) => (float y, float s)", "CausalConvWithState(x, w)", True),
            (YES, PAST, 'CausalConvWithState <activation = "silu"> (x, w, b, p)', True),
            (NO, "(float[N, 4, 5] x) => (float y, float s)", "CausalConvWithState(x, w, , f)", True),
            (YES, TOKENS, f'LinearAttention <{HEADS}, update_rule = "linear"> (q, k, v)', True),
            (YES, GATED, f"LinearAttention <{HEADS}> (q, k, v, p, d, d)", True),
            (NO, GATED, f"LinearAttention <{HEADS}> (q, k, v, g, d, d)", True),
            (NO, TOKENS, f'LinearAttention <{HEADS}, update_rule = "linear"> (q, k, h)', True),
        )
    ),
    Case(
        YES,
        TOKENS,
        """h = Slice(k, [0], [4], [2])
        o, s = com.microsoft.LinearAttention <q_num_heads = 4, kv_num_heads = 2, update_rule = "linear"> (q, h, v)
        y = Reshape(o, [-1, 64])""",
    ),
    Case(
        YES,
        "(float[N, 5, 4] x) => (float y)",
        "y, s = com.microsoft.CausalConvWithState <channels_last = 1> (x, w)",
        weights=CONVOLUTION,
    ),
    *(
        Case(
            NO,
            "(float[N, 1, 5] x) => (float y)",
            f"t = Transpose <perm = [1, 0, 2]> (x) r, s = {domain}CausalConvWithState(t, v) {back}",
            opset=opset,
            weights={"v": (5, 1, 3)},
            shows=False,  # each channel by itself, as many as it was made for
        )
        for domain, opset in (("", 27), ("com.microsoft.", 17))
        for back in ["y = Transpose <perm = [1, 0, 2]> (r)"]
    ),
    Case(
        UNKNOWN,
        "(float[N, 4, 5] x, float[N, 4, 2] p) => (float y)",
        "y, s = com.microsoft.CausalConvWithState <state_window = 2> (x, w, , p)",
        weights=CONVOLUTION,
        runs=False,
    ),
    Case(
        UNKNOWN,
        QKV,
        f'y, s = com.microsoft.LinearAttention <{HEADS}, update_rule = "linear", state_window = 2> (q, k, v)',
        runs=False,
    ),
    *(
        Case(
            rows,
            f"(float[N, 4, 5] x, float[N, 4, {length}] p) => (float y)",
            "o, s = CausalConvWithState(x, w, , p) y = Reshape(o, [-1, 20])",
            opset=27,
            weights=CONVOLUTION,
            runs=rows is YES,
        )
        for rows, length in ((YES, "2"), (UNKNOWN, "A"), (UNKNOWN, "1"))
    ),
    # An update without places begins at the first; places must lie in the row, whatever their values are.
    *(
        Case(
            rows, CACHE, f"{before} y = TensorScatter <axis = 1, {mode}> (x, z, {places})", opset=24, high=99, runs=runs
        )
        for rows, before, mode, places, runs in (
            (YES, "", 'mode = "linear"', "", True),
            (YES, "m = Mod(i, {3})", 'mode = "linear"', "m", True),
            (YES, "m = Mod(i, {4})", 'mode = "circular"', "m", True),
            (YES, "m = Mod(i, {9})", 'mode = "circular"', "m", True),
            (UNKNOWN, "m = Mod(i, {4})", 'mode = "linear"', "m", False),
            (UNKNOWN, "", 'mode = "linear"', "i", False),
            (UNKNOWN, "", 'mode = "circular"', "i", False),
            (NO, "", 'mode = "linear"', "[0, 0, 0, 0, 0]", True),
        )
    ),
    Case(NO, "(float[N, 4, 3] x) => (float y)", "y = TensorScatter(x, w)", opset=24, weights={"w": (5, 2, 3)}),
    Case(
        NO,
        "(float[N, 4, 3] x, float[N, 4, 2] z) => (float y)",
        """t = Transpose <perm = [1, 0, 2]> (x) u = Transpose <perm = [1, 0, 2]> (z)
        r = TensorScatter <axis = 2> (t, u) y = Transpose <perm = [1, 0, 2]> (r)""",
        opset=24,
        shows=False,  # an update at the first place
    ),
]


@pytest.mark.parametrize("case", [*CASES, *STATES], ids=str)
def test_sequence(case: Case) -> None:
    """Time and batch are different axes, and states and masks belong to their row."""
    check(case)
