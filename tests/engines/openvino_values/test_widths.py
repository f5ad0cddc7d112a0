"""Numbers that OpenVINO computes in types with fewer bits are refused where that shows, and nothing else is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.effort import some
from tests.engines.openvino_values.graphs import as_ir, opened, save

from tailcut.errors import InvalidInputError, UnsupportedError

TABLE = "float[97] w = {" + ", ".join(map(str, range(97))) + "}"


@dataclass(frozen=True)
class Case:
    """A graph with an input `i`, values that OpenVINO computes rightly, and others that it does not."""

    graph: str
    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    dtype: str = "int64"
    others: Mapping[str, np.ndarray] | None = None

    def request(self, values: Any) -> dict[str, np.ndarray]:
        return {"i": np.array(values, self.dtype), **(self.others or {})}


CASES = {
    "compared": Case(
        "(int64[n] i, int64[n] j) => (bool[n] y) { y = Equal(i, j) }",
        ([2**24 - 1], [2**24], [5]),
        ([2**24 + 1], [2**40 + 1]),
        others={"j": np.array([2**24])},
    ),
    "compared with a small one": Case(
        "(int64[n] i) => (bool[n] y) <int64 k = {5}> { y = Equal(i, k) }", ([5, 2**31 - 1],), ([2**32 + 5, 0],)
    ),
    "returned": Case(
        "(int64[n] i, float[n] x) => (int64[n] y, float[n] z) { y = Identity(i) z = Relu(x) }",
        ([2**31 - 1, -(2**31)],),
        ([2**31, 0], [2937467706859114685, 0]),
        others={"x": np.ones(2, np.float32)},
    ),
    "summed": Case(
        "(int64[n, 2] i) => (int64[n] y) <int64[1] axis = {1}> { y = ReduceSum<keepdims = 0>(i, axis) }",
        ([[5, -7], [2**23, 2**23 - 1]],),
        ([[2**24, 1], [0, 0]], [[2**31 - 1, 2**31 - 1], [0, 0]]),
    ),
    "summed along a free axis": Case(
        "(int64[n, m] i) => (int64[n, m] y) <int64 one = {1}> { y = CumSum(i, one) }",
        ([[2**30, -5]], [[2**29, 2**29, 2**29]]),
        ([[2**30, 2**30]],),
    ),
    "multiplied": Case(
        "(int64[n] i) => (int64[n] y) <int64 k = {31}> { y = Mul(i, k) }", ([5, 60_000_000],), ([5, 100_000_000],)
    ),
    "embedded": Case(
        "(int64[n] i, int64[n] j) => (float[n] y) <" + TABLE + ", int64 k = {31}, int64 b = {97}>"
        "{ m = Mul(i, k) s = Add(m, j) h = Mod(s, b) y = Gather(w, h) }",
        ([12345], [0]),
        ([1234567890], [2_000_000]),
        others={"j": np.array([7])},
    ),
    "hashed": Case(
        "(int64[n, 2] i) => (float[n, 2] y) <" + TABLE + ", int64 k = {40503}, int64 b = {97}>"
        "{ m = Mul(i, k) h = Mod(m, b) y = Gather(w, h) }",
        ([[100, 3]],),
        ([[1_000_000, 5]],),
    ),
    "divided": Case(
        "(int64[n] i) => (int64[n] y) <int64 k = {97}> { y = Div(i, k) }", ([-(2**22), 97],), ([1234567891, 0],)
    ),
    "divided in 32 bits": Case(
        "(int32[n] i) => (int32[n] y) <int32 k = {97}> { y = Mod(i, k) }",
        ([-(2**22), 97],),
        ([1234567891, 0],),
        dtype="int32",
    ),
    "unsigned": Case(
        "(uint32[n] i) => (float[n] y) <uint32 k = {3}> { s = Sub(i, k) y = Cast<to = 1>(s) }",
        ([5, 2**31 - 1],),
        ([3_500_000_000, 5], [2, 5]),
        dtype="uint32",
    ),
    "cast": Case(
        "(float[n] i) => (int64[n] y) { y = Cast<to = 7>(i) }", ([1.9, -1e9],), ([1e11, 0], [np.nan, 0]), "float32"
    ),
    "cast to small ones": Case(
        "(int64[n] i) => (uint8[n] y) { y = Cast<to = 2>(i) }", ([0, 255],), ([0, 256], [-1, 0])
    ),
    "cast to large floats": Case(
        "(int64[n] i) => (double[n] y) { y = Cast<to = 11>(i) }", ([0, 2**24],), ([0, 2**24 + 1],)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_openvino_has_not_are_refused(tmp_path: Path, name: str) -> None:
    """From ONNX and from IR (every third case; `make test-all` has all); all others are answered as by onnxruntime."""
    case = CASES[name]
    path = save(tmp_path / "model.onnx", case.graph)
    truth = opened(path, "onnxruntime")
    for file in (path, as_ir(path)) if name in some(CASES) else (path,):
        engine = opened(file)
        for _ in range(2):
            for values in case.good:
                answer = engine.run(case.request(values))
                assert {n: a.tolist() for n, a in truth.run(case.request(values)).items()} == {
                    n: a.tolist() for n, a in answer.items()
                }
            for values in case.bad:
                with pytest.raises(InvalidInputError, match=r"^inputs? 'i'.*: a value is out of bounds: openvino comp"):
                    engine.run(case.request(values))
        engine.close()
    truth.close()


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("(double[n] a, double[n] b) => (double[n] y) { y = Sub(a, b) }", "float64 in this model (Subtract)"),
        (
            "(double[n] a, double[n] b) => (float[n] y) { s = Sub(a, b) y = Cast<to = 1>(s) }",
            "float64 in this model (Subtract)",
        ),
        ("(double[n, 2] a) => (double[m, n] y) { y = Transpose(a) }", "float64 in this model (Result)"),
        ("(double[n] a) => (int64[n] y) { y = Cast<to = 7>(a) }", "float64 in this model (Convert)"),
        ("(uint8[n] a, uint8[n] b) => (uint8[n] y) { y = Add(a, b) }", "Add in uint8 exactly only from 0 to 255"),
        (
            "(uint8[n] a) => (uint8[n] y) <uint8 k = {3}> { y = Div(a, k) }",
            "rounds quotients of uint8, which should be truncated",
        ),
        (
            (  # computed together, in float32
                "(int32[n, 2] a) => (int32[n] y) <int32 k = {2147483647}, int64[1] axis = {1}>"
                "{ m = ReduceMin<keepdims = 0>(a, axis) y = Sub(m, k) }"
            ),
            "Subtract in int32 exactly only from -16777216 to 16777216",
        ),
        ("(int8[n] a) => (int8[n] y) { y = Neg(a) }", "Negative in int8 exactly only from -128 to 127"),
        (
            "(uint32[n] a) => (uint32[n] y) <uint32 k = {3000000000}> { y = Max(a, k) }",
            "Maximum in uint32 exactly only from 0 to 2147483647",
        ),
        (
            "(int64[n] a) => (bool[n] y) <int64 k = {1099511627776}> { y = Equal(a, k) }",
            "Equal in int64 exactly only from -16777216 to 16777216",
        ),
        (
            "(float[n] a) => (int64[n] y) { e = Exp(a) s = Mul(e, a) t = Cos(s) u = Div(s, t) y = Cast<to = 7>(u) }",
            "Convert in int64 exactly only from -2147483648 to 2147483647",
        ),
    ],
)
def test_a_model_that_openvino_computes_in_other_numbers_is_refused(tmp_path: Path, graph: str, reason: str) -> None:
    """In one line that says what it computes, and what to use."""
    path = save(tmp_path / "model.onnx", graph)
    with pytest.raises(UnsupportedError) as caught:
        opened(path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{path}: openvino ")
    assert str(caught.value).endswith(": use onnxruntime")
    assert "\n" not in str(caught.value)


BYTES = np.array([[200, 255, 0, 7]], np.uint8)
FLOATS = np.array([[0.5, -2.0, 3.0, 1.0]], np.float32)
KEPT: Mapping[str, tuple[str, np.ndarray]] = {
    "images": (
        "(uint8[n, 4] a) => (float[n, 4] y) <float k = {0.5}> { c = Cast<to = 1>(a) y = Mul(c, k) }",
        BYTES,
    ),
    "bytes that are chosen": (
        (
            "(uint8[n, 4] a) => (uint8[n, 4] y) <uint8 k = {9}> { m = Max(a, k) t = Concat<axis = 1>(m, m)"
            " u, v = Split<axis = 1, num_outputs = 2>(t) y = Min(u, v) }"
        ),
        BYTES,
    ),
    "integers of a product": (
        (
            "(float[n, 4] a) => (float[n, 1] y) <uint8[4, 1] w = {1, 2, 3, 4}>"
            "{ q, s, z = DynamicQuantizeLinear(a) m = MatMulInteger(q, w, z) c = Cast<to = 1>(m) y = Mul(c, s) }"
        ),
        FLOATS,
    ),
    "integers of a convolution": (
        (
            "(uint8[n, 4] a) => (int32[n, 1, 1, 4] y) <uint8[1, 1, 1, 1] w = {3}, int64[4] s = {-1, 1, 1, 4}>"
            "{ r = Reshape(a, s) y = ConvInteger(r, w) }"
        ),
        BYTES,
    ),
    "quantised activations": (
        (
            "(float[n, 4] a) => (float[n, 4] y) <float s = {0.1}, uint8 z = {128}>"
            "{ q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }"
        ),
        FLOATS,
    ),
    "doubles that are cast": (
        "(double[n, 4] a) => (float[m, n] y) { t = Transpose(a) c = Cast<to = 1>(t) y = Relu(c) }",
        np.array([[1700000000.5, 0.1, 3, -5]]),
    ),
    "floats that are cast": ("(float[n, 4] a) => (double[n, 4] y) { r = Relu(a) y = Cast<to = 11>(r) }", FLOATS),
    "seconds": (
        (
            "(int64[n, 2] a) => (float[n, 1] y) <float h = {3600}>"
            "{ b, e = Split<axis = 1, num_outputs = 2>(a) d = Sub(e, b) c = Cast<to = 1>(d) y = Div(c, h) }"
        ),
        np.array([[1700000001, 1700003607]]),
    ),
    "numbers of 32 bits that wrap": (
        (
            "(int32[n, 4] a) => (int32[n, 4] y) <int32 k = {1664525}, int32 c = {1013904223}>"
            "{ m = Mul(a, k) y = Add(m, c) }"
        ),
        np.array([[2**31 - 1, -5, 2**30, 77]], np.int32),
    ),
    "positions": (
        (
            "(int64[n, 4] a) => (int64[n, 4] y) <int64 pad = {1}, int64 one = {1}> { e = Equal(a, pad) u = Not(e)"
            " m = Cast<to = 6>(u) c = CumSum(m, one) p = Mul(c, m) w = Cast<to = 7>(p) y = Add(w, pad) }"
        ),
        np.array([[5, 3, 1, 2**31 - 1]]),
    ),
    "a cast of what is small": (
        "(float[n, 4] a) => (int64[n, 4] y) { s = Sigmoid(a) y = Cast<to = 7>(s) }",
        FLOATS,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_usual_numbers_are_kept(tmp_path: Path, name: str) -> None:
    """Quantised models, images of bytes, timestamps, and what wraps in the same way."""
    graph, values = KEPT[name]
    path = save(tmp_path / "model.onnx", graph)
    engine, truth = opened(path), opened(path, "onnxruntime")
    expected = truth.run({"a": values})["y"]
    assert engine.run({"a": values})["y"] == pytest.approx(expected, rel=1e-5)
    engine.close()
    truth.close()
