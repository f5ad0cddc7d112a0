"""Which free axes of a model's inputs share a length, learned from the data: a sequence, or height and width. Pure.

Names of dimensions in the model file are ignored: exporters leave them out, or use one name for several. Axes that have
equal sizes in every request are one dimension; models with more than two are not padded.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tailcut.runtime.padding import Lengths, Places, lengths_of
from tailcut.spec import ModelSpec

_MOST = 2

Arrays = Mapping[str, np.ndarray]


def learned_places(spec: ModelSpec, requests: Sequence[Arrays]) -> Places | None:
    """The free axes other than the batch, by input, with the dimension of each; None if there are none, or too many."""
    sizes: dict[tuple[int, ...], int] = {}  # an axis's size in every request, and its dimension
    places: dict[str, tuple[tuple[int, int], ...]] = {}
    for tensor in spec.inputs:
        free = [axis for axis, dim in enumerate(tensor.shape) if axis and dim is None]
        own = [tuple(request[tensor.name].shape[axis] for request in requests) for axis in free]
        dimensions = [sizes.setdefault(size, len(sizes)) for size in own]
        if free:
            places[tensor.name] = tuple(zip(free, dimensions, strict=True))
    return places if 1 <= len(sizes) <= _MOST else None


def data_lengths(places: Places | None, requests: Sequence[Arrays]) -> tuple[Lengths, ...]:
    """The length of each request along each dimension."""
    if places is None:
        return ()
    known = (lengths_of(places, request) for request in requests)
    return tuple(lengths for lengths in known if lengths is not None)
