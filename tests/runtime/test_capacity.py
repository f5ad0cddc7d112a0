"""How much a model computes and holds at once follows from its settings."""

from dataclasses import replace

import pytest

from tailcut.engines import EngineOptions
from tailcut.runtime.capacity import instances_of, slab_for
from tailcut.runtime.limits import Limits
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec

X = TensorSpec("x", DType.FP32, (None, 4))


@pytest.mark.parametrize(
    ("batching", "instances"),
    [
        ({}, (3,)),
        ({"dispatch": "inline"}, (1,)),
        ({"second": SecondEngine(engine=EngineOptions(instances=2), use="route")}, (3, 2)),
        ({"second": SecondEngine(engine=EngineOptions(instances=2), use="fallback")}, (3,)),
    ],
)
def test_instances_of_each_engine_that_is_given_batches(batching: dict, instances: tuple[int, ...]) -> None:
    """The loop computes one batch at a time, and a fallback gets none of its own."""
    assert instances_of(Settings(engine=EngineOptions(instances=3), batching=BatchingSettings(**batching))) == instances


@pytest.mark.parametrize(
    ("bind", "shape", "rows", "bound"),
    [
        (True, (None, 4), Rows.INDEPENDENT, True),
        (False, (None, 4), Rows.INDEPENDENT, False),
        (True, (None, None), Rows.INDEPENDENT, False),
        (True, (None, 4), Rows.DEPENDENT, False),
    ],
)
def test_rows_of_a_fixed_size_get_a_slab(bind: bool, shape: tuple, rows: Rows, bound: bool) -> None:
    """Of as many rows as may queue, in whole batches."""
    tensor = TensorSpec("x", DType.FP32, shape)
    settings = Settings(batching=BatchingSettings(bind=bind))
    slab = slab_for(ModelSpec("m", (tensor,), (replace(tensor, name="y"),), rows), settings, 3, Limits(queue_rows=10))
    assert (slab is not None) is bound
    if slab is not None:
        assert (slab.rows, slab.block) == (12, 3)
