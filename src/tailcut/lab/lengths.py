"""The lengths of requests, and how latency depends on them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from tailcut.lab.records import LengthLatencies, LengthQuartile, Lengths
from tailcut.spec import DType, ModelSpec
from tailcut.stats import Sample, percentile, samples_needed

_QUANTILES = {"p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class LengthMeasure:
    """What counts as the length of a model's requests: the size of an input's axis, or the bytes of its strings."""

    input: str
    axis: int | None  # None: bytes

    @property
    def unit(self) -> Literal["elements", "bytes"]:
        """What is counted."""
        return "bytes" if self.axis is None else "elements"

    def of(self, request: Mapping[str, np.ndarray]) -> int:
        """The length of one request."""
        array = request[self.input]
        if self.axis is not None:
            return int(array.shape[self.axis])
        return sum(len(item.encode() if isinstance(item, str) else item) for item in array.reshape(-1).tolist())


def measure_of(spec: ModelSpec) -> LengthMeasure | None:
    """What counts as the length of a model's requests; None where every request has the same size.

    It is the first free axis beside the batch, or else the bytes of the first input with strings. A model that is not
    known to be batched may have its sequence on the first axis.
    """
    for tensor in spec.inputs:
        free = [axis for axis, dim in enumerate(tensor.shape) if dim is None]
        behind = [axis for axis in free if axis > 0]
        if behind or (free and not spec.batched and tensor.dtype is not DType.BYTES):
            return LengthMeasure(tensor.name, behind[0] if behind else free[0])
    return next((LengthMeasure(tensor.name, None) for tensor in spec.inputs if tensor.dtype is DType.BYTES), None)


def lengths_record(
    measure: LengthMeasure | None, lengths: np.ndarray | None, latencies_ns: np.ndarray, *, known: bool
) -> Lengths | None:
    """The lengths that were sent, and the latency of each quarter of them; None where there are no lengths.

    Args:
        measure: what the lengths are.
        lengths: of the requests, int64 [requests].
        latencies_ns: of the same requests, in nanoseconds, [requests].
        known: whether the latencies are the server's; otherwise, percentiles are left out.
    """
    if measure is None or lengths is None or not len(lengths):
        return None
    ordered = Sample.of(lengths) if len(lengths) > 1 else None
    quantiles = {
        name: int(percentile(ordered, q)) if ordered is not None else int(lengths[0]) for name, q in _QUANTILES.items()
    }
    edges = sorted({int(lengths.min()) - 1, *(quantiles[name] for name in ("p25", "p50", "p75")), int(lengths.max())})
    parts = [
        _part(latencies_ns[(low < lengths) & (lengths <= high)], lengths[(low < lengths) & (lengths <= high)], known)
        for low, high in pairwise(edges)
    ]
    ends = {"min": int(lengths.min()), "max": int(lengths.max())}
    return Lengths(input=measure.input, unit=measure.unit, quartiles=parts, **ends, **quantiles)


def _part(latencies_ns: np.ndarray, lengths: np.ndarray, known: bool) -> LengthQuartile:  # noqa: FBT001  private
    """One quarter: its range of lengths, and its percentiles in milliseconds as far as there are enough samples."""
    sample = Sample.of(latencies_ns / 1e6) if known and len(latencies_ns) > 1 else None

    def at(q: float) -> float | None:
        if sample is None or len(sample) < samples_needed(q):
            return None
        return round(percentile(sample, q), 4)

    return LengthQuartile(
        int(lengths.min()), int(lengths.max()), len(lengths), LengthLatencies(p50=at(0.5), p95=at(0.95), p99=at(0.99))
    )
