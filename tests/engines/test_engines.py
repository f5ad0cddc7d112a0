"""What both engines promise alike: signatures, values of every dtype, rows of a slab, threads."""

import itertools
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.engines import models

from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.errors import EngineError, InvalidInputError, ReleasedError, UnsupportedError
from tailcut.memory.aligned import aligned_empty
from tailcut.spec import DType, TensorSpec

ENGINES = ["onnxruntime", "openvino"]
NUMBERS = [dtype for dtype in DType if dtype is not DType.BYTES]
Open = Callable[..., Engine]


@pytest.fixture(params=ENGINES)
def load(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens models in one engine, with one thread by default, and closes them after the test."""
    opened: list[Engine] = []

    def load(path: Path, **options) -> Engine:
        engine = open_engine(path, EngineOptions(**{"name": request.param, "threads": 1, **options}))
        opened.append(engine)
        return engine

    load.engine = request.param
    yield load
    for engine in opened:
        engine.close()


def every_value(dtype: DType, count: int) -> np.ndarray:
    """`count` elements, the extremes of the dtype among them."""
    if dtype is DType.BOOL:
        return np.arange(count) % 3 == 0
    if dtype in (DType.FP16, DType.BF16, DType.FP32, DType.FP64):
        values = np.linspace(-100, 100, count)
        values[:4] = np.inf, -np.inf, 0.0, 1.5
        return values.astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    values = np.arange(count).astype(dtype.numpy)
    values[0], values[1] = limits.min, limits.max
    return values


def oracle(path: Path, x: np.ndarray) -> np.ndarray:
    """What `models.perceptron` computes, in float64."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    layers = len(weights) // 2
    for layer in range(layers):
        x = x.astype(np.float64) @ weights[f"w{layer}"] + weights[f"b{layer}"]
        x = x if layer == layers - 1 else np.maximum(x, 0)
    return x


MAKERS = {
    "perceptron": lambda path: models.perceptron([8, 4], path),
    "identity": lambda path: models.identity(DType.INT64, (None, 3), path),
    "fixed": lambda path: models.identity(DType.FP32, (2, 3), path),
    "scalar": lambda path: models.identity(DType.FP64, (), path),
    "free": lambda path: models.identity(DType.FP32, (None, None, 4), path),
    "two": models.two_in_two_out,
    "sequence": models.dynamic_sequence,
    "no_batch": models.no_batch,
    "gather": models.gather_rows,
    "external": models.external_weights,
    "convolution": models.convolution,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_both_engines_tell_the_same_signature(tmp_path: Path, kind: str) -> None:
    """Names, dtypes, shapes and order of a file do not depend on the engine that reads it."""
    path = MAKERS[kind](tmp_path / "model.v2.onnx")
    engines = [open_engine(path, EngineOptions(name=name)) for name in ENGINES]
    assert engines[0].spec == engines[1].spec
    assert engines[0].spec.name == "model"
    for engine in engines:
        engine.close()


def test_name_may_be_given(tmp_path: Path) -> None:
    """A model is called after its file, or as its opener likes."""
    path = models.perceptron([8, 4], tmp_path / "x.onnx")
    assert open_engine(path, EngineOptions(), "ranker").spec.name == "ranker"


@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_dtype(load: Open, tmp_path: Path, dtype: DType) -> None:
    """Elements of every dtype go through `run` and through bound rows bit for bit."""
    engine = load(models.identity(dtype, (None, 5), tmp_path / "m.onnx"))
    x = every_value(dtype, 15).reshape(3, 5)
    if load.engine == "openvino" and dtype in {DType.INT64, DType.UINT32, DType.UINT64}:
        x = np.clip(x, max(-(1 << 31), np.iinfo(x.dtype).min), (1 << 31) - 1)  # docs/reference/engines.md
    got = engine.run({"x": x})["y"]
    assert got.dtype == dtype.numpy
    assert got.shape == (3, 5)
    assert got.tobytes() == x.tobytes()
    source, target = aligned_empty((3, 5), dtype.numpy), aligned_empty((3, 5), dtype.numpy)
    call = engine.bind({"x": source}, {"y": target})
    source[:] = x
    call()
    assert target.tobytes() == x.tobytes()


def test_strings(tmp_path: Path) -> None:
    """onnxruntime takes strings through `run` but cannot bind them; openvino refuses them by name."""
    path = models.identity(DType.BYTES, (None, 2), tmp_path / "m.onnx")
    engine = open_engine(path, EngineOptions())
    x = np.array([["a", ""], ["grüße", "雪"]], object)
    assert engine.run({"x": x})["y"].tolist() == x.tolist()
    assert engine.spec.inputs == (TensorSpec("x", DType.BYTES, (None, 2)),)
    with pytest.raises(UnsupportedError, match="'x' holds strings"):
        engine.bind({"x": x}, {"y": x.copy()})
    engine.close()
    with pytest.raises(UnsupportedError, match=r"does not support strings.*'x'.*use onnxruntime"):
        open_engine(path, EngineOptions(name="openvino"))


def test_several_inputs_and_outputs(load: Open, tmp_path: Path) -> None:
    """Tensors are identified by name, in any order of the mapping."""
    engine = load(models.two_in_two_out(tmp_path / "m.onnx"))
    a, b = np.full((2, 4), 5, np.float32), np.full((2, 4), 3, np.float32)
    got = engine.run({"b": b, "a": a})
    assert list(got) == ["total", "difference"]
    assert (got["total"] == 8).all()
    assert (got["difference"] == 2).all()
    total, difference = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    engine.bind({"b": b, "a": a}, {"difference": difference, "total": total})()
    assert (total == 8).all()
    assert (difference == 2).all()


def test_free_dimension_beside_the_batch(load: Open, tmp_path: Path) -> None:
    """Any length goes through `run`; a size that nobody knows in advance cannot be bound."""
    engine = load(models.dynamic_sequence(tmp_path / "m.onnx"))
    for rows, length in [(1, 1), (3, 7), (2, 100), (1, 1)]:
        x = np.random.default_rng(length).standard_normal((rows, length)).astype(np.float32)
        got = engine.run({"x": x})
        np.testing.assert_allclose(got["double"], x * 2)
        np.testing.assert_allclose(got["total"], x.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(UnsupportedError, match="'double' has no fixed size"):
        engine.bind({"x": x}, {"double": x.copy(), "total": np.zeros((2, 1), np.float32)})


def test_no_batch_and_a_scalar(load: Open, tmp_path: Path) -> None:
    """A model without a batch dimension, one of whose inputs is a single number."""
    engine = load(models.no_batch(tmp_path / "m.onnx"))
    x, s, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.array(2, np.float32), np.empty((3, 2), np.float32)
    assert engine.spec.inputs[1].shape == ()
    assert not engine.spec.batched
    np.testing.assert_array_equal(engine.run({"x": x, "s": s})["y"], x * 2)
    call = engine.bind({"x": x, "s": s}, {"y": y})
    s[...] = 3
    call()
    np.testing.assert_array_equal(y, x * 3)


def test_arrays_in_another_order(load: Open, tmp_path: Path) -> None:
    """A transposed view is read as what it shows, and the copy that this takes lives until the call is over."""
    path = models.perceptron([1024, 512, 8], tmp_path / "m.onnx")
    engine = load(path)
    for rows in (4, 8, 16):
        x = np.random.default_rng(rows).standard_normal((1024, rows)).astype(np.float32).T
        assert not x.flags.c_contiguous
        np.testing.assert_allclose(engine.run({"x": x})["y"], oracle(path, x), rtol=1e-3, atol=1e-3)


def test_scalar_output(load: Open, tmp_path: Path) -> None:
    """A result of rank 0 is an array of shape ()."""
    got = load(models.identity(DType.FP64, (), tmp_path / "m.onnx")).run({"x": np.array(1.25)})["y"]
    assert got.shape == ()
    assert got == 1.25


def test_rows_without_elements(load: Open, tmp_path: Path) -> None:
    """A dimension of size zero gives an empty result, not an error."""
    got = load(models.identity(DType.FP32, (None, 0), tmp_path / "m.onnx")).run({"x": np.zeros((2, 0), np.float32)})
    assert got["y"].shape == (2, 0)


def test_weights_listed_as_inputs_are_no_inputs(load: Open, tmp_path: Path) -> None:
    """Old files list their weights among the inputs; a caller never sees them."""
    path = models.perceptron([8, 4], tmp_path / "m.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, path)
    engine = load(path)
    assert engine.spec.input_names == ("x",)
    x = np.ones((2, 8), np.float32)
    np.testing.assert_allclose(engine.run({"x": x})["y"], oracle(path, x), rtol=1e-4)


def test_external_weights(load: Open, tmp_path: Path) -> None:
    """Weights in a file of their own are found beside the model, wherever the process stands."""
    path = models.external_weights(tmp_path / "m.onnx")
    x = np.ones((2, 64), np.float32)
    np.testing.assert_allclose(load(path).run({"x": x})["y"], oracle(path, x), rtol=1e-4)


@pytest.mark.parametrize("offset", [0, 1])
def test_bound_rows_of_a_slab(load: Open, tmp_path: Path, offset: int) -> None:
    """Every range of rows computes into its own rows and touches no others, on aligned memory and off it."""
    path = models.perceptron([24, 16, 10], tmp_path / "m.onnx")
    engine = load(path)
    inputs = aligned_empty(8 * 24 + offset)[offset:].reshape(8, 24)
    outputs = aligned_empty(8 * 10 + offset)[offset:].reshape(8, 10)
    inputs[:] = np.random.default_rng(0).standard_normal((8, 24))
    wanted = oracle(path, inputs)
    ranges = [(0, 1), (3, 4), (2, 6), (0, 8), (7, 8), (5, 7)]
    calls = {(a, b): engine.bind({"x": inputs[a:b]}, {"y": outputs[a:b]}) for a, b in ranges}
    for (first, last), call in [*calls.items(), *reversed(calls.items())]:
        outputs[:] = np.nan
        call()
        np.testing.assert_allclose(outputs[first:last], wanted[first:last], rtol=1e-3, atol=1e-4)
        assert np.isnan(outputs[:first]).all()
        assert np.isnan(outputs[last:]).all()


def test_bound_arrays_stay_alive(load: Open, tmp_path: Path) -> None:
    """A bound object holds its arrays: forgetting them elsewhere does no harm."""
    engine = load(models.identity(DType.FP32, (None, 1000), tmp_path / "m.onnx"))
    target = np.zeros((4, 1000), np.float32)
    call = engine.bind({"x": np.full((4, 1000), 7, np.float32)}, {"y": target})
    rubbish = [np.full((4, 1000), 9, np.float32) for _ in range(50)]
    call()
    assert len(rubbish) == 50
    assert (target == 7).all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 4), np.float32), np.zeros((3, 4), np.float32), "row"),
        (np.zeros((2, 5), np.float32), np.zeros((2, 4), np.float32), r"'x'.*\[-1, 4\].*\[2, 5\]"),
        (np.zeros((2, 4), np.float64), np.zeros((2, 4), np.float32), "'x'.*FP32.*FP64"),
        (np.zeros((2, 8), np.float32)[:, ::2], np.zeros((2, 4), np.float32), "'x'.*contiguous"),
    ],
)
def test_wrong_arrays_are_not_bound(load: Open, tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str) -> None:
    """Memory of another shape, dtype or order would be read as something else: it is refused, naming the tensor."""
    engine = load(models.identity(DType.FP32, (None, 4), tmp_path / "m.onnx"))
    with pytest.raises(InvalidInputError, match=message):
        engine.bind({"x": x}, {"y": y})


