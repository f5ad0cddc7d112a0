"""Profiles of one model beside each other: each as it is, with the copy of the model that it runs."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron, quantised

from tailcut.engines.base import U8Input
from tailcut.errors import UsageError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.compare import compare
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.space import changed

STATIC = changed(Settings(), engine={"precision": "int8_static", "threads": 1})


@pytest.mark.slow
def test_each_profile_runs_its_own_copy_of_the_model(tmp_path: Path) -> None:
    """Two with equal settings are told apart: one runs a copy that answers rightly, the other one of another model."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    right = quantised(path, tmp_path / "right.onnx")
    wrong = quantised(perceptron([16, 8, 4], tmp_path / "other.onnx"), tmp_path / "wrong.onnx")
    plain = Profile.of_model(path)
    profiles = {name: plain.with_copy(copy, STATIC) for name, copy in (("right", right), ("wrong", wrong))}
    result = compare(TuneRequest(path, rate=300.0, slo_ms=100.0, budget_s=5.0), profiles, lambda event: None)
    assert [side.wrong for side in result.sides] == [False, True]
    assert result.is_worse
    assert all(len(side.runs.latencies) for side in result.sides)


def test_rows_are_what_the_profiles_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right answers are those of a model whose requests are merged where a profile has them merged."""
    asked: list[TuneRequest] = []

    def take(wanted: TuneRequest, *_: object) -> None:
        asked.append(wanted)
        raise UsageError("that is all")

    monkeypatch.setattr("tailcut.tuner.compare.learn", take)
    path = perceptron([16, 4], tmp_path / "m.onnx")
    settings = {"first": Settings(), "second": changed(Settings(), batching={"rows": "independent"})}
    profiles = {name: Profile.of_model(path, each) for name, each in settings.items()}
    with pytest.raises(UsageError):
        compare(TuneRequest(path), profiles, lambda event: None)
    assert asked[0].rows == "independent"


def test_requests_are_made_up_in_the_sizes_that_any_profile_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later profile may fix a dimension that the first leaves free; of data the first profile's are asked."""
    asked: list[TuneRequest] = []

    def take(wanted: TuneRequest, *_: object) -> None:
        asked.append(wanted)
        raise UsageError("that is all")

    monkeypatch.setattr("tailcut.tuner.compare.learn", take)
    path = perceptron([16, 4], tmp_path / "m.onnx")
    dims: dict[str, tuple[str, ...]] = {"a": (), "b": ("h=8", "w=9"), "c": ("w=7",)}
    profiles = {
        name: Profile.of_model(path, changed(Settings(), engine={"fixed_dims": own})) for name, own in dims.items()
    }
    for data in (None, {"x": np.zeros((4, 16), np.float32)}):
        with pytest.raises(UsageError, match="that is all"):
            compare(TuneRequest(path, data), profiles, lambda event: None)
    assert [set(wanted.fixed) for wanted in asked] == [{"h=8", "w=9"}, set()]


@pytest.mark.slow
def test_pixels_are_what_a_profile_of_pixels_is_judged_by(tmp_path: Path) -> None:
    """Floats that no pixel stands for are not what its clients send."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    fold = {"scale": (1 / 255,), "offset": (-0.5,)}
    pixels = changed(Settings(), engine={"u8_input": U8Input(**fold), "threads": 1})
    profiles = {"floats": Profile.of_model(path), "pixels": Profile.of_model(path, pixels)}
    data = {"x": np.random.default_rng(0).integers(0, 256, (64, 16)).astype(np.uint8)}
    result = compare(TuneRequest(path, data, rate=300.0, slo_ms=100.0, budget_s=5.0), profiles, lambda event: None)
    assert [side.wrong for side in result.sides] == [False, False]


@pytest.mark.slow
def test_a_rate_too_low_for_a_p99_is_compared_by_what_there_is_time_for(tmp_path: Path) -> None:
    """The budget holds, a line says which percentile it is, and the ratio is of that one."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    profiles = {
        f"{size}": Profile.of_model(path, changed(Settings(), batching={"max_batch_size": size}, engine={"threads": 1}))
        for size in (1, 8)
    }
    message: list[Event] = []
    result = compare(TuneRequest(path, rate=8.0, slo_ms=100.0, budget_s=8.0), profiles, message.append)
    assert any("within 8 s its p50 is compared" in event.text for event in message if isinstance(event, Phase))
    assert result.took_s < 16
    assert "p50" in result.sides[1].ratios.percentiles
