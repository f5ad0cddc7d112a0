"""Values that OpenVINO would compute outside of its tensors are refused, alone, and nothing else is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.effort import some
from tests.engines.openvino_values.graphs import answers_together, as_ir, opened, save

import tailcut
from tailcut.engines import EngineOptions
from tailcut.engines.agreement import distance
from tailcut.engines.openvino_instance import Instance
from tailcut.errors import EngineError, InvalidInputError, UnsupportedError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

X = np.arange(16, dtype=np.float32).reshape(2, 8)


@dataclass(frozen=True)
class Case:
    """A graph with an input `i` whose values are demanded to be in bounds, good ones and bad ones."""

    graph: str
    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    others: Mapping[str, np.ndarray] = field(default_factory=lambda: {"x": X})
    dtype: str = "int64"

    def request(self, values: Any) -> dict[str, np.ndarray]:
        return {**self.others, "i": np.array(values, self.dtype)}


ROW = [[0] * 8]
CASES = {
    "gather": Case(
        "(float[n, 8] x, int64[m] i) => (float[n, m] y) { y = Gather<axis = 1>(x, i) }",
        ([0, 7], [-8, -1]),
        ([0, 8], [-9, 0], [10**9, 0], [2**32, 0]),
    ),
    "embedding": Case(
        "(int64[n, 2] i) => (float[n, 2, 1] y) <float[3, 1] w = {1, 2, 3}> { y = Gather(w, i) }",
        ([[0, 2]], [[-3, -1]]),
        ([[0, 3]], [[-4, 0]]),
        others={},
    ),
    "embedding of floats": Case(
        "(float[n, 2] i) => (float[n, 2, 1] y) <float[3, 1] w = {1, 2, 3}> { k = Cast<to = 7>(i) y = Gather(w, k) }",
        ([[0, 2.9]], [[-3, -0.5]]),
        ([[0, 3]], [[-4, 0]], [[np.nan, 0]]),
        others={},
        dtype="float32",
    ),
    "elements": Case(
        "(float[n, 8] x, int64[n, 8] i) => (float[n, 8] y) { y = GatherElements<axis = 1>(x, i) }",
        ([[0] * 8, [-8] * 8], [[7] * 8, [-1] * 8]),
        ([[8] * 8] * 2, [[-9] * 8] * 2),
    ),
    "rows of a batch": Case(
        "(float[n, 8] x, int64[n, 3, 1] i) => (float[n, 3] y) { y = GatherND<batch_dims = 1>(x, i) }",
        ([[[0], [7], [-8]]] * 2, [[[-1], [1], [2]]] * 2),
        ([[[0], [7], [8]]] * 2, [[[-9], [1], [2]]] * 2, [[[10**9], [1], [2]]] * 2),
    ),
    "points": Case(
        "(float[n, 8] x, int64[m, 2] i) => (float[m] y) { y = GatherND(x, i) }",
        ([[0, 0], [1, 7]], [[-2, -8], [-1, -1]]),
        ([[0, 8], [0, 0]], [[2, 0], [0, 0]], [[-3, 0], [0, 0]]),
    ),
    "scattered elements": Case(
        "(float[n, 8] x, int64[n, 8] i) => (float[n, 8] y)"
        '{ y = ScatterElements<axis = 1, reduction = "add">(x, i, x) }',
        ([[0] * 8, [7] * 8], [[-8] * 8, [-1] * 8]),
        ([[8] * 8] * 2, [[-9] * 8] * 2),
    ),
    "scattered rows": Case(
        "(float[n, 8] x, int64[m, 1] i) => (float[n, 8] y) <int64[1] first = {0}>"
        "{ u = Gather<axis = 0>(x, first) y = ScatterND(x, i, u) }",
        ([[1]], [[-2]]),
        ([[2]], [[-3]]),
    ),
    "largest": Case(
        "(float[n, 8] x, int64[1] i) => (float[n, k] y, int64[n, k] j) { y, j = TopK<axis = 1>(x, i) }",
        ([3], [8]),
        ([9], [-1]),
    ),
    "reversed": Case(
        "(float[n, t] x, int64[n] i) => (float[n, t] y){ y = ReverseSequence<batch_axis = 0, time_axis = 1>(x, i) }",
        ([3, 8], [1, 1]),
        ([9, 8], [-1, 8]),
    ),
    "sums": Case(
        "(float[n, 8] x, int64 i) => (float[n, 8] y) { y = CumSum(x, i) }",
        (0, 1, -1, -2),
        (2, -3),
    ),
    "repeated": Case(
        "(float[n, 8] x, int64[2] i) => (float[a, b] y) { y = Tile(x, i) }",
        ([1, 2], [0, 2]),
        ([-1, 2],),
    ),
    "filled": Case(
        "(float[n, 8] x, int64[2] i) => (float[n, 8] z, float[a, b] y) { y = ConstantOfShape(i) z = Relu(x) }",
        ([1, 2], [0, 2]),
        ([-1, 2],),
    ),
    "columns": Case(  # of which the first may be larger
        "(int64[n, 2] i) => (float[n, 2] y)"
        "<float[3] w = {1, 2, 3}, float[2] v = {1, 2}, int64 a = {0}, int64 b = {1}, int64[1] one = {1}> {"
        "  p = Gather<axis = 1>(i, a) q = Gather<axis = 1>(i, b) c = Gather(w, p) d = Gather(v, q)"
        "  e = Unsqueeze(c, one) f = Unsqueeze(d, one) y = Concat<axis = 1>(e, f) }",
        ([[2, 1]], [[-3, -2]]),
        ([[2, 2]], [[3, 1]]),
        others={},
    ),
    "offsets": Case(
        "(int64[n, 2] i) => (float[n, 2] y) <float[5] w = {1, 2, 3, 4, 5}, int64[2] o = {0, 3}>"
        "{ k = Add(i, o) y = Gather(w, k) }",
        ([[2, 1]], [[4, 0]]),
        ([[0, 2]],),
        others={},
    ),
    "positions": Case(  # of as many elements as are not 1
        "(int64[n, t] i) => (float[n, t] y) <float[4] w = {1, 2, 3, 4}, int64 one = {1}> {"
        "  e = Equal(i, one) u = Not(e) m = Cast<to = 7>(u) c = CumSum(m, one) k = Mul(c, m) y = Gather(w, k) }",
        ([[5, 5, 5]], [[5, 1, 5, 5, 1]]),
        ([[5, 5, 5, 5]],),
        others={},
    ),
    "last": Case(  # row of each sequence
        "(float[n, t] x, int64[n, t] i) => (float[n, 1] y) <int64[1] axis = {1}, int64 one = {1}>"
        "{ s = ReduceSum(i, axis) k = Sub(s, one) y = GatherElements<axis = 1>(x, k) }",
        ([[1] * 8, [1] + [0] * 7],),
        ([[1] * 8, [2] * 8],),
    ),
    "branch": Case(
        "(float[n, 8] x, int64[m] i, bool c) => (float[n, m] y) { y = If(c) <"
        "  then_branch = t () => (float[n, m] a) { a = Gather<axis = 1>(x, i) },"
        "  else_branch = e () => (float[n, m] b) { g = Gather<axis = 1>(x, i) b = Relu(g) }> }",
        ([0, 7],),
        ([0, 8], [-9, 0]),
        others={"x": X, "c": np.array(True)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_out_of_bounds_are_refused(tmp_path: Path, name: str) -> None:
    """As by onnxruntime, from ONNX and from IR; what it takes, negative indices too, is answered as it answers.

    From IR is every third case; `make test-all` has all.
    """
    case = CASES[name]
    path = save(tmp_path / "model.onnx", case.graph)
    truth = opened(path, "onnxruntime")
    for file in (path, as_ir(path)) if name in some(CASES) else (path,):
        engine = opened(file)
        for _ in range(2):
            for values in case.bad:
                with pytest.raises(EngineError, match="onnxruntime failed"):
                    truth.run(case.request(values))
                with pytest.raises(
                    InvalidInputError, match=r"^inputs? 'i'.*: a value is out of bounds: the .* may be -?\d"
                ):
                    engine.run(case.request(values))
            for values in case.good:
                assert distance(truth.run(case.request(values)), engine.run(case.request(values))) < 1e-5
        engine.close()
    truth.close()


def test_values_are_checked_where_all_sizes_are_fixed(tmp_path: Path) -> None:
    """There no answer is compared with another engine's."""
    case = CASES["gather"]
    path = save(tmp_path / "fixed.onnx", case.graph)
    engine = opened(path, "openvino", "n=2", "m=2")
    for values in case.bad:
        with pytest.raises(
            InvalidInputError, match=r"^input 'i': a value is out of bounds: the indices of Gather may be -8 to 7$"
        ):
            engine.run(case.request(values))
    for values in case.good:
        assert np.array_equal(engine.run(case.request(values))["y"], X[:, values])
    engine.close()


