"""Where trees of scikit-learn send missing values; each test runs where its libraries are installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.converters import convert
from tailcut.engines import EngineOptions, open_engine

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((200, 4)).astype(np.float32)
GAPS = np.where(RANDOM.random(ROWS.shape) < 0.15, np.nan, ROWS).astype(np.float32)
CLASSES = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int) + (ROWS[:, 2] > 1)


def answer(folder: Path, rows: np.ndarray) -> list[np.ndarray]:
    engine = open_engine(folder / "m.onnx", EngineOptions(threads=1))
    outputs = list(engine.run({engine.spec.inputs[0].name: rows}).values())
    engine.close()
    return outputs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [ROWS, GAPS], ids=["whole", "with gaps"])
@pytest.mark.parametrize(
    "kind", ["DecisionTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier", "RandomForestRegressor"]
)
def test_trees_send_missing_values_where_they_learned(tmp_path: Path, kind: str, rows: np.ndarray) -> None:
    """scikit-learn's trees take them also where they were fitted without."""
    pytest.importorskip("skl2onnx")
    module = pytest.importorskip("sklearn.tree" if kind.startswith("Decision") else "sklearn.ensemble")
    settings = {} if kind.startswith("Decision") else {"n_estimators": 15}
    model = getattr(module, kind)(random_state=0, **settings).fit(rows, CLASSES)
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    *_, values = answer(tmp_path, GAPS)
    expected = model.predict_proba(GAPS) if kind.endswith("Classifier") else model.predict(GAPS)
    np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_tree_of_several_labels_sends_missing_values_where_it_learned(tmp_path: Path) -> None:
    """skl2onnx writes it in another way."""
    pytest.importorskip("skl2onnx")
    tree = pytest.importorskip("sklearn.tree").DecisionTreeClassifier(random_state=0)
    model = tree.fit(GAPS, np.stack([CLASSES > 0, ROWS[:, 2] > 0], axis=1).astype(int))
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    labels, *_ = answer(tmp_path, GAPS)
    assert np.mean(labels.reshape(-1, 2) != model.predict(GAPS)) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [ROWS, GAPS], ids=["whole", "with gaps"])
@pytest.mark.parametrize("kind", ["binary", "three classes", "regression"])
def test_histogram_based_trees_are_converted(tmp_path: Path, kind: str, rows: np.ndarray) -> None:
    """skl2onnx writes bools where ONNX has integers."""
    pytest.importorskip("skl2onnx")
    ensemble = pytest.importorskip("sklearn.ensemble")
    model: Any = ensemble.HistGradientBoostingClassifier(max_iter=5)
    expected: np.ndarray
    if kind == "regression":
        model = ensemble.HistGradientBoostingRegressor(max_iter=5).fit(rows, ROWS @ np.arange(4))
        expected = model.predict(GAPS)
    else:
        model.fit(rows, CLASSES if kind == "three classes" else CLASSES > 0)
        expected = model.predict_proba(GAPS)
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    *_, values = answer(tmp_path, GAPS)
    np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"loss": "poisson"}, {"categorical_features": [0]}])
def test_histogram_based_trees_that_come_out_otherwise_are_not_written(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """skl2onnx leaves out the link function and the categories."""
    pytest.importorskip("skl2onnx")
    ensemble = pytest.importorskip("sklearn.ensemble")
    rows = np.column_stack([RANDOM.integers(0, 5, len(ROWS)), ROWS[:, 1:]]).astype(np.float32)
    values = 3.0 * np.isin(rows[:, 0], [1, 3]) + np.abs(rows[:, 1])
    model = ensemble.HistGradientBoostingRegressor(max_iter=5, **settings).fit(rows, values)
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert not convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    assert not (tmp_path / "m.onnx").exists()
