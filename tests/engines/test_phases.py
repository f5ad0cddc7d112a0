"""The time of calls to a device, phase by phase."""

from pathlib import Path

from tests.engines import models

from tailcut.engines.base import EngineOptions, Reshape
from tailcut.engines.cuda.onnx import STAND_IN, OnnxCudaEngine
from tailcut.engines.phases import PHASES, PhaseTimes, Timed
from tailcut.engines.reshaped import ReshapedEngine


def test_medians_and_the_slowest() -> None:
    """Of a thousand calls that copy alike, ten compute longer: the slowest 1 % show it, the medians do not."""
    times = PhaseTimes()
    assert times.summary() == []
    for number in range(1000):
        times.record(10.0, 5.0, 900.0 if number % 100 == 0 else 100.0, 20.0)
    result = {item["phase"]: (item["median_us"], item["slowest_us"], item["calls"]) for item in times.summary()}
    assert list(result) == list(PHASES)
    assert result["copy_in"] == (10.0, 10.0, 1000)
    assert result["compute"] == (100.0, 900.0, 1000)


def test_only_the_newest_are_kept() -> None:
    """Four thousand calls later nothing is left of one."""
    times = PhaseTimes()
    times.record(1e9, 0, 0, 0)
    for _ in range(4096):
        times.record(1, 1, 1, 1)
    assert {item["slowest_us"] for item in times.summary()} == {1.0}


def test_an_engine_behind_other_shapes_has_them(tmp_path: Path) -> None:
    """A model of a repository that reshapes its tensors."""
    engine = OnnxCudaEngine(
        models.perceptron([4, 3], tmp_path / "mlp.onnx"), EngineOptions(device="cuda"), placement=STAND_IN
    )
    seen = ReshapedEngine(engine, [Reshape(name="x", client=(-1, 2, 2), model=(-1, 4))])
    assert isinstance(seen, Timed)
    assert seen.phases is engine.phases
