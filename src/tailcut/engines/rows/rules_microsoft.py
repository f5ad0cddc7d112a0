"""The domain com.microsoft: operators that onnxruntime's optimiser and quantiser write into saved models."""

from dataclasses import replace
from math import prod

from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.rules_elementwise import elementwise
from tailcut.engines.rows.rules_matmul import gemm, multiplied, parameters_without_rows, turned
from tailcut.engines.rows.rules_quantize import dynamic, quantized
from tailcut.engines.rows.rules_sequence import STATES, mask_rows, same_rows, without_rows
from tailcut.engines.rows.rules_vision import batch_rows, fused_conv
from tailcut.engines.rows.sizes import ONE, ZERO, Size, number
from tailcut.engines.rows.values import Mixes, Unclear, Value, broadcast


def _fused_matmul(operation: Operation) -> Value:
    a, b = operation.need(0), operation.need(1)
    if operation.integer("transBatchA", 0) or operation.integer("transBatchB", 0):
        raise Unclear("exchanges the batch axis")
    a = turned(a) if operation.integer("transA", 0) and a.rank > 1 else a
    b = turned(b) if operation.integer("transB", 0) and b.rank > 1 else b
    return multiplied(a, b)


def _integer_to_float(operation: Operation) -> Value:
    parameters_without_rows(operation, 2)
    return multiplied(operation.need(0), operation.need(1))


def _skip_normalization(operation: Operation) -> list[Value]:
    """input, skip, gamma, beta, bias: normalised along the last axis; outputs the result, mean, deviation and sum."""
    value, skip = operation.need(0), operation.need(1)
    parameters_without_rows(operation, 2)
    total = broadcast(value, skip)
    if total.rows != value.rows:  # the result has the shape of the first input
        raise Mixes("works for a fixed number of rows only")
    if total.rows is not None and total.rows.axis == total.rank - 1:
        raise Mixes("mixes the rows", f"over axis {total.rows.axis}")
    inner = Value((*total.sizes[:-1], ONE), total.rows)
    return [total, inner, inner, total]


def _gated_normalization(operation: Operation) -> Value:
    """X, scale, gate of X's shape: normalised in parts of the last axis."""
    value, gate = operation.need(0), operation.need(2)
    without_rows(operation, (1,))
    if gate.rows != value.rows:
        raise Mixes("works for a fixed number of rows only")
    return _inside(value, value.rank - 1)


def _branchwise_normalization(operation: Operation) -> Value:
    """X `[..., branches, size]` or `[..., branches * size]`, with a scale for each branch, or one for all."""
    value, scale = operation.need(0), operation.value(1)
    parameters_without_rows(operation, 1)
    flat = operation.integer("num_branches", 0) or scale is None or scale.sizes == value.sizes[-1:]
    return _inside(value, value.rank - (1 if flat else 2))


def _inside(value: Value, axis: int) -> Value:
    """An operator that combines elements along the axes from `axis` on and keeps the shape."""
    if value.rows is not None and value.rows.axis >= axis:
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    return Value(value.sizes, value.rows)


def _gated_sum(operation: Operation) -> Value:
    """X and Y of one shape, a gate `[..., 1]`; a weight for the gate is not followed."""
    value, added, gate = (operation.need(index) for index in range(3))
    if operation.value(3) is not None:
        raise Unclear("computes its gate")
    if added.rows != value.rows or gate.rows != value.rows:
        raise Mixes("works for a fixed number of rows only")
    return _inside(value, value.rank - 1)


def _attention_gates(operation: Operation) -> list[Value]:
    """A `[batch, tokens, heads]`, bias and scale of each head, b of a's shape; both results have a's shape."""
    without_rows(operation, (1, 2))
    value, other = operation.need(0), operation.value(3)
    if other is not None and other.rows != value.rows:
        raise Mixes("works for a fixed number of rows only")
    result = _inside(value, value.rank - 1)
    return [result, result]


def _scaled(operation: Operation) -> Value:
    """Inputs: X, and one scale."""
    parameters_without_rows(operation, 1)
    return Value(operation.need(0).sizes, operation.need(0).rows)


def _embed(operation: Operation) -> list[Value]:
    """Ids, segments, tables, gamma, beta, mask, positions; outputs the embedding, the mask's sum and the plain sum."""
    ids, table = operation.need(0), operation.need(2)
    parameters = [operation.need(index) for index in range(2, 7) if operation.value(index) is not None]
    if any(value.rows is not None for value in parameters):
        raise Unclear("takes a parameter from the rows")
    rows = same_rows(operation, {0: 0, 1: 0, 7: 0})
    positions = operation.value(8)
    if positions is not None and positions.rows != rows and positions.sizes[0] != ONE:
        raise Mixes("works for a fixed number of rows only")
    embedded = Value((*ids.sizes, table.sizes[1]), rows)
    return [embedded, Value((ids.sizes[0],), rows), embedded]


