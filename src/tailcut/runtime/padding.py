"""Requests of different lengths in one batch: inputs filled up to the length of a bucket, outputs cut back.

The lengths are those of a free dimension beside the batch (a sequence, say). Rows of one bucket compute together, in
scratch of the worker's own that has the bucket's fixed size, so the engine can be bound to it: a request's arrays are
copied once, straight to their place. Which outputs follow the length, and by which stride, is learned by computing rows
of many lengths. Whether the model's answers bear the filling is not known here; `tailcut tune` compares them with those
of the bare model before it offers a bucket.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tailcut.engines.base import Engine
from tailcut.errors import InvalidInputError, TailcutError, UnsupportedError
from tailcut.runtime.cuts import Cut, learn_cut, probe_lengths
from tailcut.runtime.inputs import Arrays, row_key
from tailcut.runtime.settings import PaddingSettings
from tailcut.spec import DType, ModelSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Padding:
    """How a model is padded: the axis and the value of each padded input, and how each output is cut.

    Requests shorter than `shortest`, the shortest that the model was seen to take, are computed at their own length.
    """

    spec: ModelSpec
    buckets: tuple[int, ...]  # ascending
    axes: Mapping[str, int]
    values: Mapping[str, float]
    cuts: tuple[Cut | None, ...]
    shortest: int = 1

    def place(self, arrays: Arrays) -> tuple[object, int]:
        """The key of a request, and its length; the key is its bucket, or its own shape where no bucket is for it.

        Raises:
            InvalidInputError: the padded inputs differ in length; names them.
        """
        lengths = {name: arrays[name].shape[axis] for name, axis in self.axes.items()}
        length = next(iter(lengths.values()))
        if any(other != length for other in lengths.values()):
            raise InvalidInputError(f"inputs differ in length: {lengths}")
        at = bisect_left(self.buckets, length)
        if at == len(self.buckets) or length < self.shortest:
            return row_key(self.spec, arrays), length
        return self.buckets[at], length

    def shape(self, tensor: TensorSpec, rows: int, bucket: int) -> list[int]:
        """An input's shape in a batch."""
        return [rows, *(bucket if dim is None else dim for dim in tensor.row_shape)]


def plan_padding(engine: Engine, settings: PaddingSettings) -> Padding:
    """Check the settings against the model, and ask the model itself which outputs follow the length.

    Raises:
        UnsupportedError: the model cannot be padded so; says why.
    """
    spec = engine.spec
    values = {padded.name: padded.value for padded in settings.inputs}
    unknown = set(values) - set(spec.input_names)
    if unknown:
        raise UnsupportedError(f"padding: the model has no input {min(unknown)!r}")
    if not spec.batched:
        raise UnsupportedError("padding: the model has no batch dimension")
    axes: dict[str, int] = {}
    for tensor in spec.inputs:
        free = [axis for axis, dim in enumerate(tensor.shape) if axis and dim is None]
        if tensor.name in values:
            axes[tensor.name] = _axis(tensor, free, values[tensor.name])
        elif free or tensor.dtype is DType.BYTES:
            raise UnsupportedError(f"padding: input {tensor.name!r} has no fixed size and is not padded: name it too")
    bare = Padding(spec, settings.buckets, axes, values, (None,) * len(spec.outputs))
    return _with_cuts(engine, bare)


def _axis(tensor: TensorSpec, free: Sequence[int], value: float) -> int:
    if len(free) != 1:
        raise UnsupportedError(
            f"padding: input {tensor.name!r} has {len(free)} free dimensions beside the batch, not 1"
        )
    dtype = tensor.dtype.numpy
    if tensor.dtype is DType.BYTES or (dtype.kind in "iub" and np.array(value).astype(dtype) != value):
        raise UnsupportedError(f"padding: input {tensor.name!r} is {tensor.dtype}, which does not hold {value:g}")
    return free[0]


def _with_cuts(engine: Engine, padding: Padding) -> Padding:
    """Compute a row of ones at many lengths: an output's axis that moves with the length is cut as it moved.

    The longest first: OpenVINO plans some models wrongly whose first shape is a small one.
    """
    sizes = _Sizes(engine, padding)
    longest = padding.buckets[-1]
    nothing_to_cut = all(tensor.row_bytes is not None for tensor in engine.spec.outputs)
    if nothing_to_cut and sizes.of(longest) is not None and sizes.of(longest) == sizes.of(1):
        return padding  # it takes the shortest row, so every length may be filled up
    probed = probe_lengths(padding.buckets)
    accepted = [length for length in reversed(probed) if sizes.of(length) is not None][::-1]
    if longest not in accepted:
        if nothing_to_cut:
            return padding  # it takes no ones, which says nothing of lengths
        raise UnsupportedError(f"padding: the model refuses a row of {longest} ones: {sizes.refusal}")
    refused = [length for length in probed if length > accepted[0] and length not in accepted]
    if refused:
        raise UnsupportedError(
            f"padding: the model takes a row of {accepted[0]} ones and refuses one of {refused[0]}: "
            "not every length can be filled up"
        )
    cuts: list[Cut | None] = []
    for number, tensor in enumerate(engine.spec.outputs):
        shapes = [sizes.shape(number, length) for length in accepted]
        moved = [axis for axis in range(len(shapes[0])) if len({shape[axis : axis + 1] for shape in shapes}) > 1]
        if not moved:
            cuts.append(None)
            continue
        axis = moved[0]
        cut = learn_cut(axis, partial(sizes.size, number, axis), accepted) if axis and len(moved) == 1 else None
        if cut is None:
            raise UnsupportedError(
                f"padding: output {tensor.name!r} does not follow the inputs' length by one axis and one stride"
            )
        cuts.append(cut)
    return replace(padding, cuts=tuple(cuts), shortest=accepted[0])


class _Sizes:
    """The shapes of all outputs for a row of ones of a length, each length computed once."""

    def __init__(self, engine: Engine, padding: Padding) -> None:
        self._engine = engine
        self._padding = padding
        self._known: dict[int, list[tuple[int, ...]] | None] = {}
        self.refusal = ""

    def of(self, length: int) -> list[tuple[int, ...]] | None:
        """The outputs' shapes, or None where the model refuses the length; `refusal` holds its last words."""
        if length not in self._known:
            spec, shape = self._engine.spec, self._padding.shape
            inputs = {t.name: np.ones(shape(t, 1, length), t.dtype.numpy) for t in spec.inputs}
            try:
                outputs = self._engine.run(inputs)
                self._known[length] = [outputs[name].shape for name in spec.output_names]
            except TailcutError as error:
                self.refusal, self._known[length] = str(error), None
        return self._known[length]

    def shape(self, output: int, length: int) -> tuple[int, ...]:
        """The shape of one output.

        Raises:
            UnsupportedError: the model refuses the length.
        """
        shapes = self.of(length)
        if shapes is None:
            raise UnsupportedError(f"padding: the model refuses a row of {length} ones: {self.refusal}")
        return shapes[output]

    def size(self, output: int, axis: int, length: int) -> int:
        """The size of one axis of one output, as `shape`."""
        return self.shape(output, length)[axis]
