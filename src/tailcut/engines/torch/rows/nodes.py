"""Reads a node of an exported graph: its operator, sizes and arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

import sympy


def name_of(node: Any) -> str:
    """An operator's name without library and overload, such as `softmax`."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet).rpartition(".")[2] if packet is not None else str(getattr(node.target, "__name__", node.target))


def shape_of(node: Any) -> tuple[sympy.Expr, ...]:
    """The symbolic sizes of a node's result."""
    return tuple(expression(dim) for dim in node.meta["val"].shape)


def expression(dim: Any) -> sympy.Expr:
    """A size of PyTorch as an expression of symbols."""
    return dim.node.expr if hasattr(dim, "node") else sympy.Integer(int(dim))


def symbols_of(node: Any) -> set[Any]:
    """The symbols in the sizes of a node's result, or in its value if that is a number."""
    value = node.meta.get("val")
    sizes = value.shape if hasattr(value, "shape") else [value]
    return {symbol for size in sizes if hasattr(size, "node") for symbol in size.node.expr.free_symbols}


def product(sizes: Sequence[sympy.Expr]) -> sympy.Expr:
    """The product of all sizes."""
    return sympy.Mul(*sizes)


def argument(node: Any, index: int, name: str) -> Any:
    """An argument that is given by position or by name; None if it is not given."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def axis_of(node: Any) -> int:
    """The axis `dim`, its second argument, counted from the front."""
    return int(argument(node, 1, "dim") or 0) % len(shape_of(node.args[0]))


def nodes_in(value: Any) -> list[Any]:
    """All nodes among arguments, also those in lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [node for item in value for node in nodes_in(item)]
    return [value] if hasattr(value, "meta") else []
