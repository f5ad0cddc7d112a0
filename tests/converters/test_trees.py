"""Converting scikit-learn, XGBoost and LightGBM models; each test runs where their libraries are installed."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailcut.converters import convert
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import UnsupportedError

ROWS = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
CLASSES = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int) + (ROWS[:, 2] > 1)
VALUES = ROWS @ np.array([1.0, -2.0, 0.5, 3.0])


def fitted(kind: str) -> Any:
    if kind == "logistic":
        return pytest.importorskip("sklearn.linear_model").LogisticRegression().fit(ROWS, CLASSES)
    if kind == "forest":
        return pytest.importorskip("sklearn.ensemble").RandomForestRegressor(5, random_state=0).fit(ROWS, VALUES)
    if kind == "pipeline":
        scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler()
        network = pytest.importorskip("sklearn.neural_network").MLPClassifier((8,), max_iter=20)
        return pytest.importorskip("sklearn.pipeline").make_pipeline(scaler, network).fit(ROWS, CLASSES)
    if kind == "xgboost":
        return pytest.importorskip("xgboost").XGBClassifier(n_estimators=5).fit(ROWS, CLASSES)
    return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=5, verbose=-1).fit(ROWS, CLASSES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["logistic", "forest", "pipeline", "xgboost", "lightgbm"])
def test_a_trusted_pickle_becomes_onnx(tmp_path: Path, kind: str) -> None:
    """The ONNX model answers as the original does, and is loaded as any other."""
    pytest.importorskip("onnxmltools")
    pytest.importorskip("skl2onnx")
    model = fitted(kind)
    pytest.importorskip("joblib").dump(model, tmp_path / "m.joblib")
    result = convert(tmp_path / "m.joblib", tmp_path / "m.onnx", trust=True)
    assert result.right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    answer = next(iter(engine.run({engine.spec.inputs[0].name: ROWS}).values()))
    assert np.mean(np.abs(answer.reshape(-1) - model.predict(ROWS)) < 1e-3) > 0.98
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["m.joblib", "m.json"])
def test_xgboost_with_names_of_columns(tmp_path: Path, file: str) -> None:
    """As after training on a table: rows of numbers are in the order of its columns."""
    pytest.importorskip("onnxmltools")
    xgboost = pytest.importorskip("xgboost")
    model = fitted("xgboost")
    expected = model.predict(ROWS)
    model.get_booster().feature_names = ["age", "income", "past due", "f0"]
    if file == "m.json":
        model.save_model(tmp_path / file)
        assert xgboost.Booster(model_file=tmp_path / file).feature_names[0] == "age"
    else:
        pytest.importorskip("joblib").dump(model, tmp_path / file)
    assert convert(tmp_path / file, tmp_path / "m.onnx", trust=True).right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    answer = next(iter(engine.run({engine.spec.inputs[0].name: ROWS}).values()))
    assert np.mean(answer.reshape(-1) == expected) > 0.98
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("clusters", ["label", "scores"]),
        ("outliers", ["label", "scores"]),
        ("mixture", ["label", "probabilities"]),
        ("several labels", ["label", "probabilities_0", "probabilities_1"]),
        ("forest of several labels", ["label", "probabilities_0", "probabilities_1"]),
    ],
)
def test_models_with_scores_of_their_own(tmp_path: Path, kind: str, outputs: list[str]) -> None:
    """Distances to clusters, how far a row lies outside, and the probabilities of each of several labels."""
    pytest.importorskip("skl2onnx")
    joblib = pytest.importorskip("joblib")
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    several = np.stack([CLASSES, CLASSES > 0], axis=1)
    model = {
        "clusters": lambda: pytest.importorskip("sklearn.cluster").KMeans(3, n_init=1, random_state=0).fit(ROWS),
        "outliers": lambda: pytest.importorskip("sklearn.ensemble").IsolationForest(n_estimators=5).fit(ROWS),
        "mixture": lambda: pytest.importorskip("sklearn.mixture").GaussianMixture(2, random_state=0).fit(ROWS),
        "several labels": lambda: (
            pytest.importorskip("sklearn.multioutput").MultiOutputClassifier(linear).fit(ROWS, several)
        ),
        "forest of several labels": lambda: (
            pytest.importorskip("sklearn.ensemble").RandomForestClassifier(5, random_state=0).fit(ROWS, several)
        ),
    }[kind]()
    joblib.dump(model, tmp_path / "m.pkl")
    assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    assert list(engine.spec.output_names) == outputs
    assert engine.spec.batchable
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_a_pipeline_that_ends_in_trees_of_another_library(tmp_path: Path, library: str, kind: str) -> None:
    """skl2onnx converts the scaler, onnxmltools the trees."""
    pytest.importorskip("onnxmltools")
    pipeline, scaler = (pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "preprocessing"))
    prefix = {"xgboost": "XGB", "lightgbm": "LGBM"}[library]
    trees = getattr(pytest.importorskip(library), prefix + kind)(n_estimators=5)
    # Other rows than those of the comparison, at which XGBoost has its thresholds.
    rows = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)
    model = pipeline.make_pipeline(scaler.StandardScaler(), trees)
    model.fit(rows, rows[:, 0] > 0 if kind == "Classifier" else rows[:, 0])
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    outputs = ("label", "probabilities") if kind == "Classifier" else ("variable",)
    assert engine.spec.output_names == outputs
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["perceptron", "descent", "vectors", "linear vectors", "pipeline", "three classes"])
def test_scores_of_two_classes(tmp_path: Path, kind: str) -> None:
    """scikit-learn has those of the second class alone, ONNX those of both or of one, by the kind of the model."""
    pytest.importorskip("skl2onnx")
    linear, vectors = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.svm")
    pipeline, scaler = (pytest.importorskip(f"sklearn.{name}") for name in ("pipeline", "preprocessing"))
    model = {
        "perceptron": linear.Perceptron,
        "descent": linear.SGDClassifier,
        "vectors": vectors.NuSVC,
        "pipeline": lambda: pipeline.make_pipeline(scaler.StandardScaler(), vectors.SVC()),
        "linear vectors": vectors.LinearSVC,
        "three classes": linear.SGDClassifier,
    }[kind]().fit(ROWS, CLASSES if kind == "three classes" else (CLASSES > 0).astype(int))
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    result = convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True)
    assert result.right
    assert result.distance < 1e-5
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    label, scores = engine.run({engine.spec.inputs[0].name: ROWS}).values()
    chosen = scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0] > 0
    assert [str(item) for item in label.reshape(-1)] == [str(model.classes_[item]) for item in chosen.astype(int)]
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["m.json", "m.ubj", "m.txt"])
def test_their_own_formats_need_no_trust(tmp_path: Path, file: str) -> None:
    """Nothing is unpickled there."""
    pytest.importorskip("onnxmltools")
    if file == "m.txt":
        fitted("lightgbm").booster_.save_model(tmp_path / file)
    else:
        fitted("xgboost").save_model(tmp_path / file)
    assert convert(tmp_path / file, tmp_path / "m.onnx").right


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("objective", "outputs"),
    [("multi:softmax", 2), ("multi:softprob", 2), ("binary:logistic", 2), ("reg:squarederror", 1)],
)
def test_what_a_booster_predicts_is_what_its_objective_says(tmp_path: Path, objective: str, outputs: int) -> None:
    """Classes and the sums behind them, probabilities, or a value: each as its ONNX model has it."""
    pytest.importorskip("onnxmltools")
    xgboost = pytest.importorskip("xgboost")
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    labels = {"multi": CLASSES, "binary": CLASSES > 0, "reg": VALUES}[objective.partition(":")[0]]
    data = xgboost.DMatrix(ROWS, labels.astype(np.float32))
    xgboost.train({"objective": objective, **classes}, data, 5).save_model(tmp_path / "m.json")
    assert convert(tmp_path / "m.json", tmp_path / "m.onnx").right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    assert len(engine.spec.outputs) == outputs
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("booster", ["gblinear", "dart"])
@pytest.mark.parametrize("file", ["m.json", "m.pkl"])
def test_boosters_that_are_not_converted_are_named(tmp_path: Path, booster: str, file: str) -> None:
    """onnxmltools looks for the trees of a gbtree."""
    pytest.importorskip("onnxmltools")
    model = pytest.importorskip("xgboost").XGBRegressor(n_estimators=3, booster=booster).fit(ROWS, VALUES)
    if file == "m.pkl":
        pytest.importorskip("joblib").dump(model, tmp_path / file)
    else:
        model.save_model(tmp_path / file)
    with pytest.raises(UnsupportedError, match=f"cannot be converted: its booster is {booster}, .* gbtree only"):
        convert(tmp_path / file, tmp_path / "m.onnx", trust=True)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the original changes between the conversion and the comparison."""
    pytest.importorskip("skl2onnx")
    joblib = pytest.importorskip("joblib")
    model = fitted("logistic")
    joblib.dump(model, tmp_path / "m.pkl")
    monkeypatch.setattr(type(model), "predict_proba", lambda self, rows: np.full((len(rows), 3), 1 / 3))
    result = convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True)
    assert not result.right
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_booster_that_stopped_early_predicts_with_its_best_trees(tmp_path: Path) -> None:
    """In its own format as in a pickle."""
    pytest.importorskip("onnxmltools")
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(early_stopping_rounds=5, n_estimators=200, n_jobs=1)
    noise = np.random.default_rng(1).integers(0, 2, len(ROWS))
    model.fit(ROWS, noise, eval_set=[(ROWS + 1, 1 - noise)], verbose=False)
    model.save_model(tmp_path / "m.json")
    assert convert(tmp_path / "m.json", tmp_path / "m.onnx").right
    engine = open_engine(tmp_path / "m.onnx", EngineOptions(threads=1))
    *_, values = engine.run({engine.spec.inputs[0].name: ROWS}).values()
    engine.close()
    np.testing.assert_allclose(values, model.predict_proba(ROWS), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["alone", "of a pipeline", "in a pipeline", "one for each class"])
