"""Inputs that are indices: their bounds, by the operators that read them, and the check before a call.

On the CPU, PyTorch raises an IndexError for an index out of bounds. On a device, an assertion in the kernel fails: the
context is lost, and with it every model in the process. So known bounds are checked on the host. Indices that a
program computes from its inputs are not covered.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tailcut.engines.hints import AxisSize, InputHints
from tailcut.engines.torch.rows.nodes import argument, expression, name_of, nodes_in, product, shape_of
from tailcut.engines.torch.sizes import linear
from tailcut.errors import InvalidInputError
from tailcut.spec import ModelSpec

_KEEPING = frozenset(  # operators that keep the elements
    [
        "to", "_to_copy", "view", "reshape", "clone", "unsqueeze", "squeeze", "flatten", "unflatten", "expand",
        "expand_as", "broadcast_to", "repeat", "contiguous", "transpose", "permute", "t", "movedim", "alias", "detach",
    ]
)  # fmt: skip
_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_MASKS = frozenset({torch.bool, torch.uint8})
_ALONG = frozenset(  # operators whose arguments are a table, an axis of it, and indices
    [
        "gather", "index_select", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill",
        "index_reduce",
    ]
)  # fmt: skip
_EMBEDDINGS = frozenset({"embedding", "embedding_bag", "_embedding_bag"})
_FROM_END = frozenset({"index", "_unsafe_index", "index_put", "_unsafe_index_put", "take"})
_LOOKING_UP = _ALONG | _EMBEDDINGS | _FROM_END | {"take_along_dim", "one_hot", "select"} | {
    "cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss2d", "nll_loss_forward", "nll_loss2d_forward",
    "repeat_interleave", "scatter_reduce", "segment_reduce", "multi_margin_loss", "multilabel_margin_loss",
}  # fmt: skip
_BY_SIZE = frozenset(  # operators that only read the sizes of their arguments
    [
        "sym_size", "size", "empty_like", "full_like", "ones_like", "zeros_like", "new_empty", "new_full", "new_ones",
        "new_zeros", "rand_like", "randn_like",
    ]
)  # fmt: skip
_INNER = frozenset({"cond", "while_loop", "scan", "map_impl", "associative_scan"})  # operators that contain graphs


@dataclass(frozen=True, slots=True)
class IndexBounds:
    """The exclusive upper bounds of the inputs' indices.

    Args:
        below: by input name, a number.
        below_axes: by input name, sizes of a request's axes.
        from_end: inputs whose negative indices count from the end.
    """

    below: Mapping[str, int]
    below_axes: Mapping[str, tuple[AxisSize, ...]]
    from_end: frozenset[str]


def index_bounds(nodes: Mapping[str, Any]) -> IndexBounds:
    """The bounds of inputs, by name, from the operators that read them."""
    below: dict[str, int] = {}
    below_axes: dict[str, tuple[AxisSize, ...]] = {}
    only_positive: set[str] = set()
    symbols = _symbols(nodes)
    for name, node in nodes.items():
        if node.meta["val"].dtype not in _INTEGERS:
            continue
        for _, _, size, from_end in _bounds(node):
            if size.is_Integer:
                below[name] = min(int(size), below.get(name, int(size)))
            elif (axis := _of_axis(size, symbols)) is not None:
                below_axes[name] = (*below_axes.get(name, ()), axis)
            if not from_end:
                only_positive.add(name)
    return IndexBounds(below, below_axes, frozenset({*below, *below_axes} - only_positive))


def check_indices(spec: ModelSpec, hints: InputHints, ins: Sequence[Any]) -> None:
    """Refuse indices out of bounds; the message does not contain them, since they may belong to another request.

    Raises:
        InvalidInputError: an index is out of bounds; names the input.
    """
    if not (hints.below or hints.below_axes):
        return
    by_name = dict(zip(spec.input_names, ins, strict=True))
    for name, values in by_name.items():
        sizes = [hints.below[name]] if name in hints.below else []
        sizes += [
            axis.factor * by_name[axis.input].shape[axis.axis] + axis.offset for axis in hints.below_axes.get(name, ())
        ]
        if not sizes or not values.numel():
            continue
        size = min(sizes)
        array, least = values.numpy(), -size if name in hints.from_end else 0
        if array.max() >= size or array.min() < least:
            raise InvalidInputError(f"input {name!r} has an index out of bounds: they are {least} to {size - 1}")


def has_unchecked_indices(graph: Any, inputs: Sequence[Any]) -> bool:
    """Whether a program uses indices that it computes from a request's values, which cannot be checked in advance.

    Args:
        graph: the graph of an exported program.
        inputs: its nodes for the request's tensors.
    """
    symbols = _symbols({node.name: node for node in inputs})
    checked = {
        (user, index)
        for node in inputs
        if node.meta["val"].dtype in _INTEGERS
        for user, index, size, _ in _bounds(node)
        if size.is_Integer or _of_axis(size, symbols) is not None
    }
    by_value = set(inputs)  # nodes that depend on a request's values, not only on its sizes
    for node in graph.nodes:
        name = name_of(node).removesuffix("_") if node.op == "call_function" else ""
        given = [item for item in nodes_in([node.args, node.kwargs]) if item in by_value]
        if not name or not given or name in _BY_SIZE:
            continue
        by_value.add(node)
        if name in _INNER:
            return True
        if name in _LOOKING_UP and any(_is_index(item) and (node, item) not in checked for item in given):
            return True
    return False


def _is_index(node: Any) -> bool:
    return getattr(node.meta.get("val"), "dtype", torch.int64) in _INTEGERS


def _bounds(node: Any) -> Iterator[tuple[Any, Any, Any, bool]]:
    """Yield for each operator that uses a node as an index: it, the index, the size, and whether -1 is the last one."""
    for user in node.users:
        name, args = name_of(user).removesuffix("_"), user.args  # in place: index_put_
        sizes: list[Any] = []
        if name in _EMBEDDINGS and args[1] is node:
            sizes = [_size(args[0], 0)]
        elif name in _ALONG and args[2] is node:
            sizes = [_size(args[0], args[1])]
        elif name in {"take", "take_along_dim"} and args[1] is node:
            dim = argument(user, 2, "dim")
            sizes = [_elements(args[0]) if dim is None else _size(args[0], dim)]
        elif name == "one_hot" and len(args) > 1 and args[1] > 0:
            sizes = [expression(args[1])]
        elif name in _FROM_END and isinstance(args[1], list | tuple):
            sizes = list(_indexed(node, args[0], args[1]))
        for size in sizes:
            yield user, node, size, name in _FROM_END
        whole = name == "slice" and shape_of(user) == shape_of(node)  # as in `x[:, None]`
        if (whole or name in _KEEPING) and args[0] is node:
            yield from _bounds(user)


def _indexed(node: Any, table: Any, indices: Sequence[Any]) -> Iterator[Any]:
    """Yield the size of each axis of a table that a node indexes; none beside a mask, which may cover several axes."""
    if not any(index is not None and index.meta["val"].dtype in _MASKS for index in indices):
        yield from (_size(table, axis) for axis, index in enumerate(indices) if index is node)


def _size(table: Any, axis: int) -> Any:
    """The size of an axis as an expression of symbols; 1 for a scalar, which has no axes."""
    shape = table.meta["val"].shape
    return expression(shape[axis] if shape else 1)


def _elements(table: Any) -> Any:
    return product([expression(dim) for dim in table.meta["val"].shape])


def _symbols(nodes: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """By symbol, an input and an axis that has this size."""
    return {
        str(size): (name, axis)
        for name, node in nodes.items()
        for axis, dim in enumerate(node.meta["val"].shape)
        if (size := expression(dim)).is_Symbol
    }


def _of_axis(size: Any, symbols: Mapping[str, tuple[str, int]]) -> AxisSize | None:
    """A size as a linear function of an input's axis; None if it depends on several or in another way."""
    parts = linear(size) if len(size.free_symbols) == 1 else None
    if parts is None or parts[0] not in symbols:
        return None
    return AxisSize(*symbols[parts[0]], *parts[1:])
