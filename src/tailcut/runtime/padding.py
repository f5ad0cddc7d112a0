"""Requests of different lengths in one batch: inputs are padded to the sizes of a bucket, and outputs cut back.

The lengths are those of one or two free dimensions beside the batch (such as a sequence, or height and width). Rows of
one bucket compute together, in scratch arrays of the worker that have the bucket's fixed sizes, so the engine can be
bound to them: a request's arrays are copied once. Which outputs depend on which length, and with which stride, is
learned by computing rows of many lengths. Whether padding changes the model's answers is not checked here: `tailcut
tune` compares them with those of the unpadded model before it offers a bucket.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product

import numpy as np

from tailcut.engines.base import Engine
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.runtime.cuts import Cut, learn_cut, probe_lengths
from tailcut.runtime.inputs import Arrays, is_uneven, row_key
from tailcut.runtime.settings import PaddingSettings
from tailcut.spec import DType, ModelSpec, TensorSpec

Lengths = tuple[int, ...]  # one for each padded dimension
Places = Mapping[str, tuple[tuple[int, int], ...]]  # for each padded input: pairs of a free axis and its dimension


@dataclass(frozen=True, slots=True)
class Bucket:
    """The sizes to which requests are padded, one for each dimension; also the key of these requests."""

    sizes: Lengths


@dataclass(frozen=True)
class Padding:
    """How a model is padded: the axes and the padding value of each padded input, and how each output is cut.

    Requests shorter than `shortest`, the smallest length that the model was found to accept, are not padded.
    """

    spec: ModelSpec
    buckets: tuple[Lengths, ...]  # for each dimension, ascending
    places: Places
    values: Mapping[str, float]
    cuts: tuple[tuple[Cut, ...], ...]
    shortest: Lengths

    @cached_property
    def grid(self) -> tuple[Bucket, ...]:
        """All buckets, small ones first."""
        return tuple(map(Bucket, product(*self.buckets)))

    def place(self, arrays: Arrays) -> tuple[object, Lengths]:
        """The key of a request, and its lengths; the key is its bucket, or its own shape where it fits no bucket.

        A request whose inputs differ along a dimension fits none, either: the model may not require equal lengths, even
        if they were equal in the data by which the buckets were chosen.
        """
        lengths = None if is_uneven(self.spec, arrays) else lengths_of(self.places, arrays)
        if lengths is None:
            return row_key(self.spec, arrays), ()
        sizes = []
        for buckets, length, shortest in zip(self.buckets, lengths, self.shortest, strict=True):
            at = bisect_left(buckets, length)
            if at == len(buckets) or length < shortest:
                return row_key(self.spec, arrays), lengths
            sizes.append(buckets[at])
        return Bucket(tuple(sizes)), lengths

    def shape(self, tensor: TensorSpec, rows: int, lengths: Lengths) -> tuple[int, ...]:
        """The shape of an input, or of an output that depends on no length, in a batch with these rows and lengths."""
        shape = [rows, *(dim or 0 for dim in tensor.row_shape)]
        for axis, dimension in self.places.get(tensor.name, ()):
            shape[axis] = lengths[dimension]
        return tuple(shape)


def places_of(spec: ModelSpec, settings: PaddingSettings) -> Places:
    """The free axes of each padded input, with the dimension of each.

    Raises:
        UnsupportedError: the settings do not fit the model's inputs; the message says why.
    """
    padded = {padding.name: padding for padding in settings.inputs}
    unknown = set(padded) - set(spec.input_names)
    if unknown:
        raise UnsupportedError(f"padding: the model has no input {min(unknown)!r}")
    if not spec.batched:
        raise UnsupportedError("padding: the model has no batch dimension")
    places: dict[str, tuple[tuple[int, int], ...]] = {}
    for tensor in spec.inputs:
        free = [axis for axis, dim in enumerate(tensor.shape) if axis and dim is None]
        own = padded.get(tensor.name)
        if own is not None:
            _check_value(tensor, own.value)
            places[tensor.name] = _dimensions(tensor.name, free, own.dims, len(settings.dimensions))
        elif free or tensor.dtype is DType.BYTES:
            raise UnsupportedError(f"padding: input {tensor.name!r} has no fixed size and is not padded: pad it, too")
    followed = {dimension for axes in places.values() for _, dimension in axes}
    if len(followed) < len(settings.dimensions):
        raise UnsupportedError("padding: second_buckets are for a dimension that no input has")
    return places


def lengths_of(places: Places, arrays: Mapping[str, np.ndarray]) -> Lengths | None:
    """A request's length along each dimension; None where axes of the same dimension differ."""
    lengths: dict[int, int] = {}
    for name, axes in places.items():
        shape = arrays[name].shape
        for axis, dimension in axes:
            if lengths.setdefault(dimension, shape[axis]) != shape[axis]:
                return None
    return tuple(lengths[dimension] for dimension in range(len(lengths)))


