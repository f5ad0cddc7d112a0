"""Products of tensors."""

import numpy as np
import pytest
from tests.engines.rows.graphs import Case, check

from tailcut.spec import Rows

YES, NO, UNKNOWN = Rows.INDEPENDENT, Rows.DEPENDENT, Rows.UNKNOWN
X = "(float[N, 4] x) => (float y)"
XZ = "(float[N, 4] x, float[N, 4] z) => (float y)"
LONG = "(float[N, 4, 6] x, float[N, 6, 4] z) => (float y)"
INT8 = {"q": np.ones((4, 3), np.int8), "s": np.array(0.1, np.float32), "o": np.array(0, np.int8)}

CASES = [
    Case(YES, X, "y = MatMul(x, w)", weights={"w": (4, 3)}),
    Case(YES, X, "y = MatMul(x, w)", weights={"w": (4,)}),
    Case(NO, X, "y = MatMul(x, w)", weights={"w": (2, 4, 3)}),
    Case(NO, XZ, "t = Transpose(z) y = MatMul(x, t)"),
    Case(NO, XZ, "t = Transpose(x) g = MatMul(t, z) y = MatMul(x, g)"),
    Case(NO, X, "g = MatMul(w, x) y = Add(x, g)", weights={"w": (1, 5)}),
    Case(NO, "(float[N] x, float[N] z) => (float y)", "d = MatMul(x, z) y = Mul(x, d)"),
    Case(YES, LONG, "y = MatMul(x, z)"),
    Case(YES, "(float[N, 3, 4, 6] x, float[N, 1, 6, 4] z) => (float y)", "y = MatMul(x, z)"),
    Case(NO, "(float[N, 3, 4, 6] x, float[N, 6, 4] z) => (float y)", "y = MatMul(x, z)"),
    Case(NO, "(float[N, 4] x, float[N, 4, 6] z) => (float y)", "y = MatMul(x, z)"),
    Case(YES, "(float[N, 4] x, float[N, 4, 6] z) => (float y)", "u = Unsqueeze(x, [1]) y = MatMul(u, z)"),
    Case(YES, X, "y = Gemm(x, w, b)", weights={"w": (4, 3), "b": (3,)}),
    Case(YES, X, "y = Gemm <transB = 1> (x, w)", weights={"w": (3, 4)}),
    Case(YES, X, "t = Transpose(x) y = Gemm <transA = 1> (t, w)", weights={"w": (4, 3)}),
    Case(NO, XZ, "y = Gemm <transB = 1> (x, z)"),
    Case(NO, XZ, "g = Gemm <transA = 1> (x, z) y = MatMul(x, g)"),
    Case(YES, XZ, "y = Gemm(x, w, z)", weights={"w": (4, 4)}),
    Case(NO, "(float[N, 4] x, float[N] z) => (float y)", "y = Gemm(x, w, z)", weights={"w": (4, 5)}),
    Case(YES, LONG, 'y = Einsum <equation = "bij,bjk->bik"> (x, z)'),
    Case(YES, X, 'y = Einsum <equation = "bi,ij->bj"> (x, w)', weights={"w": (4, 3)}),
    Case(NO, XZ, 'y = Einsum <equation = "ai,bi->ab"> (x, z)'),
    Case(NO, XZ, 'g = Einsum <equation = "bi,bj->ij"> (x, z) y = MatMul(x, g)'),
    Case(YES, XZ, 't = Transpose(z) y = Einsum <equation = "bi,ib->b"> (x, t)'),
    Case(NO, X, 'y = Einsum <equation = "bi,bj->bij"> (x, w)', weights={"w": (5, 2)}),
    # An ellipsis stands for the axes that have no letter, in all inputs for the same.
    Case(YES, LONG, 'y = Einsum <equation = "...ij,...jk->...ik"> (x, z)'),
    Case(YES, LONG, 'y = Einsum <equation = "...ij, ...jk"> (x, z)'),
    Case(YES, LONG, 'y = Einsum <equation = "b...,bij->b..."> (x, z)'),
    Case(YES, LONG, 'y = Einsum <equation = "...j,jk->...k"> (x, w)', weights={"w": (6, 3)}),
    Case(YES, LONG, 'y = Einsum <equation = "...ij,...jk->...ik"> (x, w)', weights={"w": (1, 6, 3)}),
    Case(YES, X, 'y = Einsum <equation = "...i"> (x)'),
    Case(NO, LONG, 'y = Einsum <equation = "...ij,...jk->...ik"> (x, w)', weights={"w": (5, 6, 3)}),
    Case(NO, LONG, 'y = Einsum <equation = "ij...,jk...->ik..."> (x, z)', shows=False),
    Case(NO, LONG, 'g = Einsum <equation = "i...,i...->..."> (x, x) y = Add(x, g)'),
    Case(NO, XZ, 'y = Einsum <equation = "...i,bi"> (x, z)'),
    Case(NO, X, 'y = Einsum <equation = "i,ij"> (w, x)', weights={"w": (5,)}),
    Case(UNKNOWN, LONG, 'y = Einsum <equation = "...i,...j->...ij"> (x, w)', weights={"w": (3,)}, runs=False),
    Case(UNKNOWN, LONG, 'y = Einsum <equation = "bij,Bjk"> (x, z)', runs=False),
    Case(UNKNOWN, LONG, 'y = Einsum <equation = "b..,b..->b"> (x, z)', runs=False),
    Case(YES, "(int8[N, 4] x) => (int32 y)", "y = MatMulInteger(x, q)", weights={"q": INT8["q"]}),
    Case(YES, "(int8[N, 4] x) => (int8 y)", "y = QLinearMatMul(x, s, o, q, s, o, s, o)", weights=INT8),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matmul(case: Case) -> None:
    """Rows must not be summed over, nor meet rows in pairs."""
    check(case)
