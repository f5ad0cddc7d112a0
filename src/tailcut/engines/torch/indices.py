"""Inputs that are indices: their bounds, by the operators that read them, and the check before a call.

On the CPU PyTorch raises an IndexError for an index out of bounds. On a device a kernel asserts: the context is lost,
and with it every model of the process. So what is known of the bounds is checked on the host. What a program computes
from its inputs, and uses as an index then, is not known here.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tailcut.engines.hints import InputHints
from tailcut.errors import EngineError
from tailcut.spec import ModelSpec

_KEEPING = frozenset({"to", "_to_copy", "view", "reshape", "clone"})  # operators that keep the elements
_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def index_bounds(nodes: dict[str, Any]) -> tuple[dict[str, int], frozenset[str]]:
    """By input, what its indices stay below, and which inputs may count from the end."""
    below: dict[str, int] = {}
    only_positive: set[str] = set()
    for name, node in nodes.items():
        if node.meta["val"].dtype not in _INTEGERS:
            continue
        for size, from_end in _bounds(node):
            below[name] = min(size, below.get(name, size))
            if not from_end:
                only_positive.add(name)
    return below, frozenset(set(below) - only_positive)


def check_indices(spec: ModelSpec, hints: InputHints, ins: Sequence[Any]) -> None:
    """Refuse indices out of bounds; the message says nothing of their values, which may be another request's.

    Raises:
        EngineError: there are such.
    """
    for tensor, values in zip(spec.inputs, ins, strict=True) if hints.below else ():
        size = hints.below.get(tensor.name)
        if size is None or not values.numel():
            continue
        array, least = values.numpy(), -size if tensor.name in hints.from_end else 0
        if array.max() >= size or array.min() < least:
            raise EngineError(f"input {tensor.name!r} has an index out of bounds: they are {least} to {size - 1}")


def _bounds(node: Any) -> Iterator[tuple[int, bool]]:
    """For each operator that takes a node as an index: the size, and whether negative ones count from the end."""
    for user in node.users:
        name = str(user.target).partition(".")[2].partition(".")[0]
        args = user.args
        size: Any = None
        if name in {"embedding", "embedding_bag", "_embedding_bag"} and args[1] is node:
            size = _size(args[0], 0)
        elif name in {"index_select", "gather"} and args[2] is node:
            size = _size(args[0], args[1])
        elif name == "one_hot" and len(args) > 1:
            size = args[1]
        elif name == "index" and not _has_mask(args[1]):
            size = min((_size(args[0], axis) for axis, index in enumerate(args[1]) if index is node), default=None)
        if isinstance(size, int) and size > 0:
            yield size, name == "index"
        if name in _KEEPING and args[0] is node:
            yield from _bounds(user)


def _size(table: Any, axis: int) -> Any:
    """The size of an axis; a number, where it is the same in each call."""
    shape = table.meta["val"].shape
    return shape[axis] if shape else 0


def _has_mask(indices: Sequence[Any]) -> bool:
    """Whether one of them picks by truth, and so stands for several axes."""
    return any(index is not None and index.meta["val"].dtype in {torch.bool, torch.uint8} for index in indices)
