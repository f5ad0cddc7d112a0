"""Quantisation with fixed scales, and with scales computed from the data (one for the whole batch)."""

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE
from tailcut.engines.rows.values import Mixes, Unclear, Value


def dynamic(operation: Operation) -> Value:
    """The scale follows from the smallest and the largest element of all rows."""
    if any(value.rows for value in operation.given):
        raise Mixes("takes one scale over all rows")
    raise Unclear("quantises")


def _dynamic_linear(operation: Operation) -> list[Value]:
    """The quantised tensor, its scale and its zero point; weights may be quantised in the graph."""
    value = operation.need(0)
    return [dynamic(operation)] if value.rows is not None else [Value(value.sizes), Value(()), Value(())]


def quantized(operation: Operation) -> Value:
    """x, scale, zero point: one scale for the tensor, or one for each index of an axis other than the rows'."""
    value, scale = operation.need(0), operation.need(1)
    if any(given.rows is not None for given in operation.given[1:]):
        raise Unclear("takes a scale from the rows")
    if value.rows is not None and not (scale.rank == 0 or scale.sizes == (ONE,)):
        axis = axis_of(operation.integer("axis", 1), value.rank)
        blocked = scale.rank > 1  # it has scales for each row
        if axis == value.rows.axis or blocked:
            raise Mixes("works for a fixed number of rows only")
    return Value(value.sizes, value.rows)


RULES: Table = {
    "DynamicQuantizeLinear": Rule(_dynamic_linear),
    "QuantizeLinear": Rule(quantized),
    "DequantizeLinear": Rule(quantized),
}