def plan_padding(engine: Engine, settings: PaddingSettings) -> Padding:
    """Check the settings against the model, and find out from the model which outputs depend on the lengths.

    Raises:
        UnsupportedError: the model cannot be padded so; the message says why.
    """
    spec, dimensions = engine.spec, settings.dimensions
    places = places_of(spec, settings)
    values = {own.name: own.value for own in settings.inputs}
    nothing: tuple[tuple[Cut, ...], ...] = ((),) * len(spec.outputs)
    return _with_cuts(engine, Padding(spec, dimensions, places, values, nothing, (1,) * len(dimensions)))


def _check_value(tensor: TensorSpec, value: float) -> None:
    dtype = tensor.dtype.numpy
    if tensor.dtype is DType.BYTES or (dtype.kind in "iub" and np.array(value).astype(dtype) != value):
        raise UnsupportedError(f"padding: input {tensor.name!r} is {tensor.dtype}, which does not hold {value:g}")


def _dimensions(name: str, free: Sequence[int], dims: Sequence[int], most: int) -> tuple[tuple[int, int], ...]:
    """The free axes of one input, with the dimension of each (from 0)."""
    dims = dims or range(1, len(free) + 1)
    if not free or max(dims) > most:
        known = "buckets for one" if most == 1 else "buckets for two"
        raise UnsupportedError(
            f"padding: input {name!r} has {len(free)} free dimensions besides the batch, but there are {known}"
        )
    if len(dims) != len(free) or min(dims) < 1:
        raise UnsupportedError(f"padding: dims of input {name!r} must say 1 or 2 for each of its {len(free)} free axes")
    return tuple(zip(free, (dim - 1 for dim in dims), strict=True))


def _with_cuts(engine: Engine, padding: Padding) -> Padding:
    """Compute a row of ones at many lengths, and learn how the axes of outputs have to be cut.

    The longest comes first: OpenVINO plans some models wrongly if their first shape is small.
    """
    sizes = _Sizes(engine, padding)
    longest = tuple(buckets[-1] for buckets in padding.buckets)
    nothing_to_cut = all(tensor.row_bytes is not None for tensor in engine.spec.outputs)
    known = sizes.of(longest)
    if known is None:
        if nothing_to_cut:
            return padding  # it accepts no ones, which says nothing about lengths
        raise UnsupportedError(f"padding: the model refuses a row of {_words(longest)} ones: {sizes.refusal}")
    if nothing_to_cut and known == sizes.of(padding.shortest):
        return padding  # it accepts the shortest row, so every length may be padded
    cuts: list[tuple[Cut, ...]] = [()] * len(known)
    accepted = []
    for dimension in range(len(longest)):
        line = _Line(sizes, dimension)
        accepted.append(line.accepted())
        for output in range(len(known)):
            cuts[output] += line.cuts(output, accepted[-1])
    _check_together(sizes, cuts, accepted)
    return replace(padding, cuts=tuple(cuts), shortest=tuple(lengths[0] for lengths in accepted))


