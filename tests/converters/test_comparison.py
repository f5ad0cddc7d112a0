"""What a model and its ONNX model are asked; each test runs where its libraries are installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.cli.main import main
from tailcut.converters import Conversion, convert
from tailcut.engines import EngineOptions, open_engine

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((300, 4)).astype(np.float32)
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)
GAPS = np.where(RANDOM.random(ROWS.shape) < 0.15, np.nan, ROWS).astype(np.float32)
CODED = np.column_stack([ROWS[:, :3], RANDOM.integers(0, 6, len(ROWS))]).astype(np.float32)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _converters() -> None:
    for library in ("onnxmltools", "skl2onnx", "joblib"):
        pytest.importorskip(library)


def converted(folder: Path, model: Any, rows: np.ndarray | None = None) -> Conversion:
    pytest.importorskip("joblib").dump(model, folder / "m.pkl")
    requests = None if rows is None else lambda spec: [{spec.inputs[0].name: row[np.newaxis]} for row in rows]
    return convert(folder / "m.pkl", folder / "m.onnx", trust=True, requests=requests)


def answer(folder: Path, rows: np.ndarray) -> list[np.ndarray]:
    engine = open_engine(folder / "m.onnx", EngineOptions(threads=1))
    outputs = list(engine.run({engine.spec.inputs[0].name: rows}).values())
    engine.close()
    return outputs


def test_missing_values_that_are_answered_otherwise_are_refused(tmp_path: Path) -> None:
    """The column that says which values were missing gets lost."""
    pipeline, impute = (pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "impute"))
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    model = pipeline.make_pipeline(impute.SimpleImputer(add_indicator=True), linear)
    conversion = converted(tmp_path, model.fit(GAPS, (np.isnan(GAPS[:, 0]) | (LABELS > 0)).astype(int)))
    assert not conversion.right
    assert not (tmp_path / "m.onnx").exists()


def test_missing_values_of_one_column_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original takes them there, and refuses them elsewhere."""
    pipeline, impute, compose = (pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "impute", "compose"))
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    columns = compose.ColumnTransformer([("imputed", impute.SimpleImputer(), [0])], remainder="passthrough")
    rows = np.column_stack([GAPS[:, 0], ROWS[:, 1:]])
    model = pipeline.make_pipeline(columns, linear).fit(rows, LABELS)
    assert "with missing values" in converted(tmp_path, model).comparison.kinds
    monkeypatch.setattr(impute.SimpleImputer, "transform", lambda self, rows: np.nan_to_num(rows, nan=7))
    assert converted(tmp_path, model).comparison.kinds == ("with missing values",)


def test_zeros_that_are_answered_otherwise_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, which says what rows it is about; as is a comparison of rows of one's own."""
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, zero_as_missing=True)
    model.fit(np.nan_to_num(GAPS), (np.isnan(GAPS[:, 0]) | (LABELS > 0)).astype(int))
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    command = ["convert", str(tmp_path / "m.pkl"), str(tmp_path / "m.onnx"), "--trust"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "over 64 rows with zeros; --data FILE compares your own rows instead" in err
    for rows, status in ((np.nan_to_num(GAPS), 1), (ROWS, 0)):
        np.savez(tmp_path / "rows.npz", X=rows)
        assert main([*command, "--data", str(tmp_path / "rows.npz")]) == status
    out, err = capsys.readouterr()
    assert "300 rows of your own" in out
    assert "--data" not in err


def category_models() -> dict[str, Any]:
    encoder = pytest.importorskip("sklearn.preprocessing").OneHotEncoder(handle_unknown="ignore")
    compose, pipeline = (pytest.importorskip(f"sklearn.{name}") for name in ("compose", "pipeline"))
    columns = compose.ColumnTransformer([("coded", encoder, [3])], remainder="passthrough")
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    lightgbm = pytest.importorskip("lightgbm")
    settings = {"n_estimators": 10, "verbose": -1}
    kinds = ((CODED[:, 3] % 2 == 0) ^ (LABELS > 0)).astype(int)
    return {
        "encoder": pipeline.make_pipeline(columns, linear).fit(CODED, kinds),
        "classifier": lightgbm.LGBMClassifier(**settings).fit(CODED, kinds, categorical_feature=[3]),
        "regressor": lightgbm.LGBMRegressor(**settings).fit(CODED, kinds * ROWS[:, 0], categorical_feature=[3]),
    }


@pytest.mark.parametrize("kind", ["encoder", "classifier", "regressor"])
def test_columns_of_categories_are_compared_on_whole_numbers(tmp_path: Path, kind: str) -> None:
    """A category such as 0.37 is treated as different unknown ones."""
    model = category_models()[kind]
    conversion = converted(tmp_path, model)
    assert conversion.right
    assert conversion.comparison.kinds[0] == "with whole numbers in column 3 counted from 0"
    *_, values = answer(tmp_path, CODED)
    expected = model.predict(CODED) if kind == "regressor" else model.predict_proba(CODED)
    np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=1e-4)