def test_scores_of_two_classes_under_another_model(tmp_path: Path, kind: str) -> None:
    """A search, and one model for each class."""
    pytest.importorskip("skl2onnx")
    vectors, search = pytest.importorskip("sklearn.svm"), pytest.importorskip("sklearn.model_selection").GridSearchCV
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    join = pytest.importorskip("sklearn.pipeline").make_pipeline
    each = pytest.importorskip("sklearn.multiclass").OneVsRestClassifier
    model = {
        "alone": lambda: search(vectors.SVC(), {"C": [1, 2]}),
        "of a pipeline": lambda: search(join(scaler, vectors.SVC()), {"svc__C": [1, 2]}),
        "in a pipeline": lambda: join(scaler, search(vectors.SVC(), {"C": [1, 2]})),
        "one for each class": lambda: search(each(vectors.SVC()), {"estimator__C": [1, 2]}),
    }[kind]().fit(ROWS, CLASSES if kind == "one for each class" else (CLASSES > 0).astype(int))
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right


def test_warnings_of_what_is_to_change_in_a_library_are_not_shown(tmp_path: Path) -> None:
    """They are for those who write the converters."""
    pytest.importorskip("skl2onnx")
    vectors = pytest.importorskip("sklearn.svm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = vectors.SVC(probability=True).fit(ROWS, CLASSES)
    pytest.importorskip("joblib").dump(model, tmp_path / "m.pkl")
    with warnings.catch_warnings(record=True, action="always", category=FutureWarning) as shown:
        assert convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True).right
    assert shown == []


def test_a_table_with_text_says_how_it_is_converted(tmp_path: Path) -> None:
    """A row of numbers is no row of it; skl2onnx alone says that a literal is invalid."""
    pytest.importorskip("skl2onnx")
    encoder = pytest.importorskip("sklearn.preprocessing").OneHotEncoder()
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    columns = pytest.importorskip("sklearn.compose").make_column_transformer((encoder, [0]))
    table = np.array([["red"], ["green"]] * 4, object)
    steps = pytest.importorskip("sklearn.pipeline").make_pipeline(columns, linear).fit(table, [0, 1] * 4)
    pytest.importorskip("joblib").dump(steps, tmp_path / "m.pkl")
    with pytest.raises(UnsupportedError, match=r"cannot be converted: .*skl2onnx.to_onnx\(model, table"):
        convert(tmp_path / "m.pkl", tmp_path / "m.onnx", trust=True)