def _check_together(sizes: "_Sizes", cuts: Sequence[Sequence[Cut]], accepted: Sequence[Sequence[int]]) -> None:
    """Check that each axis of an output depends on one length only.

    Raises:
        UnsupportedError: one does not.
    """
    ends = [dict.fromkeys((lengths[0], lengths[len(lengths) // 2], lengths[-1])) for lengths in accepted]
    for lengths in product(*ends):
        for output, own in enumerate(cuts):
            shape = list(sizes.shape(output, sizes.longest))
            for cut in own:
                shape[cut.axis] = cut.at(lengths[cut.dimension])
            if len({cut.axis for cut in own}) < len(own) or sizes.shape(output, lengths) != tuple(shape):
                raise sizes.unpredictable(output)


class _Line:
    """Lengths of one dimension; the other is kept at its first bucket, because long rows take long."""

    def __init__(self, sizes: "_Sizes", dimension: int) -> None:
        self._sizes = sizes
        self._dimension = dimension

    def accepted(self) -> list[int]:
        """The lengths that the model accepts, ascending, among those at which sizes are compared.

        Raises:
            UnsupportedError: it accepts none, or accepts one and refuses a longer one.
        """
        probed = probe_lengths(self._sizes.padding.buckets[self._dimension])
        accepted = [length for length in reversed(probed) if self._sizes.of(self._at(length)) is not None][::-1]
        if not accepted:
            raise UnsupportedError(
                f"padding: the model refuses a row of {_words(self._at(probed[-1]))} ones: {self._sizes.refusal}"
            )
        refused = [length for length in probed if length > accepted[0] and length not in accepted]
        if refused:
            raise UnsupportedError(
                f"padding: the model takes a row of {accepted[0]} ones and refuses one of {refused[0]}: "
                "not every length can be padded"
            )
        return accepted

    def cuts(self, output: int, lengths: list[int]) -> tuple[Cut, ...]:
        """How the axes of one output depend on this dimension.

        Raises:
            UnsupportedError: one depends on it in an unknown way.
        """
        shapes = [self._sizes.shape(output, self._at(length)) for length in lengths]
        cuts = []
        for axis in range(len(shapes[0])):
            if len({shape[axis : axis + 1] for shape in shapes}) == 1:
                continue
            cut = learn_cut(axis, partial(self._size, output, axis), lengths) if axis else None
            if cut is None:
                raise self._sizes.unpredictable(output)
            cuts.append(replace(cut, dimension=self._dimension))
        return tuple(cuts)

    def _at(self, length: int) -> Lengths:
        lengths = [buckets[0] for buckets in self._sizes.padding.buckets]
        lengths[self._dimension] = length
        return tuple(lengths)

    def _size(self, output: int, axis: int, length: int) -> int:
        return self._sizes.shape(output, self._at(length))[axis]


class _Sizes:
    """The shapes of all outputs for a row of ones of some lengths, each computed once."""

    def __init__(self, engine: Engine, padding: Padding) -> None:
        self.padding = padding
        self.longest = tuple(buckets[-1] for buckets in padding.buckets)
        self.refusal = ""
        self._engine = engine
        self._known: dict[Lengths, list[tuple[int, ...]] | None] = {}

    def of(self, lengths: Lengths) -> list[tuple[int, ...]] | None:
        """The outputs' shapes; None where the model refuses the lengths, and `refusal` is its error message."""
        if lengths not in self._known:
            spec, shape = self._engine.spec, self.padding.shape
            inputs = {t.name: np.ones(shape(t, 1, lengths), t.dtype.numpy) for t in spec.inputs}
            try:
                outputs = self._engine.run(inputs)
                self._known[lengths] = [outputs[name].shape for name in spec.output_names]
            except TailcutError as error:
                self.refusal, self._known[lengths] = str(error), None
        return self._known[lengths]

    def shape(self, output: int, lengths: Lengths) -> tuple[int, ...]:
        """The shape of one output.

        Raises:
            UnsupportedError: the model refuses the lengths.
        """
        shapes = self.of(lengths)
        if shapes is None:
            raise UnsupportedError(f"padding: the model refuses a row of {_words(lengths)} ones: {self.refusal}")
        return shapes[output]

    def unpredictable(self, output: int) -> UnsupportedError:
        """The error for an output whose sizes depend on the inputs in an unknown way."""
        name = self._engine.spec.output_names[output]
        return UnsupportedError(f"padding: output {name!r} does not follow the inputs' length by one stride an axis")


def _words(lengths: Lengths) -> str:
    return " x ".join(map(str, lengths))