def test_lengths_of_recurrent_layers_are_checked(tmp_path: Path) -> None:
    """With fixed sizes, where OpenVINO heeds them."""
    path = save(
        tmp_path / "gru.onnx",
        "(float[3, 2, 1] x, int32[2] i) => (float[3, 1, 2, 1] y) <float[1, 3, 1] w = {1, 2, 3}> {"
        "  y = GRU<hidden_size = 1>(x, w, w, , i) }",
    )
    engine, truth = opened(path), opened(path, "onnxruntime")
    x = np.ones((3, 2, 1), np.float32)
    good, bad = ({"x": x, "i": np.array(lengths, np.int32)} for lengths in ([3, 1], [4, 1]))
    assert distance(truth.run(good), engine.run(good)) < 1e-5
    for refusing in (truth, engine):
        with pytest.raises((EngineError, InvalidInputError)):
            refusing.run(bad)
        refusing.close()


def test_a_count_below_zero_finds_no_box(tmp_path: Path) -> None:
    """onnxruntime answers none then; OpenVINO would return a box."""
    path = save(
        tmp_path / "nms.onnx",
        "(float[1, s, 4] b, float[1, 1, s] x, int64[1] i) => (int64[m, 3] y) <float[1] half = {0.5}>"
        "{ y = NonMaxSuppression(b, x, i, half) }",
    )
    engine = opened(path)
    boxes = np.array([[[0, 0, 1, 1], [5, 5, 6, 6]]], np.float32)
    request = {"b": boxes, "x": np.ones((1, 1, 2), np.float32)}
    assert len(engine.run({**request, "i": np.array([3])})["y"]) == 2
    assert len(engine.run({**request, "i": np.array([0])})["y"]) == 0
    with pytest.raises(InvalidInputError, match="the count of NonMaxSuppression may be 0 or more"):
        engine.run({**request, "i": np.array([-1])})
    engine.close()


