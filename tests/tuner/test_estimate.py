"""Engine configurations measured in child processes: real engines, real models, and engines that refuse."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.cases import CASES
from tests.engines.models import perceptron, save, value

from tailcut.engines import EngineOptions
from tailcut.spec import DType
from tailcut.tuner import estimate
from tailcut.tuner.engine_estimate import NO_TIME, EngineEstimate, Estimator
from tailcut.tuner.estimate import _calls_in, _round, estimate_engines, typical
from tailcut.tuner.estimator import pack
from tailcut.tuner.judging import EstimateError, Judging, Wrong
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.space import engine_choices

CLASSIFIER = {
    "coefficients": [0.1] * 128,
    "intercepts": [0.0, 0.0],
    "classlabels_ints": [0, 1],
    "post_transform": "NONE",
}
REQUEST = {"x": np.ones((1, 64), np.float32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perceptron([64, 128, 8], tmp_path_factory.mktemp("models") / "m.onnx")


def test_times_by_batch_size(model: Path) -> None:
    """Each size that is asked for has its times, a row alone also after a rest, and memory is counted."""
    with Estimator(model, EngineOptions(threads=1), [REQUEST]) as estimator:
        estimator.wait_loaded()
        for rows in (1, 8):
            estimator.measure(rows, 0.02)
        estimator.measure(1, 0.02, paused=True)
        result = estimator.estimate
    assert result.sizes == [1, 8]
    assert all(0 < result.low_ns(rows) <= result.median_ns(rows) for rows in result.sizes)
    assert result.rows_per_s > 8 / result.median_ns(8) * 1e9 * 0.5
    assert result.alone_ns > 0
    assert result.memory_bytes > 10 << 20
    service = result.service_times(threads=2)
    assert service.sizes.tolist() == [1, 8]
    assert service.threads == 1
    assert (np.diff(service.quantiles_ns, axis=1) >= 0).all()


def test_several_instances_are_called_at_once(model: Path) -> None:
    """Their times hold what they take from each other, and their rows add up."""
    with Estimator(model, EngineOptions(threads=1, instances=2), [REQUEST]) as estimator:
        estimator.wait_loaded()
        estimator.measure(4, 0.02)
        result = estimator.estimate
    assert result.rows_per_s == pytest.approx(2 * 4 / result.low_ns(4) * 1e9)


def test_what_cannot_be_loaded_says_why(model: Path) -> None:
    """An engine that refuses is an estimate with an error, and costs the others nothing."""
    choices = [EngineOptions(precision="bf16"), EngineOptions(threads=1)]
    for seconds in (1.0, 5.0, 20.0):  # longer where loading takes so much of it that no pause is measured
        message: list[EngineEstimate] = []
        refused, good = sorted(
            estimate_engines(model, choices, [REQUEST], seconds=seconds, batched=True, tell=message.append),
            key=lambda item: item.error is None,
        )
        if good.paused_ns:
            break
    assert "bf16" in (refused.error or "")
    assert good.error is None
    assert len(good.sizes) >= 2
    assert good.paused_ns
    assert {id(item) for item in message} == {id(refused), id(good)}


def test_what_is_known_is_reported_at_once(model: Path) -> None:
    """After the first size and after all sizes, not only when the phase ends."""
    stored: list[int] = []
    done: list[int] = []
    estimate_engines(
        model,
        [EngineOptions(threads=1)],
        [REQUEST],
        seconds=0.3,
        batched=True,
        tell=lambda item: done.append(len(stored)),
        store=lambda item: stored.append(len(item.sizes)),
    )
    first, last = stored
    assert first == 1 < last
    assert done == [2]


@pytest.mark.slow
@pytest.mark.parametrize("measured", [True, False])
def test_of_a_kind_that_answers_wrongly_no_other_is_loaded(model: Path, measured: bool) -> None:
    """One is asked; it is measured where it can be offered, and the others are left out with its reason."""
    asked: list[int] = []

    def judge(options: EngineOptions, answers: Sequence[Mapping[str, np.ndarray]]) -> Wrong | None:
        asked.append(len(answers))
        assert answers[0]["y"].shape == (1, 8)
        return Wrong("too far off", measured)

    choices = [EngineOptions(threads=1), *(EngineOptions(name="openvino", threads=count) for count in (1, 2))]
    judging = Judging([pack(REQUEST)] * 3, judge, {("onnxruntime", "f32")})
    result = estimate_engines(model, choices, [REQUEST], seconds=0.5, batched=False, judging=judging)
    assert asked == [3]
    errors = [item.error for item in result if item.options.name == "openvino"]
    assert sorted(errors, key=str) == ([None, "too far off"] if measured else ["too far off"] * 2)
    assert [item.error for item in result if item.options.name == "onnxruntime"] == [None]


@pytest.mark.slow
def test_a_model_without_a_batch_is_measured_as_it_is(model: Path) -> None:
    """Only the size of one request."""
    (result,) = estimate_engines(model, [EngineOptions(threads=1)], [REQUEST], seconds=0.5, batched=False)
    assert result.sizes == [1]


@pytest.mark.slow
def test_the_users_word_on_rows_holds_for_the_measurements(tmp_path: Path) -> None:
    """A file that says nothing of its rows, or otherwise, is measured in batches where the user says that it may."""
    path = tmp_path / "sum.onnx"
    onnx.save(CASES["running_sum"].model, path)
    x = next(value for value in CASES["running_sum"].model.graph.input)
    shape = [dim.dim_value or 1 for dim in x.type.tensor_type.shape.dim]
    request = {x.name: np.ones(shape, np.float32)}
    for independent in (False, True):
        (result,) = estimate_engines(
            path, [EngineOptions(threads=1)], [request], seconds=0.3, batched=True, independent=independent
        )
        assert result.error is None
        assert (result.batched, len(result.sizes) > 1) == (independent, independent)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fewer_columns_declared", "other_rows_declared"])
def test_outputs_of_other_sizes_than_the_file_declares(tmp_path: Path, name: str) -> None:
    """Nothing is bound to what is too small for them."""
    path = tmp_path / "m.onnx"
    onnx.save(CASES[name].model, path)
    (result,) = estimate_engines(path, [EngineOptions(threads=1)], CASES[name].requests[:1], seconds=0.3, batched=False)
    assert result.error is None


@pytest.mark.slow
def test_requests_of_different_lengths_are_computed_in_turn(tmp_path: Path) -> None:
    """The times of a size are those of the data's lengths, and of a lone request as well."""
    path = save(
        tmp_path / "square.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        [value("x", DType.FP32, (None, None, 512))],
        [value("y", DType.FP32, (None, None, 512))],
        {"w": np.ones((512, 512), np.float32)},
    )
    data = [{"x": np.ones((2, length, 512), np.float32)} for length in range(1, 101)]
    requests = typical(data, batched=True)
    assert [request["x"].shape for request in requests] == [(1, length, 512) for length in (51, 11, 91, 31, 71)]
    assert typical(data[:1] * 3, batched=False) == data[:1]
    with Estimator(path, EngineOptions(threads=1), requests) as estimator:
        estimator.wait_loaded()
        estimator.measure(1, 0.3)
        low, high = np.quantile(np.concatenate(estimator.estimate.times_ns[1]), (0.1, 0.9))
    assert high > 2 * low