def test_missing_tensor_is_not_bound(load: Open, tmp_path: Path) -> None:
    """All inputs and outputs must be there."""
    engine = load(models.two_in_two_out(tmp_path / "m.onnx"))
    a = np.zeros((1, 4), np.float32)
    with pytest.raises(InvalidInputError, match="'b' is missing"):
        engine.bind({"a": a}, {"total": a.copy(), "difference": a.copy()})


def test_nothing_is_allocated_per_bound_call(load: Open, tmp_path: Path) -> None:
    """A thousand calls in the steady state leave no Python memory behind, of one bound object and of two in turn."""
    engine = load(models.perceptron([64, 10], tmp_path / "m.onnx"))
    arrays = [(np.zeros((rows, 64), np.float32), np.zeros((rows, 10), np.float32)) for rows in (1, 4)]
    calls = [engine.bind({"x": x}, {"y": y}) for x, y in arrays]
    for call in calls * 100:
        call()
    tracemalloc.start()
    try:
        calls[0]()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            calls[0]()
            calls[1]()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 2000


@pytest.mark.parametrize("bound", [True, False])
def test_the_engine_s_own_error_is_one_line(load: Open, tmp_path: Path, bound: bool) -> None:
    """What fails while it computes raises EngineError in one clean line, and the engine works on."""
    engine = load(models.gather_rows(tmp_path / "m.onnx"))
    index, row = np.array([[1000]], np.int64), np.zeros((1, 1, 3), np.float32)
    if load.engine == "openvino":
        pytest.skip("openvino gives zeros for an index outside the table")
    call = engine.bind({"index": index}, {"row": row})
    with pytest.raises(EngineError, match=r"^onnxruntime failed: [^\n]+$") as caught:
        call() if bound else engine.run({"index": index})
    assert "/" not in str(caught.value)
    index[:] = 2
    call()
    assert row.tolist() == [[[6, 7, 8]]]


