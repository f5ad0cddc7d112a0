"""Rows around the thresholds of trees; each test runs where its libraries are installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.converters import convert
from tailcut.converters.thresholds import thresholds_of

ROWS = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
LABELS = ROWS[:, 0] + ROWS[:, 1] > 0


def converted(folder: Path, model: Any) -> tuple[str, ...]:
    """The kinds of rows that were compared."""
    pytest.importorskip("joblib").dump(model, folder / "m.pkl")
    return convert(folder / "m.pkl", folder / "m.onnx", trust=True).comparison.kinds


@pytest.mark.filterwarnings("ignore")
def test_trees_are_asked_around_their_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows near 0 all fall on one side of thresholds far from it."""
    pytest.importorskip("skl2onnx")
    forest = pytest.importorskip("sklearn.ensemble").RandomForestRegressor(5, random_state=0)
    model = forest.fit(ROWS * 100 + 5000, LABELS)
    assert "around the thresholds of its trees" in converted(tmp_path, model)
    own = type(model).predict
    monkeypatch.setattr(type(model), "predict", lambda self, rows: own(self, rows) + (rows[:, 0] > 5000))
    assert converted(tmp_path, model) == ("around the thresholds of its trees",)


@pytest.mark.filterwarnings("ignore")
def test_the_thresholds_are_those_of_the_columns(tmp_path: Path) -> None:
    """None where a scaler comes before the trees."""
    pytest.importorskip("skl2onnx")
    pipeline, scaler = (pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "preprocessing"))
    tree = pytest.importorskip("sklearn.tree").DecisionTreeRegressor(max_depth=1)
    converted(tmp_path, tree.fit(ROWS, ROWS[:, 2] > 0.5))
    [(column, limits)] = thresholds_of(tmp_path / "m.onnx").items()
    assert column == 2
    assert limits == pytest.approx([0.5], abs=0.2)
    model = pipeline.make_pipeline(scaler.StandardScaler(), tree).fit(ROWS, LABELS)
    assert "around the thresholds of its trees" not in converted(tmp_path, model)
    assert thresholds_of(tmp_path / "m.onnx") == {}