def test_rows_of_ones_own_decide(tmp_path: Path) -> None:
    """With zeros and missing values in more places of the columns that have some."""
    model = category_models()["classifier"]
    rows = CODED.copy()
    rows[0, 1] = np.nan
    conversion = converted(tmp_path, model, rows)
    assert conversion.right
    kinds = ("of your own", "of your own with zeros", "of your own with missing values")
    assert conversion.comparison.kinds == kinds
    halves = rows.copy()
    halves[:, 3] += 0.37
    assert not converted(tmp_path, model, halves).right


def test_data_that_do_not_fit_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As for `tailcut tune`."""
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression().fit(ROWS, LABELS)
    pytest.importorskip("joblib").dump(linear, tmp_path / "m.pkl")
    np.savez(tmp_path / "other.npz", Y=ROWS)
    for data, words in (
        ("nowhere.npz", "no such data file"),
        ("other.npz", "the data file has no array 'X': it has Y"),
    ):
        command = ["convert", str(tmp_path / "m.pkl"), str(tmp_path / "m.onnx"), "--trust"]
        assert main([*command, "--data", str(tmp_path / data)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
    assert not (tmp_path / "m.onnx").exists()


def outliers() -> Any:
    """A model whose score of one of the made-up rows is so close to 0 that float32 has another sign."""
    pipeline, scaler = (pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "preprocessing"))
    model = pipeline.make_pipeline(scaler.StandardScaler(), pytest.importorskip("sklearn.svm").OneClassSVM())
    return model.fit(np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32))


def test_a_label_that_rounding_decides_does_not_count(tmp_path: Path) -> None:
    """The score says that it is one."""
    assert converted(tmp_path, outliers()).right


def test_labels_that_rounding_does_not_decide_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of outliers exchanged, with the same scores."""
    model = outliers()
    monkeypatch.setattr(type(model), "predict", lambda self, rows: -np.sign(self.decision_function(rows)))
    conversion = converted(tmp_path, model)
    assert not conversion.right
    assert conversion.comparison.distance > 0.9


@pytest.mark.parametrize("kind", ["refused by both", "refused by the original"])
def test_a_model_that_made_up_rows_do_not_fit_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Which it is converted with."""
    bayes, coded = (pytest.importorskip(f"sklearn.{name}") for name in ("naive_bayes", "preprocessing"))
    rows = RANDOM.integers(0, 4, ROWS.shape).astype(np.float32)
    model = bayes.CategoricalNB().fit(rows, LABELS) if kind == "refused by both" else coded.OrdinalEncoder().fit(rows)
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    np.savez(tmp_path / "rows.npz", X=rows)
    command = ["convert", str(tmp_path / "m.pkl"), str(tmp_path / "m.onnx"), "--trust"]
    assert main(command) == 2
    _, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert err.endswith("; generated rows do not fit it: give your own with --data FILE\n")
    assert main([*command, "--data", str(tmp_path / "rows.npz")]) == 0


def test_outputs_of_another_shape_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No rows of one's own change that."""
    network = pytest.importorskip("sklearn.neural_network").MLPClassifier((4,), max_iter=5)
    model = network.fit(ROWS, np.stack([LABELS, ROWS[:, 2] > 0], axis=1).astype(int))
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert main(["convert", str(tmp_path / "m.pkl"), str(tmp_path / "m.onnx"), "--trust"]) == 2
    _, err = capsys.readouterr()
    assert "output 'probabilities' has the shape [64, 4], where the original's has [64, 2]: not written" in err
    assert "--data" not in err
    assert not (tmp_path / "m.onnx").exists()
