"""Recurrent operators and attention: time and batch are different axes, and each row has its own state."""

from collections.abc import Sequence

from tailcut.engines.rows.bounds import limit_of
from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.sizes import ONE, Size, number
from tailcut.engines.rows.values import Mixes, RowAxis, Sizes, Unclear, Value

_WINDOWS = ("state_window", "state_update_capacity", "state_length", "input_channels", "input_channel_offset")


def same_rows(operation: Operation, axes: dict[int, int]) -> RowAxis | None:
    """The common rows of inputs, which each have them on a given axis (input -> axis); None if no input has rows.

    Raises:
        Mixes: an input has rows on another axis or in other groups, or a fixed number of rows.
    """
    given = {index: value for index in axes if (value := operation.value(index)) is not None}
    result = next((value.rows for value in given.values() if value.rows is not None), None)
    if result is None:
        return None
    for index, value in given.items():
        if value.rows is None:
            raise Mixes("works for a fixed number of rows only")
        if value.rows != result.at(axes[index]):
            raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    return result


def without_rows(operation: Operation, places: Sequence[int]) -> None:
    """Raise Unclear if one of these inputs (weights, scales) depends on the rows."""
    for index in places:
        value = operation.value(index)
        if value is not None and value.rows is not None:
            raise Unclear("takes a parameter from the rows")


def _recurrent(operation: Operation) -> list[Value]:
    """X, W, R, B, sequence_lens, initial_h (and for LSTM initial_c, P); batch on axis 1, or 0 with layout = 1."""
    value, batch_first = operation.need(0), operation.integer("layout", 0)
    batch = 0 if batch_first else 1
    states = (5, 6) if operation.kind == "LSTM" else (5,)
    without_rows(operation, (1, 2, 3, 7))
    rows = same_rows(operation, {0: batch, 4: 0, **dict.fromkeys(states, batch)})
    directions, hidden = operation.need(1).sizes[0], _hidden(operation)
    steps, size = value.sizes[1 if batch_first else 0], value.sizes[batch]
    if batch_first:
        every, last = (size, steps, directions, hidden), (size, directions, hidden)
        places = 0, 0
    else:
        every, last = (steps, directions, size, hidden), (directions, size, hidden)
        places = 2, 1
    final = Value(last, rows and rows.at(places[1]))
    return [Value(every, rows and rows.at(places[0])), final, final]


def _hidden(operation: Operation) -> Size:
    size = operation.integer("hidden_size", 0)
    return number(size) if size else operation.need(2).sizes[2]


def _attention(operation: Operation) -> list[Value]:
    """Q, K, V, attn_mask, past_key, past_value, nonpad_kv_seqlen: batch first, with or without an axis of heads."""
    query, value, mask = operation.need(0), operation.need(2), operation.value(3)
    rows = same_rows(operation, {0: 0, 1: 0, 2: 0, 4: 0, 5: 0, 6: 0})
    if mask is not None:
        mask_rows(mask, rows, whole=4)
    heads = number(operation.integer("kv_num_heads", 0)) if value.rank == 3 else value.sizes[1]
    if query.rank == 3:
        shape: Sizes = (query.sizes[0], query.sizes[1], operation.unknown(2))
    else:
        shape = (*query.sizes[:3], value.sizes[-1])
    present = (query.sizes[0], heads, operation.unknown(12), operation.unknown(13))
    scores = tuple(query.sizes[0] if axis == 0 else operation.unknown(20 + axis) for axis in range(4))
    return [Value(shape, rows), Value(present, rows), Value(present, rows), Value(scores, rows)]


def mask_rows(mask: Value, rows: RowAxis | None, whole: int) -> None:
    """Check a mask, which may be the same for all rows, or have one entry per row on axis 0 of its full rank.

    Raises:
        Mixes: it has rows on another axis, or a fixed number of them.
    """
    if mask.rows is None:
        if rows is not None and mask.rank == whole and mask.sizes[0].integer != 1:
            raise Mixes("works for a fixed number of rows only")
    elif mask.rows != rows or mask.rank != whole:
        raise Mixes("mixes the rows", f"over axis {mask.rows.axis}")


def _rotary(operation: Operation) -> Value:
    """X, cos_cache, sin_cache, position_ids: the caches are shared by all rows, or there is one per row."""
    places = [0] + ([3] if operation.value(3) is not None else [1, 2])
    given = [operation.need(index) for index in places]
    if given[0].rows is not None and any(value.rows is None for value in given[1:]):
        raise Unclear("has caches without rows")
    rows = same_rows(operation, dict.fromkeys(places, 0))
    if len(places) == 2:
        without_rows(operation, (1, 2))
    return Value(operation.need(0).sizes, rows)


def _causal_convolution(operation: Operation) -> list[Value]:
    """input, weight, bias, past state: batch first. The result, and the state after it."""
    _without_windows(operation)
    without_rows(operation, (1, 2))
    value, past, rows = operation.need(0), operation.value(3), same_rows(operation, {0: 0, 3: 0})
    history = (operation.need(1).sizes[-1] - ONE) * number(operation.integer("dilation", 1))
    # In ONNX, the operator is a function, whose result depends on the length of the past state.
    fits = past is None or past.sizes[-1] == history or operation.integer("channels_last", 0)
    sizes = value.sizes if fits else (*value.sizes[:-1], operation.unknown(value.rank - 1))
    state = (value.sizes[0], *(operation.unknown(10 + axis) for axis in range(1, value.rank)))
    return [Value(sizes, rows), Value(state, rows)]


def _linear_attention(operation: Operation) -> list[Value]:
    """query, key, value, past state, decay, rate: batch first. The result, and the state after it."""
    _without_windows(operation)
    query, value = operation.need(0), operation.need(2)
    rows = same_rows(operation, dict.fromkeys(range(6), 0))
    heads = [operation.integer(f"{kind}_num_heads", 1) for kind in ("q", "kv")]
    size = value.sizes[-1].over(number(heads[1]))
    width = operation.unknown(2) if size is None else size * number(max(heads))
    state = (query.sizes[0], *(operation.unknown(axis) for axis in (11, 12, 13)))
    return [Value((*query.sizes[:2], width), rows), Value(state, rows)]


def _without_windows(operation: Operation) -> None:
    """Raise Unclear if there are several states per row, or states of parts of the input."""
    if any(operation.integer(name, 0) for name in _WINDOWS):
        raise Unclear("has states that cannot be followed")


def _tensor_scatter(operation: Operation) -> Value:
    """Past, update and the index of each row's update, which has to be known to stay within the row."""
    value, update, places = operation.need(0), operation.need(1), operation.value(2)
    rows = same_rows(operation, {0: 0, 1: 0, 2: 0})
    axis = axis_of(operation.integer("axis", -2), value.rank)
    below = None if places is None else limit_of(places)
    if places is not None and below is not None and operation.attributes.get("mode", "linear") == "linear":
        below = below if (value.sizes[axis] - update.sizes[axis] - below + ONE).natural else None
    if places is not None and below is None:
        raise Unclear("writes at places that cannot be followed")
    return Value(value.sizes, rows)


STATES: Table = {
    "CausalConvWithState": Rule(_causal_convolution),
    "LinearAttention": Rule(_linear_attention),
}
RULES: Table = {
    **STATES,
    **{kind: Rule(_recurrent) for kind in ("LSTM", "GRU", "RNN")},
    "Attention": Rule(_attention),
    "TensorScatter": Rule(_tensor_scatter),
    "RotaryEmbedding": Rule(_rotary),
}
