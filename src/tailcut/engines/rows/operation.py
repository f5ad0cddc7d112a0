"""A node of the graph as rules see it, and the definition of a rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailcut.engines.rows.sizes import Size, opaque, symbol
from tailcut.engines.rows.values import RowAxis, Sizes, Spoiled, Unclear, Value

END = 10**9  # exports write this, 2**31 - 1 or 2**63 - 1 for "to the end"


@dataclass(frozen=True, slots=True)
class Operation:
    """A node: its operator, attributes, inputs (None for an omitted optional one), and opset version."""

    kind: str
    label: str  # the node's name, or that of its first output if it has none
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    opset: int

    def value(self, index: int) -> Value | None:
        """An input, or None if it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Value:
        """A required input.

        Raises:
            Unclear: it is omitted.
        """
        value = self.value(index)
        if value is None:
            raise Unclear(f"has no input {index}")
        return value

    @property
    def given(self) -> tuple[Value, ...]:
        """The inputs that are not omitted."""
        return tuple(value for value in self.inputs if value is not None)

    def items(self, index: int, what: str) -> Sizes:
        """The elements of a small integer input.

        Raises:
            Unclear: they cannot be followed.
        """
        value = self.need(index)
        if value.items is None:
            raise Unclear(f"takes {what} from a tensor whose elements cannot be followed")
        return tuple(value.items.flat)

    def ints(self, name: str, index: int | None) -> tuple[int, ...] | None:
        """Known integers from an attribute, or in newer opsets from the input at `index`; None if both are missing.

        Raises:
            Unclear: the input's elements are not known integers.
        """
        if name in self.attributes:
            attribute = self.attributes[name]
            return tuple(attribute) if isinstance(attribute, Sequence) else (int(attribute),)
        if index is None or self.value(index) is None:
            return None
        numbers = [item.integer for item in self.items(index, name)]
        if any(number is None for number in numbers):
            raise Unclear(f"takes {name} from a tensor whose elements cannot be followed")
        return tuple(number for number in numbers if number is not None)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def flag(self, index: int) -> bool | None:
        """Whether a scalar input is true; False if it is omitted, None if it is unknown."""
        value = self.value(index)
        if value is None:
            return False
        known = None if value.items is None or value.items.size != 1 else value.items.flat[0].number
        return None if known is None else bool(known != 0)

    def unknown(self, axis: int) -> Size:
        """A symbol for a size of the first output that the analysis does not compute; it is the same for any rows."""
        return symbol("computed", self.outputs[0], axis)

    def derived(self, axis_size: Size, *parameters: Size) -> Size:
        """A size that this operator computes from another one; equal if the parameters are equal."""
        return opaque(self.kind, axis_size, *parameters)


Answer = Value | Sequence[Value | Spoiled]


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operator does to rows: a function that returns one value for each output (or one for all).

    `counts`: it accepts elements that depend on the number of rows. `numbered`: it accepts elements that depend on a
    row's index in the batch. `filled`: it accepts rows that are padded to the length of the longest row.
    """

    apply: Callable[[Operation], Answer]
    counts: bool = False
    numbered: bool = False
    filled: bool = False


Table = Mapping[str, Rule]


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; negative ones count from the end.

    Raises:
        Unclear: the tensor has no such axis.
    """
    if not -rank <= axis < rank:
        raise Unclear(f"names axis {axis} of a tensor with {rank} axes")
    return axis % rank


def together(values: Sequence[Value], axis: int) -> RowAxis | None:
    """The common row axis of several tensors, which has to be `axis` for all that have rows; None if none has rows."""
    row_axes = {value.rows for value in values if value.rows is not None}
    if not row_axes:
        return None
    if len(row_axes) > 1:
        raise Unclear("has inputs whose rows lie on different axes")
    rows = row_axes.pop()
    if rows.axis != axis:
        raise Unclear(f"has rows on axis {rows.axis} instead of {axis}")
    return rows
