"""Random operators, text, and parts of models that are used in training only."""

from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.sizes import number
from tailcut.engines.rows.values import Foreign, Mixes, Unclear, Value


def _random(_: Operation) -> Value:
    raise Mixes("makes the model random: its answers differ from call to call")


def _dropout(operation: Operation) -> list[Value]:
    """Passes its input on, except in training."""
    value, training = operation.need(0), operation.flag(2)
    if operation.opset < 7 and not operation.integer("is_test", 0):
        raise Foreign("may be in training mode")
    if training is None:
        raise Foreign("may be in training mode")
    if training:
        _random(operation)
    return [value, Value(value.shape, value.rows)]


def _string_normalizer(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None and operation.attributes.get("stopwords"):
        raise Mixes("drops words, and rows with them")
    return value


def _tf_idf(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None and (value.rank != 2 or value.rows.axis != 0):
        raise Mixes("counts words over all rows")
    length = number(max(operation.attributes["ngram_indexes"]) + 1)
    return Value((*value.sizes[:-1], length), value.rows)


def _string_split(operation: Operation) -> Value:
    if any(value.rows for value in operation.given):
        raise Mixes("makes every row as long as the longest")
    raise Unclear("splits text")


_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")

RULES: Table = {
    **{kind: Rule(_random, counts=True, numbered=True) for kind in _RANDOM},
    "Dropout": Rule(_dropout),
    "StringNormalizer": Rule(_string_normalizer),
    "TfIdfVectorizer": Rule(_tf_idf),
    "StringSplit": Rule(_string_split),
}
