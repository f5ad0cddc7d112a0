"""The domain com.microsoft.nchwc: images with channels in blocks, as in optimised models that onnxruntime saves.

Between ReorderInput and ReorderOutput, the elements within a row have another order, and rows keep theirs. The number
of channels per block depends on the processor on which the model was saved.
"""

from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.rules_matmul import parameters_without_rows
from tailcut.engines.rows.rules_vision import batch_rows, fused_conv, global_pool, pooled
from tailcut.engines.rows.sizes import number
from tailcut.engines.rows.values import Mixes, Value

_LARGEST_BLOCK = 16


def _reorder_input(operation: Operation) -> Value:
    """To `[batch, channels, ...]`, padded to whole blocks of channels."""
    value = operation.need(0)
    rows = batch_rows(value)
    batch, *others = value.sizes
    channels = others.pop(-1 if operation.integer("channels_last", 0) else 0)
    whole = channels.integer is not None and channels.integer % _LARGEST_BLOCK == 0
    return Value((batch, channels if whole else operation.unknown(1), *others), rows)


def _reorder_output(operation: Operation) -> Value:
    """Back to the given number of channels."""
    value = operation.need(0)
    rows = batch_rows(value)
    channels, (batch, _, *spatial) = number(operation.integer("channels", 0)), value.sizes
    if operation.integer("channels_last", 0):
        return Value((batch, *spatial, channels), rows)
    return Value((batch, channels, *spatial), rows)


def _pool(operation: Operation) -> Value:
    batch_rows(operation.need(0))
    return pooled(operation)


def _global_pool(operation: Operation) -> Value:
    batch_rows(operation.need(0))
    return global_pool(operation)


def _upsample(operation: Operation) -> Value:
    value, scales = operation.need(0), operation.ints("scales", None) or ()
    rows = batch_rows(value)
    parameters_without_rows(operation, 1)
    if scales[0] != 1:
        raise Mixes("adds rows")
    sizes = (size * number(scale) for size, scale in zip(value.sizes, scales, strict=True))
    return Value(tuple(sizes), rows)


RULES: Table = {
    "ReorderInput": Rule(_reorder_input),
    "ReorderOutput": Rule(_reorder_output),
    "Conv": Rule(fused_conv),
    "MaxPool": Rule(_pool),
    "AveragePool": Rule(_pool),
    "GlobalMaxPool": Rule(_global_pool),
    "GlobalAveragePool": Rule(_global_pool),
    "Upsample": Rule(_upsample),
}