def _quantized_embed(operation: Operation) -> list[Value]:
    """Inputs as for `_embed`, then scales and zero points; outputs the embedding and the mask's sum."""
    parameters_without_rows(operation, 8)
    return _embed(replace(operation, inputs=operation.inputs[:8]))[:2]


def _attention(operation: Operation) -> list[Value]:
    """input, weights, bias, mask, past, bias of the scores; batch first, and second in past and present."""
    value, mask, scores = operation.need(0), operation.value(3), operation.value(5)
    without_rows(operation, (1, 2))
    rows = same_rows(operation, {0: 0, 4: 1})
    _mask(mask, rows)
    if scores is not None:
        mask_rows(scores, rows, whole=4)
    return _attended(operation, value, rows is not None)


def _mask(mask: Value | None, rows: object) -> None:
    """Check a mask: one length, or one list of flags, for each row. Lists of starts and ends are not followed."""
    if mask is not None and mask.rows != rows:
        raise Unclear("has a mask that cannot be followed")


def _attended(operation: Operation, value: Value, rows: bool) -> list[Value]:  # noqa: FBT001
    """The result `[batch, length, size]` and present `[2, batch, heads, length, size]`."""
    row_axis = value.rows if rows else None
    result = Value((value.sizes[0], value.sizes[1], operation.unknown(2)), row_axis)
    present = (number(2), value.sizes[0], *(operation.unknown(axis) for axis in (10, 11, 12)))
    return [result, Value(present, row_axis and row_axis.at(1))]


def _multi_head(operation: Operation) -> list[Value]:
    """query, key, value, bias, mask, bias of the scores, past key, past value; batch first everywhere."""
    query = operation.need(0)
    without_rows(operation, (3,))
    rows = same_rows(operation, {0: 0, 1: 0, 2: 0, 6: 0, 7: 0})
    _mask(operation.value(4), rows)
    scores = operation.value(5)
    if scores is not None:
        mask_rows(scores, rows, whole=4)
    if len(operation.inputs) > 8:
        raise Unclear("shares a buffer between calls")
    size = operation.unknown(2)
    present = Value((query.sizes[0], *(operation.unknown(axis) for axis in (10, 11, 12))), rows)
    return [Value((query.sizes[0], query.sizes[1], size), rows), present, present]


def _quantized_attention(operation: Operation) -> list[Value]:
    """input, weight, bias, two scales, mask, two zero points, past: all scales are given."""
    without_rows(operation, (1, 2, 3, 4, 6, 7))
    rows = same_rows(operation, {0: 0, 8: 1})
    _mask(operation.value(5), rows)
    return _attended(operation, operation.need(0), rows is not None)


def _rotary(operation: Operation) -> Value:
    """input, position_ids, cos_cache, sin_cache: positions for each row, or one first position for all rows."""
    value, positions = operation.need(0), operation.need(1)
    without_rows(operation, (2, 3))
    rows = same_rows(operation, {0: 0, 1: 0} if positions.rank == 2 else {0: 0})
    if positions.rank < 2 and positions.rows is not None:
        raise Mixes("works for a fixed number of rows only")
    # Older versions of onnxruntime read beyond the row if the width of the heads does not match the caches.
    sizes = (*value.sizes[1:2], value.sizes[3]) if value.rank == 4 else value.sizes[2:]
    widths = [size.integer for size in (*sizes, operation.need(2).sizes[1])]
    heads, rotated = operation.integer("num_heads", 0), operation.integer("rotary_embedding_dim", 0)
    if operation.integer("is_packed_batching", 0) or not _heads_fit([width or 0 for width in widths], heads, rotated):
        raise Unclear("has heads that cannot be followed")
    return Value(value.sizes, rows)


