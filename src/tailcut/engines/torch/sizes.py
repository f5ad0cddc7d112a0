"""The sizes that a program was exported for: ranges of its free axes, and axes of equal size.

PyTorch removes from a graph the branches that no size in these ranges takes, so other sizes may get wrong answers.
PyTorch checks sizes with guards, which are Python code; here they are numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from tailcut.engines.torch.rows.nodes import expression
from tailcut.errors import InvalidInputError, UnsupportedError

_ENDLESS = 1 << 62  # PyTorch's own infinities are larger
_LEAST = 2  # a range that begins at 2 includes 0 and 1: PyTorch has none that begin below 2


@dataclass(frozen=True, slots=True)
class _Axis:
    """A free axis whose size is `factor * symbol + offset`."""

    index: int  # the input's index
    axis: int
    symbol: str
    factor: int
    offset: int


@dataclass(frozen=True, slots=True)
class ExportedSizes:
    """The shapes that a program takes.

    Args:
        names: the names of the inputs, in order.
        axes: the free axes of the inputs.
        ranges: by symbol, the smallest and the largest size (None: no largest).
    """

    names: tuple[str, ...] = ()
    axes: tuple[_Axis, ...] = ()
    ranges: Mapping[str, tuple[int, int | None]] | None = None

    @classmethod
    def of(cls, inputs: Mapping[str, Any], constraints: Mapping[Any, Any]) -> "ExportedSizes":
        """The sizes of input nodes (by name), with the ranges of symbols in `ExportedProgram.range_constraints`."""
        axes = []
        for index, node in enumerate(inputs.values()):
            for axis, dim in enumerate(node.meta["val"].shape):
                size = expression(dim)
                if len(size.free_symbols) == 1 and (parts := linear(size)) is not None:
                    axes.append(_Axis(index, axis, *parts))
        ranges = {str(symbol): _range(allowed) for symbol, allowed in constraints.items()}
        return cls(tuple(inputs), tuple(axes), ranges)

    def most(self, index: int, axis: int) -> int | None:
        """The largest size of an axis that has a symbol of its own; None if it is unbounded."""
        return next((self._range(own)[1] for own in self.axes if (own.index, own.axis) == (index, axis)), None)

    def least(self, index: int, axis: int) -> int:
        """The smallest size of an axis that has a symbol of its own."""
        return next((self._range(own)[0] for own in self.axes if (own.index, own.axis) == (index, axis)), 0)

    def check_fixed(self, symbol: str, size: int) -> None:
        """Check a fixed size for a symbol.

        Raises:
            UnsupportedError: the program was exported for other sizes.
        """
        least, most = (self.ranges or {}).get(symbol, (0, None))
        if size < least or (most is not None and size > most):
            raise UnsupportedError(f"fixed_dims: {symbol}={size}: the program was exported for {_words(least, most)}")

    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """Check a request's shapes, which have the right ranks.

        Raises:
            InvalidInputError: the program was exported for other sizes; names the input and its axis.
        """
        sizes: dict[str, tuple[int, _Axis]] = {}
        for own in self.axes:
            size = shapes[own.index][own.axis]
            what = f"input {self.names[own.index]!r}: axis {own.axis} is {size}, but the program was exported for"
            value, rest = divmod(size - own.offset, own.factor)
            least, most = self._range(own)
            if rest or size < least or (most is not None and size > most):
                multiple = f", in steps of {own.factor}" if own.factor > 1 else ""
                raise InvalidInputError(f"{what} {_words(least, most)}{multiple}")
            first, other = sizes.setdefault(own.symbol, (value, own))
            if first != value:
                raise InvalidInputError(f"{what} that of axis {other.axis} of {self.names[other.index]!r}")

    def _range(self, own: _Axis) -> tuple[int, int | None]:
        least, most = (self.ranges or {}).get(own.symbol, (0, None))
        return own.factor * least + own.offset, None if most is None else own.factor * most + own.offset


def linear(size: sympy.Expr) -> tuple[str, int, int] | None:
    """The symbol, factor and offset of a linear size; None for any other expression."""
    [symbol] = size.free_symbols
    factor, offset = size.coeff(symbol, 1), size.coeff(symbol, 0)
    if not (factor.is_Integer and offset.is_Integer and factor > 0 and size == factor * symbol + offset):
        return None
    return str(symbol), int(factor), int(offset)


def _range(allowed: Any) -> tuple[int, int | None]:
    least, most = allowed.lower, allowed.upper
    lower = int(least) if least.is_Integer else 0
    return (
        0 if lower <= _LEAST else lower,
        int(most) if most.is_Integer and int(most) < _ENDLESS else None,
    )


def _words(least: int, most: int | None) -> str:
    return f"{least} or more" if most is None else f"{least} to {most}" if least else f"at most {most}"
