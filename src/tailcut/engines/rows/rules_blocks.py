"""The domain com.microsoft: products and look-ups with block-quantised weights, and mixtures of experts."""

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.rules_layout import regroup
from tailcut.engines.rows.rules_matmul import parameters_without_rows
from tailcut.engines.rows.sizes import Size, floor_divide, number, product
from tailcut.engines.rows.values import Mixes, Unclear, Value

_PACKED = (1, 2, 4)  # elements in one byte of 8, 4 and 2 bits
_ROUTER_WEIGHTS = 14  # QMoE's input


def _matmul_nbits(operation: Operation) -> Value:
    return _multiplied(operation, number(operation.integer("N", 0)))


def _matmul_bnb4(operation: Operation) -> Value:
    """The weight is `[N, K]`, and is transposed unless the attribute says otherwise."""
    return _multiplied(operation, number(operation.integer("N" if operation.integer("transB", 1) else "K", 0)))


def _multiplied(operation: Operation, width: Size) -> Value:
    """A product of A, along its last axis, with a packed weight that must not have rows."""
    parameters_without_rows(operation, 1)
    value = operation.need(0)
    if value.rows is not None and value.rows.axis == value.rank - 1:
        raise Mixes("sums over the rows")
    return Value((*value.sizes[:-1], width), value.rows)


def _gather(operation: Operation) -> Value:
    """data, indices, scales, zero points: only the indices have rows."""
    data, indices, scales = operation.need(0), operation.need(1), operation.need(2)
    if data.rows is not None:
        raise Mixes("picks rows by number")
    parameters_without_rows(operation, 2)
    axis = axis_of(operation.integer("gather_axis", 0), data.rank)
    sizes = [*data.sizes[:-1], _unpacked(operation, data, scales)]
    rows = indices.rows and indices.rows.at(indices.rows.axis + axis)
    return Value((*sizes[:axis], *indices.sizes, *sizes[axis + 1 :]), rows)


def _unpacked(operation: Operation, data: Value, scales: Value) -> Size:
    """The size of the last axis, where a byte holds one element or several; the number of blocks tells how many."""
    block, last = operation.integer("block_size", 128), data.rank - 1
    if axis_of(operation.integer("quantize_axis", 1), data.rank) != last or block <= 0:
        raise Unclear("has a table whose width cannot be followed")
    width, blocks = data.sizes[last], scales.sizes[last]
    fitting = [width * number(packed) for packed in _PACKED if _blocks(width * number(packed), block) == blocks]
    return fitting[0] if len(fitting) == 1 else operation.unknown(last)


def _blocks(width: Size, block: int) -> Size:
    return floor_divide(width + number(block - 1), number(block))


def _experts(operation: Operation) -> Value:
    """Input and router_probs have one row for each token, `[batch * tokens, ...]`, or `[batch, tokens, ...]`."""
    value, router = operation.need(0), operation.need(1)
    weights = operation.value(_ROUTER_WEIGHTS) if operation.kind == "QMoE" else None
    others = [given for given in operation.inputs[2:] if given is not None and given is not weights]
    if any(given.rows is not None for given in others):
        raise Unclear("takes a parameter from the rows")
    tokens = regroup(value, [product(value.sizes[:-1]), value.sizes[-1]])
    if any(given.rows != tokens.rows for given in (router, weights) if given is not None):
        raise Mixes("combines rows with other rows")
    if tokens.rows is not None and tokens.rows.axis != 0:
        raise Mixes("sums over the rows")
    return Value(value.sizes, value.rows)


RULES: Table = {
    "MatMulNBits": Rule(_matmul_nbits),
    "MatMulBnb4": Rule(_matmul_bnb4),
    "GatherBlockQuantized": Rule(_gather),
    "MoE": Rule(_experts),
    "QMoE": Rule(_experts),
}
