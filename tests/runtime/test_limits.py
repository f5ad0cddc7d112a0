"""How many rows a model gets, by what it asks for and by what memory there is."""

import math
from pathlib import Path

import pytest
from tests.engines.models import identity

from tailcut.errors import ArgumentTypeError, CapacityError, UsageError
from tailcut.runtime.limits import Limits, rows_for, within_memory
from tailcut.runtime.model import Model
from tailcut.spec import DType, ModelSpec, TensorSpec


def spec(width: int) -> ModelSpec:
    tensor = TensorSpec("x", DType.FP32, (None, width))
    return ModelSpec("m", (tensor,), (tensor,))


def test_large_rows_are_fewer() -> None:
    """As many rows as may queue while they fit, whole batches always, and two of them at least."""
    limits = Limits(queue_rows=1000, slab_bytes=8_000_000)
    assert rows_for(spec(10), 32, limits) == 1024
    assert rows_for(spec(10_000), 32, limits) == 128
    assert rows_for(spec(1_000_000), 32, limits) == 64


def test_a_memory_limit_clamps_the_rows() -> None:
    """A quarter of what there is, shared by the models; without a limit nothing changes."""
    assert within_memory(Limits(), None) == Limits()
    assert within_memory(Limits(), 1 << 40) == Limits()
    small = within_memory(Limits(), 64 << 20, models=2)
    assert small.slab_bytes == 8 << 20
    assert rows_for(spec(10_000), 8, small) < rows_for(spec(10_000), 8, Limits())


def test_what_cannot_fit_is_refused_with_the_sizes(tmp_path: Path) -> None:
    """Two batches that are over the limit are refused before any memory is taken for them."""
    path = identity(DType.FP32, (None, 100_000), tmp_path / "wide.onnx")
    with pytest.raises(CapacityError, match=r"800000 bytes need 51200000 bytes, over the limit of 8388608"):
        Model.open(path, limits=within_memory(Limits(), 16 << 20), auto=False)


def test_measured_batches_are_as_large_as_memory_has_room_for(tmp_path: Path) -> None:
    """Where the settings are chosen, the largest batch is, too."""
    path = identity(DType.FP32, (None, 100_000), tmp_path / "wide.onnx")
    with Model.open(path, limits=within_memory(Limits(), 64 << 20)) as model:
        assert model.entry.scheduler.max_batch_size <= 10
        assert model.entry.scheduler.slab is not None


@pytest.mark.parametrize("limits", [{"queue_rows": 8}, None, 8])
def test_limits_are_limits(limits: object) -> None:
    """A dict of them is refused before the file is looked for."""
    with pytest.raises(ArgumentTypeError, match=r"^limits must be Limits\(...\), not a "):
        Model.open("m.onnx", limits=limits)


@pytest.mark.parametrize(
    "wrong", [{"queue_rows": "8"}, {"slab_bytes": 1.5}, {"engine_timeout_s": "30"}, {"warm_up_s": None}]
)
def test_limits_are_numbers(wrong: dict) -> None:
    """The message names the one that is none."""
    (name,) = wrong
    with pytest.raises(ArgumentTypeError, match=rf"^limits: {name} must be a (whole )?number, got "):
        Limits(**wrong)


@pytest.mark.parametrize("engine_timeout_s", [0, -1.0, math.nan, math.inf])
def test_an_engine_call_hangs_after_some_time(engine_timeout_s: float) -> None:
    """The watchdog computes with it."""
    with pytest.raises(UsageError, match="must be over 0 and finite"):
        Limits(engine_timeout_s=engine_timeout_s)