@pytest.mark.parametrize(
    "graph",
    [
        "(int64[n, 2] i) => (float[n, 2] y) <float[3] w = {1, 2, 3}> { k = Cast<to = 6>(i) y = Gather(w, k) }",
        (
            "(int64[n, 2] i) => (float[n, 2] y) <float[3] w = {1, 2, 3}, int64 by = {3}>"
            "{ k = Mod(i, by) y = Gather(w, k) }"
        ),
    ],
)
def test_integers_of_more_than_32_bits_are_refused(tmp_path: Path, graph: str) -> None:
    """OpenVINO would compute with others; a cast has the largest number in their place."""
    engine = opened(save(tmp_path / "model.onnx", graph))
    assert engine.run({"i": np.array([[2, 0]])})["y"].tolist() == [[3, 1]]
    with pytest.raises(
        InvalidInputError, match=r"^input 'i': a value is out of bounds: (openvino computes|the indices)"
    ):
        engine.run({"i": np.array([[2**32, 0]])})
    engine.close()


@pytest.mark.parametrize(
    ("graph", "part"),
    [
        ("(float[n, 8] x, int64[2] i) => (float[a, b] y) { y = Reshape(x, i) }", "shape of Reshape"),
        ("(float[n, 8] x, int64[3] i) => (float[a, b, c] y) { y = Expand(x, i) }", "shape of Broadcast"),
        ("(float[n, 8] x, int64[4] i) => (float[a, b] y) { y = Pad(x, i) }", "pads of Pad"),
        (
            "(float[n, 8] x, int64[2] i) => (float[n, a] y, float[n, b] z) { y, z = Split<axis = 1>(x, i) }",
            "lengths of VariadicSplit",
        ),
        (
            (
                "(float[n, 8] x) => (float[n, 8] y) <float[3] w = {1, 2, 3}>"
                "{ s = Exp(x) k = Cast<to = 7>(s) y = Gather(w, k) }"
            ),
            "indices of Gather",
        ),
        (
            (
                "(float[n, 8] x) => (float[n, 8] y) <float[3] w = {1, 2, 3}, float two = {2}>"
                "{ s = Exp(x) t = Min(s, two) k = Cast<to = 7>(t) u = Neg(s) l = Cast<to = 7>(u)"
                " m = Min(k, l) y = Gather(w, m) }"
            ),
            "indices of Gather",
        ),
    ],
)
def test_a_model_whose_values_cannot_be_checked_is_refused(tmp_path: Path, graph: str, part: str) -> None:
    """In one line that says which operator it is, and what to use; from IR as from ONNX."""
    path = save(tmp_path / "model.onnx", graph)
    for file, advice in ((path, "use onnxruntime"), (as_ir(path), "convert the model to ONNX, and use onnxruntime")):
        with pytest.raises(UnsupportedError) as caught:
            opened(file)
        assert str(caught.value) == (
            f"{file}: openvino does not check the {part}, which values of a request decide in this model: {advice}"
        )


