"""Random operators, and operators that are used in training only."""

from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.values import Foreign, Mixes, Value


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


_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")

RULES: Table = {
    **{kind: Rule(_random, counts=True, numbered=True) for kind in _RANDOM},
    "Dropout": Rule(_dropout),
}
