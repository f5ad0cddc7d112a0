"""Converts scikit-learn models by skl2onnx, and XGBoost and LightGBM models by onnxmltools."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.converters.missing import missing_values_kept
from tailcut.converters.original import Original, first_line, need
from tailcut.engines.base import Arrays
from tailcut.errors import ModelFileError, UnsupportedError

_INSTALL = "'tailcut[convert]'"
_BOOSTERS = {  # onnxmltools' module, and the models that it converts
    "xgboost": ("XGBoost", ("XGBClassifier", "XGBRFClassifier", "XGBRegressor", "XGBRFRegressor")),
    "lightgbm": ("LightGbm", ("LGBMClassifier", "LGBMRegressor")),
}
_TREES = {"ai.onnx.ml": 3}  # operator set that all of skl2onnx's converters support


class Tabular:
    """A model whose input is rows of numbers.

    Args:
        what: the kind of model, for messages.
        features: the number of columns.
        convert: makes an ONNX model for this number of columns.
        answers: computes the model's own answers to rows, as many as the ONNX model has outputs.
        scores: whether the last answer is scores instead of probabilities; the ONNX model may have those of both
            classes where the model has only those of the second.
        advice: what to do where it cannot be converted.
    """

    def __init__(  # noqa: PLR0913  the last two by keyword
        self,
        what: str,
        features: int,
        convert: Callable[[int], Any],
        answers: Callable[[np.ndarray], Sequence[np.ndarray]],
        *,
        scores: bool = False,
        advice: str = "",
    ) -> None:
        self.what = what
        self._advice = advice
        self._features = features
        self._convert = convert
        self._answers = answers
        self.scores = scores

    def write(self, folder: Path) -> Path:
        """See `Original.write`."""
        path = folder / "model.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # caused by the converters
                model = self._convert(self._features)
        except Exception as error:  # noqa: BLE001  the converters' errors share no base
            reason = f"{self._advice} ({first_line(error)})" if self._advice else first_line(error)
            raise UnsupportedError(f"{self.what} cannot be converted: {reason}") from None
        path.write_bytes(model.SerializeToString())
        return path

    def answer(self, inputs: Arrays, outputs: Arrays) -> list[np.ndarray]:
        """See `Original.answer`."""
        [rows] = inputs.values()
        answers = [np.asarray(answer) for answer in self._answers(rows)]
        *_, last = outputs.values()
        if self.scores and answers[-1].ndim == 1 and last.shape[1:] == (2,):
            answers[-1] = np.stack([-answers[-1], answers[-1]], axis=1)
        return answers[-len(outputs) :] if len(outputs) < len(answers) else answers


def load_pickle(path: Path) -> Original:
    """Load the model in a pickle that the user trusts.

    Raises:
        ModelFileError: it cannot be read, or contains something else.
        UnsupportedError: a library is missing.
    """
    joblib = need("joblib", _INSTALL)
    try:
        model = joblib.load(path)
    except Exception as error:  # noqa: BLE001  whatever the code in it raises
        raise ModelFileError(f"{path}: cannot be unpickled: {first_line(error)}") from None
    library = type(model).__module__.partition(".")[0]
    what = f"a {library} {type(model).__name__}"
    if library == "xgboost":
        return _xgboost(model, what)
    if library == "lightgbm":
        return _lightgbm(model, what)
    if not hasattr(model, "n_features_in_"):
        raise ModelFileError(
            f"{path}: {what}: only fitted models of scikit-learn, XGBoost and LightGBM whose rows are numbers are "
            "converted; others by skl2onnx.to_onnx with the types of their columns"
        )
    return _sklearn(model, what)


def load_xgboost(path: Path) -> Original:
    """Load an XGBoost model in its own format (.json, .ubj).

    Raises:
        ModelFileError: it is not an XGBoost model.
        UnsupportedError: a library is missing.
    """
    xgboost = need("xgboost", "xgboost")
    model = xgboost.Booster()
    try:
        model.load_model(path)
    except xgboost.core.XGBoostError as error:
        raise ModelFileError(f"{path}: not an XGBoost model: {first_line(error)}") from None
    return _xgboost(model, "an XGBoost model")


def load_lightgbm(path: Path) -> Original:
    """Load a LightGBM model in its own format (.txt).

    Raises:
        ModelFileError: it is not a LightGBM model.
        UnsupportedError: a library is missing.
    """
    lightgbm = need("lightgbm", "lightgbm")
    try:
        model = lightgbm.Booster(model_file=str(path))
    except lightgbm.basic.LightGBMError as error:
        raise ModelFileError(f"{path}: not a LightGBM model: {first_line(error)}") from None
    return _lightgbm(model, "a LightGBM model")


def _sklearn(model: Any, what: str) -> Original:
    skl2onnx = need("skl2onnx", _INSTALL)
    types = need("skl2onnx.common.data_types", _INSTALL)
    base = need("sklearn.base", _INSTALL)
    model = getattr(model, "best_estimator_", model)  # the model that a hyperparameter search predicts with
    latest = need("skl2onnx.proto", _INSTALL).get_latest_tested_opset_version()
    classifier = base.is_classifier(model) and hasattr(model, "predict_proba")
    scores = hasattr(model, "decision_function") and not hasattr(model, "predict_proba")

    def convert(features: int) -> Any:
        _register_boosters(skl2onnx)
        options = {id(model): {"zipmap": False}} if classifier else {}
        last = model.steps[-1][1] if hasattr(model, "steps") else model
        if scores and _exchanges_scores(getattr(last, "best_estimator_", last)):
            options[id(last)] = {"raw_scores": True}
        kind = [("X", types.FloatTensorType([None, features]))]
        opsets = {"": latest, **_TREES}
        with missing_values_kept():
            onnx_model = skl2onnx.convert_sklearn(model, initial_types=kind, options=options, target_opset=opsets)
        if isinstance(getattr(model, "classes_", None), list):  # one for each of several labels
            classes = list(map(len, model.classes_))
            _spread(onnx_model.graph, classes)
            _cut(onnx_model.graph, classes)
        return onnx_model

    def answers(rows: np.ndarray) -> Sequence[np.ndarray]:
        if base.is_clusterer(model) and hasattr(model, "transform"):
            return [model.predict(rows), model.transform(rows)]
        return _asked(model, rows)

    return Tabular(what, model.n_features_in_, convert, answers, scores=scores, advice=_advice(model))


def _advice(model: Any) -> str:
    """The advice for a model that takes columns by name, or columns with text."""
    categories = [values for part in _parts(model) for values in getattr(part, "categories_", ())]
    if hasattr(model, "feature_names_in_") or any(np.asarray(values).dtype.kind in "OSU" for values in categories):
        return "it takes text or columns by their names: convert it in Python, with skl2onnx.to_onnx(model, table[:1])"
    return ""


def _parts(model: Any) -> Iterator[Any]:
    """Yield a model and its steps, at any depth."""
    yield model
    for _, part, *_ in (*getattr(model, "steps", ()), *getattr(model, "transformers_", ())):
        yield from _parts(part)


def _exchanges_scores(model: Any) -> bool:
    """Whether skl2onnx swaps the scores of two classes, unless an option prevents that."""
    if type(model).__name__ == "OneVsRestClassifier":
        return all(map(_exchanges_scores, model.estimators_))
    return type(model).__name__ in {"SVC", "NuSVC"} and len(model.classes_) == 2


def _register_boosters(skl2onnx: Any) -> None:
    """Register the models of XGBoost and LightGBM with skl2onnx, for pipelines, where these libraries are loaded."""
    shapes = need("skl2onnx.common.shape_calculator", _INSTALL)
    classes, values = shapes.calculate_linear_classifier_output_shapes, shapes.calculate_linear_regressor_output_shapes
    for library, (converter, models) in _BOOSTERS.items():
        if library not in sys.modules:  # then no step is one of its models
            continue
        module = need(f"onnxmltools.convert.{library}.operator_converters.{converter}", _INSTALL)
        for name in models:
            classifier = name.endswith("Classifier")
            skl2onnx.update_registered_converter(
                getattr(sys.modules[library], name),
                f"{library}.{name}",
                classes if classifier else values,
                getattr(module, f"convert_{library}"),
                options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifier else None,
            )


def _spread(graph: Any, classes: Sequence[int]) -> None:
    """Replace a list of probabilities by one output per label, because only tensors are served."""
    made = {name: node for node in graph.node for name in node.output if node.op_type == "SequenceConstruct"}
    for output in [output for output in graph.output if output.name in made]:
        node = made[output.name]
        graph.node.remove(node)
        graph.output.remove(output)
        for number, (tensor, size) in enumerate(zip(node.input, classes, strict=True)):
            name = f"{output.name}_{number}"
            graph.node.add(op_type="Identity", name=name, input=[tensor], output=[name])
            _add_output(graph, name, output.type.sequence_type.elem_type.tensor_type.elem_type, size)


def _cut(graph: Any, classes: Sequence[int]) -> None:
    """Replace a tensor with the probabilities of all labels, padded with zeros, by one output per label."""
    numpy_helper = need("onnx.numpy_helper", _INSTALL)

    def constant(name: str, value: object) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    for output in list(graph.output):
        dims = output.type.tensor_type.shape.dim
        if len(dims) != 3 or dims[0].dim_value != len(classes):
            continue
        graph.output.remove(output)
        for number, size in enumerate(classes):
            name = f"{output.name}_{number}"
            index, start, end, axis = (
                constant(f"{name}_{what}", value)
                for what, value in (("index", number), ("start", [0]), ("end", [size]), ("axis", [1]))
            )
            graph.node.add(op_type="Gather", name=f"{name}_all", input=[output.name, index], output=[f"{name}_all"])
            graph.node.add(op_type="Slice", name=name, input=[f"{name}_all", start, end, axis], output=[name])
            _add_output(graph, name, output.type.tensor_type.elem_type, size)


def _add_output(graph: Any, name: str, elem_type: int, columns: int) -> None:
    tensor_type = graph.output.add(name=name).type.tensor_type
    tensor_type.elem_type = elem_type
    tensor_type.shape.dim.add()
    tensor_type.shape.dim.add(dim_value=columns)


def _xgboost(model: Any, what: str) -> Original:
    tools = need("onnxmltools", _INSTALL)
    types = need("onnxmltools.convert.common.data_types", _INSTALL)
    xgboost = need("xgboost", "xgboost")
    own = isinstance(model, xgboost.Booster)
    features = model.num_features() if own else model.n_features_in_
    best = model.attr("best_iteration") if own else None
    if best is not None:  # after early stopping, the model predicts with the trees up to this one
        model = model[: int(best) + 1]
    booster = model if own else model.get_booster()
    booster.feature_names = None  # names of a table's columns, which neither the converter nor plain rows have
    # It predicts no probabilities, but its ONNX model has the sums by which the class is chosen.
    learner = json.loads(booster.save_config())["learner"]
    only_classes = own and learner["objective"]["name"] == "multi:softmax"
    kind = learner["gradient_booster"]["name"]
    if kind != "gbtree":
        raise UnsupportedError(f"{what} cannot be converted: its booster is {kind}, and onnxmltools knows gbtree only")

    def convert(count: int) -> Any:
        return tools.convert_xgboost(model, initial_types=[("X", types.FloatTensorType([None, count]))])

    def answers(rows: np.ndarray) -> Sequence[np.ndarray]:
        if not own:
            return _asked(model, rows)
        data = xgboost.DMatrix(rows)
        if only_classes:
            return [model.predict(data), model.predict(data, output_margin=True)]
        return _classes_and(model.predict(data))

    return Tabular(what, features, convert, answers)


def _lightgbm(model: Any, what: str) -> Original:
    tools = need("onnxmltools", _INSTALL)
    types = need("onnxmltools.convert.common.data_types", _INSTALL)
    own = not hasattr(model, "n_features_in_")

    def convert(count: int) -> Any:
        kind = [("X", types.FloatTensorType([None, count]))]
        return tools.convert_lightgbm(model, initial_types=kind, zipmap=False)

    def answers(rows: np.ndarray) -> Sequence[np.ndarray]:
        return _classes_and(model.predict(rows)) if own else _asked(model, rows)

    return Tabular(what, model.num_feature() if own else model.n_features_in_, convert, answers)


def _asked(model: Any, rows: np.ndarray) -> Sequence[np.ndarray]:
    """The labels with probabilities or scores, the predictions, or a transformer's output."""
    if hasattr(model, "predict_proba"):
        chances = model.predict_proba(rows)  # a list for several labels
        return [model.predict(rows), *(chances if isinstance(chances, list) else [chances])]
    if hasattr(model, "decision_function") and hasattr(model, "predict"):
        return [model.predict(rows), model.decision_function(rows)]
    return [model.predict(rows) if hasattr(model, "predict") else model.transform(rows)]


def _classes_and(values: np.ndarray) -> Sequence[np.ndarray]:
    """The classes that follow from a booster's probabilities, and the probabilities."""
    labels = values.argmax(axis=1) if values.ndim == 2 else (values > 0.5).astype(np.int64)
    return [labels, values]