@pytest.mark.parametrize("x", [np.zeros((2, 5), np.float32), np.zeros((2, 4), np.int32), np.zeros(4, np.float32)])
def test_run_with_the_wrong_array(load: Open, tmp_path: Path, x: np.ndarray) -> None:
    """An input of another shape, rank or dtype raises EngineError in one line, and the engine works on."""
    path = models.perceptron([4, 3], tmp_path / "m.onnx")
    engine = load(path)
    with pytest.raises(EngineError) as caught:
        engine.run({"x": x})
    assert len(str(caught.value).splitlines()) == 1
    good = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(engine.run({"x": good})["y"], oracle(path, good), rtol=1e-4)


@pytest.mark.parametrize("instances", [1, 2])
def test_threads_call_at_once(load: Open, tmp_path: Path, instances: int) -> None:
    """Four threads, each with its own bound rows and with `run` between, get the answers to their own questions."""
    path = models.perceptron([32, 32, 8], tmp_path / "m.onnx")
    engine = load(path, instances=instances)
    x = np.random.default_rng(0).standard_normal((4, 3, 32)).astype(np.float32)
    y, wanted = np.zeros((4, 3, 8), np.float32), [oracle(path, rows) for rows in x]
    turn, start, wrong = threading.Semaphore(instances), threading.Barrier(4), []

    def work(index: int) -> None:
        call = engine.bind({"x": x[index]}, {"y": y[index]})
        start.wait()
        for _ in range(100):
            with turn:  # the promise is for `instances` calls at a time
                y[index] = 0
                call()
                answers = y[index], engine.run({"x": x[index]})["y"]
            wrong.extend(index for answer in answers if not np.allclose(answer, wanted[index], rtol=1e-3, atol=1e-3))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("bound", [True, False])