@pytest.mark.parametrize(
    "graph",
    [
        (
            "(float[n, t, 4] x) => (float[n, u] y) <int64[1] z = {0}, int64[1] rest = {-1}>"
            "{ s = Shape(x) b = Gather(s, z) k = Concat<axis = 0>(b, rest) y = Reshape(x, k) }"
        ),
        (
            "(float[n, 8] x) => (float[n] y) <int64[1] one = {1}>"
            "{ k = ArgMax<axis = 1, keepdims = 1>(x) g = GatherElements<axis = 1>(x, k) y = Squeeze(g, one) }"
        ),
        (
            "(float[n, 8] x) => (float[n, 3] y) <int64[1] three = {3}>"
            "{ v, k = TopK<axis = 1>(x, three) y = GatherElements<axis = 1>(x, k) }"
        ),
        (
            "(float[n, 8] x) => (float[m, 8] y) <int64[1] zero = {0}> { k = NonZero(x) r = Gather(k, zero) "
            "  s = Squeeze(r, zero) y = Gather(x, s) }"
        ),
        (
            "(float[n, 8] x) => (float[n, 8] y) <float[3] w = {1, 2, 3}, int64 low = {0}, int64 high = {2}>"
            "{ k = Cast<to = 7>(x) c = Clip(k, low, high) y = Gather(w, c) }"
        ),
        (
            "(float[n, 8] x) => (float[n, 8] y) <float[3] w = {1, 2, 3}, int64 by = {3}>"
            "{ k = Cast<to = 7>(x) c = Mod(k, by) y = Gather(w, c) }"
        ),
        (
            "(float[n, 8] x) => (float[n, 8] y) <float[2] w = {1, 2}, float half = {0.5}>"
            "{ b = Greater(x, half) k = Cast<to = 7>(b) y = Gather(w, k) }"
        ),
        "(float[n, t] x) => (float[n, t] y) { s = Shape(x) y = Expand(x, s) }",
        (
            "(float[n, 8] x, int64[1] i) => (float[n, u] y) <int64[1] zero = {0}, int64[1] one = {1}>"
            "{ y = Slice(x, zero, i, one) }"
        ),
    ],
)
def test_usual_graphs_are_kept(tmp_path: Path, graph: str) -> None:
    """Indices that the graph itself keeps in bounds, and shapes that follow from shapes, need no check."""
    path = save(tmp_path / "model.onnx", graph)
    engine, truth = opened(path), opened(path, "onnxruntime")
    x = np.abs(np.random.default_rng(0).standard_normal((2, 8), np.float32))
    request = {"x": x.reshape(2, 2, 4) if "n, t, 4" in graph else x, "i": np.array([3])}
    request = {name: request[name] for name in engine.spec.input_names}
    assert distance(truth.run(request), engine.run(request)) < 1e-5
    engine.close()
    truth.close()


def test_a_bad_request_fails_alone(tmp_path: Path) -> None:
    """Its neighbours in a batch have their answers, and it has none of theirs; its message tells nothing of theirs."""
    path = save(tmp_path / "model.onnx", CASES["rows of a batch"].graph)
    requests = [
        {"x": np.full((1, 8), client, np.float32), "i": np.full((1, 3, 1), 8 if client == 0 else 7)}
        for client in range(4)
    ]
    for bad, *good in answers_together(path, requests, 5):
        assert bad == "input 'i': a value is out of bounds: the indices of GatherND may be -8 to 7"
        assert [np.unique(answer).tolist() for answer in good] == [[1], [2], [3]]


def test_openvino_never_has_made_up_indices_out_of_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a model tries requests until one is taken: those that are not never reach OpenVINO."""
    path = save(
        tmp_path / "graph.onnx",
        "(float[n, 4] x, int64[n] src, int64[n] dst) => (float[n, 4] y) <float zero = {0}, int64[1] one = {1}> {"
        "  m = Gather(x, src) s = Shape(x) d = Unsqueeze(dst, one) e = Expand(d, s) z = Mul(x, zero)"
        '  y = ScatterElements<axis = 0, reduction = "add">(z, e, m) }',
    )
    seen: list[bool] = []
    compute = Instance.run

    def run(self: Instance, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["x"])
        seen.append(all(-rows <= inputs[name].min() and inputs[name].max() < rows for name in ("src", "dst")))
        return compute(self, inputs)

    monkeypatch.setattr(Instance, "run", run)
    model = tailcut.Model.open(Profile.of_model(path, Settings(engine=EngineOptions(name="openvino", threads=1))))
    model.close()
    assert seen
    assert all(seen)
