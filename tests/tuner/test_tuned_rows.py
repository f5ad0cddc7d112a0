"""What a tune offers a model, by whether its rows may be batched, and what every profile that it tries says of it."""

from pathlib import Path

import onnx
import pytest
from tests.cases import CASES
from tests.engines.models import perceptron

from tailcut.errors import UnsupportedError
from tailcut.runtime.rows import RowsSetting
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.space import BASELINE, changed, serving_choices


def space(path: Path, rows: RowsSetting = "auto") -> ModelSpace:
    return ModelSpace(open_session(TuneRequest(path, budget_s=10.0, rows=rows), lambda event: None))


def batches_offered(item: ModelSpace) -> bool:
    return any(settings.batching.max_batch_size > 1 for settings in serving_choices(item.facts, BASELINE.engine))


def test_batches_are_offered_where_rows_are_independent(tmp_path: Path) -> None:
    """And where they are not, neither batches nor rows of a slab."""
    path = perceptron([8, 3], tmp_path / "m.onnx")
    assert batches_offered(space(path))
    assert not batches_offered(space(path, "dependent"))
    onnx.save(CASES["running_sum"].model, path)
    dependent = space(path)
    assert not batches_offered(dependent)
    assert dependent._session.learned.rows.rows == "dependent"
    assert "CumSum" in dependent._session.learned.rows.reason
    assert batches_offered(space(path, "independent"))


def test_the_users_word_is_in_every_profile(tmp_path: Path) -> None:
    """In the baseline as in the candidates, so that what is measured is what was asked for."""
    path = perceptron([8, 3], tmp_path / "m.onnx")
    item = space(path, "dependent")
    assert item._session.base.batching.rows == "dependent"
    onnx.save(CASES["mean_of_all"].model, path)
    with pytest.raises(UnsupportedError, match="cannot be batched"):
        space(path, "independent")


def test_another_engine_is_asked_for_its_own_rows(tmp_path: Path) -> None:
    """Quantised to int8 the same model has dependent rows, and the result says so."""
    item = space(perceptron([64, 32], tmp_path / "m.onnx"))
    settings = changed(item._session.with_wire("binary"), engine={"precision": "int8"})
    try:
        rows = item.rows_of(settings)
    finally:
        item._session.servers.keep()
    assert (rows.rows, rows.batched) == ("dependent", False)
    assert "DynamicQuantizeLinear" in rows.reason
    assert item.rows_of(item._session.with_wire("binary")).batched is True