def test_a_process_that_ends_is_one_line(model: Path) -> None:
    """What measures a configuration may crash with it."""
    with Estimator(model, EngineOptions(threads=1), [REQUEST]) as estimator:
        estimator.wait_loaded()
        estimator._child.kill()
        estimator._child.wait()
        with pytest.raises(EstimateError, match="exited"):
            estimator.measure(1, 0.01)


@pytest.mark.slow
def test_an_engine_that_cannot_load_the_model_is_started_once(tmp_path: Path) -> None:
    """Its other configurations have the same reason; those of the other engine are measured."""
    path = tmp_path / "labels.onnx"
    nodes = [helper.make_node("LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", **CLASSIFIER)]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "labels", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    choices = [EngineOptions(name="openvino", threads=threads) for threads in (1, 2)] + [EngineOptions(threads=1)]
    began = time.monotonic()
    result = estimate_engines(path, choices, [REQUEST], seconds=0.5, batched=True)
    errors = [item.error for item in result if item.options.name == "openvino"]
    assert len(errors) == 2
    assert errors[0] == errors[1]
    assert "openvino cannot load it" in (errors[0] or "")
    assert [item.error for item in result if item.options.name == "onnxruntime"] == [None]
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("rows", "seconds", "calls"), [(1, 10.0, 3), (2, 10.0, 3), (8, 10.0, 1), (16, 10.0, 0)])
def test_a_size_is_measured_only_where_there_is_time_for_it(rows: int, seconds: float, calls: int) -> None:
    """A row takes half a second: three calls of one or two rows in ten seconds, one of eight, none of sixteen."""
    known = EngineEstimate(EngineOptions(), {1: [np.full(5, 500_000_000)]})
    assert _calls_in(known, rows, seconds) == calls
    assert _calls_in(EngineEstimate(EngineOptions()), 1, -1.0) == 1


