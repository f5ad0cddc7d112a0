"""What is known of a model's inputs beyond their signature; `graph_hints.py` reads it from a graph."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class AxisSize:
    """A number that follows from a request: `factor` times the size of an axis of an input, and `offset`."""

    input: str
    axis: int
    factor: int = 1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class InputHints:
    """Facts about a model's inputs; what is not known is absent.

    Args:
        names: by input, the symbolic name of each axis, None where an axis has a size or no name.
        sizes: by input and axis, the size that the weights require.
        below: by input, the number that its integers, which are indices, stay below.
        below_axes: by input, sizes of axes below which its integers stay as well.
        from_end: inputs whose negative indices count from the end, as Python's do; others have none.
    """

    names: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    below: Mapping[str, int] = field(default_factory=dict)
    below_axes: Mapping[str, tuple[AxisSize, ...]] = field(default_factory=dict)
    from_end: frozenset[str] = frozenset()


@runtime_checkable
class Hinted(Protocol):
    """An engine that has read its model's graph."""

    hints: InputHints
