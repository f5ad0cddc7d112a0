"""The kinds of requests in data, as a profile keeps them, so that a server warms up with their sizes and values."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from tailcut.engines.filling import ROWS, SampleInput
from tailcut.engines.samples import Samples
from tailcut.errors import ProfileError
from tailcut.spec import DType, ModelSpec, TensorSpec

_MOST = 4  # kinds that are kept, at most
_LARGEST = 1 << 62  # within the 64-bit integers of TOML
_Request = Mapping[str, np.ndarray]


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of request: how its inputs are filled, and how many rows it has."""

    inputs: dict[str, SampleInput]
    rows: int = 1

    def of(self, spec: ModelSpec) -> Samples:
        """The samples of this kind for a model.

        Raises:
            ProfileError: the model has other inputs, or accepts other sizes.
        """
        for tensor in spec.inputs:
            sample = self.inputs.get(tensor.name)
            shape = () if sample is None else tuple(self.rows if dim == ROWS else dim for dim in sample.shape)
            if sample is None or min(shape, default=0) < 0 or not tensor.accepts(shape):
                raise ProfileError(f"samples of the profile do not fit input {tensor.name!r}: tune the model again")
        return Samples(spec, self.inputs, self.rows)


def kinds_of(
    spec: ModelSpec, requests: Sequence[_Request], answered: Sequence[_Request] | None = None
) -> tuple[SampleRequest, ...]:
    """Up to four kinds of requests by size: the most frequent, the smallest, the largest, and the next in frequency.

    Empty where all sizes are fixed, because then all requests are alike.

    Args:
        spec: of the model.
        requests: those in the data.
        answered: the requests that the model is known to answer; values are taken only from these, because others may
            have an index that is out of range. None: all.
    """
    if not requests or not any(None in tensor.row_shape for tensor in spec.inputs):
        return ()
    counts = Counter(tuple(request[name].shape for name in spec.input_names) for request in requests)
    by_size = sorted(counts, key=lambda shapes: sum(map(np.prod, shapes)))
    usual = [shapes for shapes, _ in counts.most_common()]
    kept = list(dict.fromkeys([usual[0], by_size[0], by_size[-1], *usual]))[:_MOST]
    values = {tensor.name: _values(tensor, answered or requests) for tensor in spec.inputs}
    return tuple(_kind(spec, shapes, values) for shapes in kept)


def _kind(spec: ModelSpec, shapes: Sequence[tuple[int, ...]], values: Mapping[str, SampleInput]) -> SampleRequest:
    leads = {shape[0] for tensor, shape in zip(spec.inputs, shapes, strict=True) if tensor.shape[:1] == (None,)}
    rows = leads.pop() if len(leads) == 1 else None  # inputs whose first dimensions differ keep them
    inputs = {}
    for tensor, shape in zip(spec.inputs, shapes, strict=True):
        free = rows is not None and tensor.shape[:1] == (None,)
        inputs[tensor.name] = msgspec.structs.replace(values[tensor.name], shape=(ROWS, *shape[1:]) if free else shape)
    return SampleRequest(inputs=inputs, rows=rows or 1)


def _values(tensor: TensorSpec, requests: Sequence[_Request]) -> SampleInput:
    """The kind of values that the data has for an input, without sizes."""
    if tensor.dtype is DType.BYTES:
        return SampleInput(shape=(), values="text")
    arrays = [request[tensor.name] for request in requests if request[tensor.name].size]
    if not arrays:
        return SampleInput(shape=(), values="constant")
    low, high = (float(pick([pick(array) for array in arrays])) for pick in (np.min, np.max))
    if low == high and abs(low) < _LARGEST and low == int(low):
        return SampleInput(shape=(), values="constant", low=int(low))
    if tensor.dtype.numpy.kind not in "iub":
        return SampleInput(shape=())
    if "mask" in tensor.name.lower() and (low, high) == (0, 1):
        return SampleInput(shape=(), values="mask")
    return SampleInput(shape=(), values="integers", low=max(int(low), -_LARGEST), high=min(int(high), _LARGEST) + 1)
