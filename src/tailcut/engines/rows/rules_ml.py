"""The domain ai.onnx.ml: classical models, which take `[rows, features]`."""

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, ZERO, Size, number, product
from tailcut.engines.rows.values import Mixes, RowAxis, Unclear, Value


def _table(operation: Operation) -> Value:
    """The input as `[rows, features]`; these operators take a tensor with one axis as one row."""
    value = operation.need(0)
    if value.rows is not None and (value.rank != 2 or value.rows.axis != 0):
        raise Mixes("takes the rows for features")
    return value


def _features(operation: Operation) -> Value:
    """The same rows and features; the maps of a ZipMap, one per row, are represented by its tensor."""
    value = _table(operation)
    return Value(value.sizes, value.rows)


def _elements(operation: Operation) -> Value:
    return Value(operation.need(0).sizes, operation.need(0).rows)


def _regressor(operation: Operation) -> Value:
    value = _table(operation)
    targets = operation.integer("targets", operation.integer("n_targets", 1))
    return Value((value.sizes[0], number(targets)), value.rows)


def _classifier(operation: Operation) -> list[Value]:
    value = _table(operation)
    labels = next((values for name, values in operation.attributes.items() if name.startswith("classlabels_")), ())
    # A support vector machine without probabilities returns a score for each pair of classes.
    paired = operation.kind == "SVMClassifier" and "prob_a" not in operation.attributes
    classes = operation.unknown(1) if paired or len(labels) < 2 else number(len(labels))
    return [Value((value.sizes[0],), value.rows), Value((value.sizes[0], classes), value.rows)]


def _ensemble(operation: Operation) -> Value:
    value = _table(operation)
    return Value((value.sizes[0], number(operation.integer("n_targets", 1))), value.rows)


def _one_hot(operation: Operation) -> Value:
    value = operation.need(0)
    names = operation.attributes.get("cats_int64s") or operation.attributes.get("cats_strings") or ()
    return Value((*value.sizes, number(len(names))), value.rows)


def _feature_vectorizer(operation: Operation) -> Value:
    values = operation.given
    row_axes = {value.rows for value in values}
    if row_axes == {None}:
        raise Unclear("joins features")
    if len(row_axes) > 1:
        raise Mixes("works for a fixed number of rows only")
    rows = row_axes.pop()
    if rows is None or rows.axis != 0 or any(value.rank != 2 for value in values):
        raise Mixes("takes the rows for features")
    width: Size = sum((value.sizes[1] for value in values), start=ZERO)
    return Value((values[0].sizes[0], width), rows)


def _array_feature_extractor(operation: Operation) -> Value:
    """Picks the same indices along the last axis for all rows."""
    value, places = operation.need(0), operation.need(1)
    leading = value.sizes[:-1] if value.rank > 1 else (ONE,)
    shape = (*leading, product(places.sizes))  # onnxruntime reads the indices in row-major order, whatever their shape
    if places.rows is not None:
        if value.rows is not None:
            raise Mixes("picks from each row what other rows name")
        return Value(shape, RowAxis(len(leading), *places.groups))
    if value.rows is not None and value.rows.axis == axis_of(-1, value.rank):
        raise Mixes("picks rows by number")
    return Value(shape, value.rows)


RULES: Table = {
    **{kind: Rule(_features) for kind in ("Scaler", "Imputer", "Normalizer", "ZipMap")},
    **{kind: Rule(_elements) for kind in ("Binarizer", "LabelEncoder", "CategoryMapper")},
    "LinearRegressor": Rule(_regressor),
    "SVMRegressor": Rule(_regressor),
    "TreeEnsembleRegressor": Rule(_regressor),
    "TreeEnsemble": Rule(_ensemble),
    **{kind: Rule(_classifier) for kind in ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")},
    "OneHotEncoder": Rule(_one_hot),
    "FeatureVectorizer": Rule(_feature_vectorizer),
    "ArrayFeatureExtractor": Rule(_array_feature_extractor),
}