@pytest.mark.slow
def test_what_there_is_no_time_to_load_is_left_out(model: Path) -> None:
    """With no time at all three configurations are measured, and the rest say why they are not."""
    choices = [EngineOptions(threads=1, instances=count) for count in (1, 2, 3, 4, 5)]
    result = estimate_engines(model, choices, [REQUEST], seconds=0.0, batched=False)
    measured = [item for item in result if item.error is None]
    assert len(measured) == 3
    assert all(item.sizes == [1] for item in measured)
    assert {item.error for item in result if item not in measured} == {NO_TIME}


@pytest.mark.slow
def test_what_takes_far_longer_to_load_than_the_first_is_given_up(tmp_path: Path) -> None:
    """Quantising many channels takes minutes; the child is ended, and what was loaded before is measured."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [value("x", DType.FP32, (None, 1))], [value("y", DType.FP32, (None, 300_000))]
    wide = save(tmp_path / "wide.onnx", nodes, *ends, {"w": np.ones((1, 300_000), np.float32)})
    choices = [EngineOptions(threads=1), EngineOptions(threads=1, precision="int8")]
    first, second = estimate_engines(wide, choices, [{"x": np.ones((1, 1), np.float32)}], seconds=0.2, batched=False)
    assert (first.options, first.error) == (choices[0], None)
    assert (second.options, second.error) == (choices[1], NO_TIME)


class Child(Estimator):
    """A child whose calls take as many microseconds as it has instances."""

    def __init__(self, model: Path, options: EngineOptions, requests: object, *, independent: bool) -> None:
        self.estimate = EngineEstimate(options)

    def wait_loaded(self, seconds: float = math.inf) -> None:
        self.estimate.load_s = 0.1

    def measure(self, rows: int, seconds: float, *, fewest: int = 3, paused: bool = False) -> None:
        time.sleep(0.002)
        times = np.full(3, 1000 * self.estimate.options.instances**2)
        (self.estimate.paused_ns if paused else self.estimate.times_ns.setdefault(rows, [])).append(times)

    def close(self) -> None:
        pass


def test_after_each_round_the_worse_half_is_measured_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve six go on, then three; these have all the time that is left."""
    monkeypatch.setattr(estimate, "Estimator", Child)
    choices = [EngineOptions(threads=1, instances=count, spinning=False) for count in range(1, 13)]
    done = estimate_engines(Path("m"), choices, [REQUEST], seconds=1.5, batched=False)
    rounds = {item.options.instances: len(item.paused_ns) for item in done}
    assert [rounds[count] for count in range(4, 13)] == [1] * 3 + [0] * 6
    assert min(rounds[count] for count in (1, 2, 3)) > 1


class Scripted(Estimator):
    """A child whose times are given, run by run."""

    def __init__(self, runs: dict[int, list[int]]) -> None:
        self.estimate = EngineEstimate(EngineOptions(threads=1), batched=True)
        self._runs = runs

    def measure(self, rows: int, seconds: float, *, fewest: int = 3, paused: bool = False) -> None:
        """Take the next run of this size."""
        self.estimate.times_ns.setdefault(rows, []).append(np.full(9, self._runs[rows].pop(0)))


def test_a_stall_does_not_end_the_search_for_larger_batches() -> None:
    """A size that seems not to pay is timed once more; one that pays is not."""
    item = Scripted({1: [100], 2: [900, 150], 4: [250]})
    for rows in (1, 2, 4):
        assert _round([item], rows, time.monotonic() + 60, lambda _: None) == [item]
    assert item.estimate.sizes == [1, 2, 4]
    assert item.estimate.low_ns(2) == 150


@pytest.mark.slow
def test_an_exhaustive_tune_measures_every_engine_configuration(tmp_path: Path) -> None:
    """Whatever the budget says: a usual tune of so few seconds measures some of them."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    wanted = TuneRequest(path, budget_s=5.0)
    for item in (wanted, replace(wanted, exhaustive=True)):
        session = open_session(item, lambda event: None)
        space = ModelSpace(session)
        try:
            result = space._estimate(engine_choices(space.facts))
        finally:
            space.close()
        choices = engine_choices(space.facts)
        if item.exhaustive:
            assert [each.error for each in result] == [None] * len(choices)
        else:
            assert len(result) < len(choices)