def _heads_fit(widths: list[int], heads: int, rotated: int) -> bool:
    """Whether all heads fill the row; `widths`: of the row, or heads and head size, then of the caches; 0: unknown."""
    *row, cache = widths
    hidden = prod(row)
    head = 2 * cache if not rotated else hidden // heads if heads else 0
    if not (hidden and head):
        return False
    return (heads or hidden // head) * head == hidden and (len(row) == 1 or row[1] == head)


def _qlinear_pair(operation: Operation) -> Value:
    """a, its scale and zero point, b, its scale and zero point, the result's."""
    without_rows(operation, (1, 2, 4, 5, 6, 7))
    return broadcast(operation.need(0), operation.need(3))


def _qlinear_single(operation: Operation) -> Value:
    parameters_without_rows(operation, 1)
    return Value(operation.need(0).sizes, operation.need(0).rows)


def _qlinear_softmax(operation: Operation) -> Value:
    value = operation.need(0)
    parameters_without_rows(operation, 1)
    axis = axis_of(operation.integer("axis", -1), value.rank)
    flattens = operation.integer("opset", 0) < 13
    if value.rows is not None and (value.rows.axis >= axis if flattens else value.rows.axis == axis):
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    return Value(value.sizes, value.rows)


def _qlinear_pool(operation: Operation) -> Value:
    value = operation.need(0)
    parameters_without_rows(operation, 1)
    rows = batch_rows(value)
    last = operation.integer("channels_last", 0)
    spatial = range(1, value.rank - 1) if last else range(2, value.rank)
    is_global = operation.kind == "QLinearGlobalAveragePool"
    shape = [
        (ONE if is_global else operation.unknown(axis)) if axis in spatial else size
        for axis, size in enumerate(value.sizes)
    ]
    return Value(tuple(shape), rows)


def _qlinear_concat(operation: Operation) -> Value:
    """The result's scale and zero point, then each tensor with its own two."""
    parts = [operation.need(index) for index in range(2, len(operation.inputs), 3)]
    others = [value for index, value in enumerate(operation.inputs) if index < 2 or index % 3 != 2]
    if any(value is not None and value.rows is not None for value in others):
        raise Unclear("takes a parameter from the rows")
    axis = axis_of(operation.integer("axis", 1), parts[0].rank)
    row_axes = {part.rows for part in parts}
    if len(row_axes) > 1 or any(rows is not None and rows.axis == axis for rows in row_axes):
        raise Mixes("joins rows with other rows")
    width: Size = sum((part.sizes[axis] for part in parts), start=ZERO)
    shape = tuple(width if index == axis else size for index, size in enumerate(parts[0].sizes))
    return Value(shape, parts[0].rows)


def _quantized_gemm(operation: Operation) -> Value:
    """A, its scale and zero point, B, its scale and zero point, C, the result's."""
    without_rows(operation, (1, 2, 4, 5, 6, 7, 8))
    plain = replace(operation, inputs=(operation.need(0), operation.need(3)))
    return gemm(plain)


RULES: Table = {
    **{kind: Rule(elementwise) for kind in ("Gelu", "QuickGelu", "BiasAdd", "BiasGelu", "FastGelu")},
    "FusedMatMul": Rule(_fused_matmul),
    "TransposeMatMul": Rule(_fused_matmul),
    "FusedGemm": Rule(gemm),
    "FusedConv": Rule(fused_conv),
    "MatMulIntegerToFloat": Rule(_integer_to_float),
    "SkipLayerNormalization": Rule(_skip_normalization),
    "SkipSimplifiedLayerNormalization": Rule(_skip_normalization),
    "GatedRMSNorm": Rule(_gated_normalization),
    "BranchwiseRMSNorm": Rule(_branchwise_normalization),
    "GatedAdd": Rule(_gated_sum),
    "LinearAttentionGate": Rule(_attention_gates),
    "ScaledSiLU": Rule(_scaled),
    **STATES,
    "EmbedLayerNormalization": Rule(_embed),
    "QEmbedLayerNormalization": Rule(_quantized_embed),
    "Attention": Rule(_attention),
    "MultiHeadAttention": Rule(_multi_head),
    "RotaryEmbedding": Rule(_rotary),
    "QAttention": Rule(_quantized_attention),
    "QuantizeLinear": Rule(quantized),
    "DequantizeLinear": Rule(quantized),
    "QLinearAdd": Rule(_qlinear_pair),
    "QLinearMul": Rule(_qlinear_pair),
    "QLinearSigmoid": Rule(_qlinear_single),
    "QLinearLeakyRelu": Rule(_qlinear_single),
    "QLinearSoftmax": Rule(_qlinear_softmax),
    "QLinearGlobalAveragePool": Rule(_qlinear_pool),
    "QLinearAveragePool": Rule(_qlinear_pool),
    "QLinearConcat": Rule(_qlinear_concat),
    "QGemm": Rule(_quantized_gemm),
    **{kind: Rule(dynamic) for kind in ("DynamicQuantizeMatMul", "DynamicQuantizeLSTM")},
}
