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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequence(case: Case) -> None:
    """Time and batch are different axes, and states and masks belong to their row."""
    check(case)