def test_python_runs_while_the_engine_computes(load: Open, tmp_path: Path, bound: bool) -> None:
    """The GIL is free during a call: another thread gets through its loop in the middle of it."""
    engine = load(models.perceptron([1024, 4096, 1024], tmp_path / "m.onnx"))
    x, y = np.ones((256, 1024), np.float32), np.empty((256, 1024), np.float32)
    call = engine.bind({"x": x}, {"y": y})
    times: list[float] = []
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        times.append(time.perf_counter())
        for _ in range(4):
            call() if bound else engine.run({"x": x})
            times.append(time.perf_counter())
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    moments = []
    while not done.is_set():
        moments.append(time.perf_counter())
    thread.join()
    middles = [(a + (b - a) * 0.3, a + (b - a) * 0.7) for a, b in itertools.pairwise(times)]
    assert any(low < moment < high for low, high in middles for moment in moments)


@pytest.mark.parametrize("bound", [True, False])
def test_closed(load: Open, tmp_path: Path, bound: bool) -> None:
    """A closed engine raises at every use, also through what was bound before; closing twice does no harm."""
    engine = load(models.perceptron([8, 4], tmp_path / "m.onnx"))
    x, y = np.zeros((1, 8), np.float32), np.zeros((1, 4), np.float32)
    call = engine.bind({"x": x}, {"y": y})
    engine.close()
    engine.close()
    for _ in range(2):
        with pytest.raises(ReleasedError, match="closed"):
            call() if bound else engine.run({"x": x})
    with pytest.raises(ReleasedError, match="closed"):
        engine.bind({"x": x}, {"y": y})
