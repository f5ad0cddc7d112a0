"""What a model has computed before it is ready."""

import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper
from tests.engines.models import halved_and_doubled, identity, masked_mean, save, value

from tailcut.batching.cost import CostModel
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.filling import SampleInput
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.opening.warmup import WarmUp, padded_steps
from tailcut.runtime.padding import Bucket, Padding
from tailcut.runtime.profile import Profile
from tailcut.runtime.samples import SampleRequest, kinds_of
from tailcut.runtime.settings import BatchingSettings, PaddedInput, PaddingSettings, Settings
from tailcut.spec import DType, ModelSpec, TensorSpec

PADDING = PaddingSettings(buckets=(8, 16), inputs=(PaddedInput(name="ids"), PaddedInput(name="mask")))


def opened(path: Path, batching: BatchingSettings, *, instances: int = 1, warm_up_s: float = 10.0) -> Model:
    settings = Settings(engine=EngineOptions(threads=1, instances=instances), batching=batching)
    return Model.open(Profile.of_model(path, settings), limits=Limits(warm_up_s=warm_up_s))


def test_every_batch_size_is_known_on_every_instance(tmp_path: Path) -> None:
    """The largest, and the powers of two below it; each instance has bindings of its own for them."""
    path = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")
    with opened(path, BatchingSettings(max_batch_size=12), instances=2) as model:
        assert model.entry.scheduler.forecast.cost.sizes == [1, 2, 4, 8, 12]
        assert set(model.entry.scheduler.forecast.cost._known) == {1, 2, 4, 8, 12}
        for worker in model._pool._workers:
            assert {rows for _, rows in worker._executor._bound} == {1, 2, 4, 8, 12}
        assert model.statistics() | {"requests": 0, "batches": 0, "rows_in_use": 0} == model.statistics()


def test_every_bucket_is_known(tmp_path: Path) -> None:
    """Each with its own cost of each size."""
    path = masked_mean(tmp_path / "m.onnx")
    with opened(path, BatchingSettings(max_batch_size=4, padding=PADDING)) as model:
        known = {bucket: set(cost._known) for bucket, cost in model.entry.scheduler.forecast.costs.items()}
        assert known == {Bucket((8,)): {1, 2, 4}, Bucket((16,)): {1, 2, 4}}
        assert set(model.entry.scheduler.forecast.cost._known) == {1, 2, 4}


def test_the_bucket_in_the_middle_says_what_an_unknown_length_costs() -> None:
    """Each batch size of each bucket is a step, with inputs of its sizes."""
    spec = ModelSpec("m", (TensorSpec("ids", DType.INT64, (None, None)),), (TensorSpec("y", DType.FP32, (None,)),))
    padding = Padding(spec, ((8, 16, 32),), {"ids": ((1, 0),)}, {"ids": 0.0}, (), (1,))
    costs, unknown = {bucket: CostModel(2) for bucket in padding.grid}, CostModel(2)
    steps = padded_steps(padding, spec.inputs, costs, unknown)
    assert [(step.rows, step.shapes["ids"]) for step in steps] == [
        (rows, (rows, size)) for size in (8, 16, 32) for rows in (1, 2)
    ]
    assert all(step.costs[0] is costs[step.bucket] for step in steps)
    assert [step.bucket.sizes for step in steps if step.costs[-1] is unknown] == [(16,), (16,)]


def test_a_slow_model_is_ready_when_the_time_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says how many sizes it left, serves, and learns them by serving."""
    path = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")
    with caplog.at_level(logging.WARNING), opened(path, BatchingSettings(max_batch_size=4), warm_up_s=0.0) as model:
        assert "before 3 of its 3 batch sizes" in caplog.text
        assert model.entry.scheduler.forecast.cost.estimate_ns(4) == 0
        assert (model.infer_sync({"x": np.ones((4, 4), np.float32)})["y"] == 1).all()
        assert model.entry.scheduler.forecast.cost.estimate_ns(4) > 0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_sizes_are_found_that_the_model_accepts(tmp_path: Path, engine: str) -> None:
    """An image model that takes even heights and widths only is warm, without a word."""
    path = halved_and_doubled(tmp_path / "even.onnx")
    settings = Settings(engine=EngineOptions(name=engine, threads=1), batching=BatchingSettings(max_batch_size=2))
    with Model.open(Profile.of_model(path, settings)) as model:
        assert model.entry.warm_up == WarmUp(warmed_up=True)
        assert set(model.entry.scheduler.forecast.cost._known) == {1, 2}


def test_the_sizes_of_the_data_come_first(tmp_path: Path) -> None:
    """What the profile has of them is computed, the most frequent one at every batch size; no other size is."""
    path = masked_mean(tmp_path / "m.onnx")
    spec = open_engine(path, EngineOptions(threads=1)).spec
    requests = [dict.fromkeys(("ids", "mask"), np.ones((1, length), np.int64)) for length in (5, 9, 9, 30)]
    settings = Settings(engine=EngineOptions(name="openvino", threads=1), batching=BatchingSettings(max_batch_size=2))
    profile = msgspec.structs.replace(Profile.of_model(path, settings), samples=kinds_of(spec, requests))
    with Model.open(profile) as model:
        assert model.entry.warm_up.warmed_up
        (worker,) = model._pool._workers
        instance = worker._executor._engine._idle.get()
        lengths = {shapes[0] for shapes in instance.proven}
        lengths -= {(4, 9), (8, 9)}  # of the proof that rows are independent, which is made with them, too
        assert lengths - {(1, 16)} == {(1, 9), (2, 9), (1, 5), (1, 30)}  # 16: the engine's own first request


def test_samples_of_another_model_leave_it_cold(tmp_path: Path) -> None:
    """That is said; the model is served."""
    path = identity(DType.FP32, (None, None), tmp_path / "echo.onnx")
    kind = SampleRequest(inputs={"y": SampleInput(shape=(-1, 4))})
    profile = msgspec.structs.replace(Profile.of_model(path), samples=(kind,))
    with Model.open(profile) as model:
        assert model.entry.warm_up == WarmUp(
            warmed_up=False, reason="samples of the profile do not fit input 'x': tune the model again"
        )


def test_a_model_that_refuses_what_is_made_up_starts_cold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is served all the same; the log and the model's readiness tell what was tried."""
    table, ten = np.arange(5, dtype=np.float32), np.array(10)
    nodes = [helper.make_node("Sub", ["x", "ten"], ["index"]), helper.make_node("Gather", ["table", "index"], ["y"])]
    ends = [value("x", DType.INT64, (None, 1))], [value("y", DType.FP32, (None, 1))]
    path = save(tmp_path / "from_ten.onnx", nodes, *ends, {"table": table, "ten": ten})
    with caplog.at_level(logging.WARNING), opened(path, BatchingSettings(max_batch_size=4)) as model:
        assert model.entry.scheduler.forecast.cost.estimate_ns(1) == 0
        assert model.infer_sync({"x": np.array([[13]])})["y"] == 3
        assert not model.entry.warm_up.warmed_up
        assert "tried x [1, 1]" in model.entry.warm_up.reason
        assert (
            f"from_ten: not warmed up, so its first requests take longer: {model.entry.warm_up.reason}" in caplog.text
        )
