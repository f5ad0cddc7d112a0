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

from tailcut.engines.base import Bound, Engine
from tailcut.errors import EngineError, InvalidInputError, TailcutError, UnsupportedError
from tailcut.memory.aligned import aligned_empty
from tailcut.runtime.batch import ArrayExecutor, Batch
from tailcut.runtime.cuts import Cut, learn_cut, probe_lengths
from tailcut.runtime.inputs import Arrays, row_key
from tailcut.runtime.profile import PaddingSettings
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


class PaddedExecutor:
    """Runs the rows of one bucket in scratch of its size; requests longer than all buckets as loose arrays."""

    def __init__(self, engine: Engine, padding: Padding, max_batch_size: int) -> None:
        self._engine = engine
        self._padding = padding
        self._rows = max_batch_size
        self._loose = ArrayExecutor(engine)
        self._bindable = all(tensor.row_bytes is not None for tensor in engine.spec.outputs)
        self._scratch: dict[int, dict[str, np.ndarray]] = {}
        self._outputs: dict[int, dict[str, np.ndarray]] = {}
        self._bound: dict[tuple[int, int], Bound] = {}

    def run(self, batch: Batch) -> None:
        """Fill `batch.outputs`; what follows the bucket's length is cut when a ticket's part is asked for."""
        bucket = batch.tickets[0].key
        if not isinstance(bucket, int):
            self._loose.run(batch)
            return
        scratch = self._fill(batch, bucket)
        batch.cuts = self._padding.cuts
        if self._bindable:
            self._call(bucket, batch.rows)()
            # The scratch is the next batch's before this one is handed out on its loop: answers need their own memory.
            batch.outputs = [array[: batch.rows].copy() for array in self._outputs[bucket].values()]
            return
        outputs = self._engine.run({name: array[: batch.rows] for name, array in scratch.items()})
        batch.outputs = [outputs[name] for name in self._engine.spec.output_names]
        if any(array.shape[:1] != (batch.rows,) for array in batch.outputs):
            raise EngineError("the model did not return one output row for each input row")

    def _fill(self, batch: Batch, bucket: int) -> dict[str, np.ndarray]:
        scratch = self._scratch.get(bucket) or self._make(bucket)
        for ticket, start in zip(batch.tickets, batch.offsets, strict=True):
            for name, source in (ticket.arrays or {}).items():
                target = scratch[name][start : start + ticket.count]
                axis = self._padding.axes.get(name)
                if axis is None or ticket.length == bucket:
                    target[:] = source
                else:
                    before = (slice(None),) * axis
                    target[(*before, slice(ticket.length))] = source
                    target[(*before, slice(ticket.length, None))] = self._padding.values[name]
        return scratch

    def _make(self, bucket: int) -> dict[str, np.ndarray]:
        spec, shape = self._engine.spec, self._padding.shape
        scratch = {t.name: aligned_empty(tuple(shape(t, self._rows, bucket)), t.dtype.numpy) for t in spec.inputs}
        self._scratch[bucket] = scratch
        if self._bindable:
            self._outputs[bucket] = {
                t.name: aligned_empty(tuple(shape(t, self._rows, bucket)), t.dtype.numpy) for t in spec.outputs
            }
        return scratch

    def _call(self, bucket: int, rows: int) -> Bound:
        call = self._bound.get((bucket, rows))
        if call is None:
            inputs, outputs = (
                {name: array[:rows] for name, array in arrays[bucket].items()}
                for arrays in (self._scratch, self._outputs)
            )
            call = self._bound[bucket, rows] = self._engine.bind(inputs, outputs)
        return call
