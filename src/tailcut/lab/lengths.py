"""How long requests are, and how much of the latency goes with it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tailcut.spec import DType, ModelSpec
from tailcut.stats import Sample, percentile, samples_needed

_QUANTILES = {"p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}
_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Measure:
    """What the length of a model's requests is: the size of an axis of an input, or the bytes of its strings."""

    input: str
    axis: int | None  # None: bytes

    @property
    def unit(self) -> str:
        """What is counted."""
        return "bytes" if self.axis is None else "elements"

    def of(self, request: Mapping[str, np.ndarray]) -> int:
        """The length of one request."""
        array = request[self.input]
        if self.axis is not None:
            return int(array.shape[self.axis])
        return sum(len(item.encode() if isinstance(item, str) else item) for item in array.reshape(-1).tolist())


def measure_of(spec: ModelSpec) -> Measure | None:
    """How the requests of a model are measured: None where every request has the same size.

    The first free axis beside the batch, else the bytes of the first input of strings. A model that is not known to be
    batched may have its sequence on the first axis.
    """
    for tensor in spec.inputs:
        free = [axis for axis, dim in enumerate(tensor.shape) if dim is None]
        behind = [axis for axis in free if axis > 0]
        if behind or (free and not spec.batched and tensor.dtype is not DType.BYTES):
            return Measure(tensor.name, behind[0] if behind else free[0])
    return next((Measure(one.name, None) for one in spec.inputs if one.dtype is DType.BYTES), None)


def lengths_record(
    measure: Measure | None, lengths: np.ndarray | None, latencies_ns: np.ndarray, *, known: bool
) -> dict[str, Any] | None:
    """The lengths that were sent, and the latency of each quarter of them, fit for JSON; None where there are none.

    Args:
        measure: what the lengths are.
        lengths: of the requests, int64 [requests].
        latencies_ns: of the same requests.
        known: whether the latencies are the server's; else no percentile is given.
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
    found = {"input": measure.input, "unit": measure.unit, "min": int(lengths.min()), **quantiles}
    return found | {"max": int(lengths.max()), "quartiles": parts}


def _part(latencies_ns: np.ndarray, lengths: np.ndarray, known: bool) -> dict[str, Any]:  # noqa: FBT001  private
    """One quarter: which lengths it holds, and its percentiles in milliseconds as far as the samples go."""
    sample = Sample.of(latencies_ns / 1e6) if known and len(latencies_ns) > 1 else None
    return {
        "from": int(lengths.min()),
        "to": int(lengths.max()),
        "samples": len(lengths),
        "latency_ms": {
            name: round(percentile(sample, q), 4)
            if sample is not None and len(latencies_ns) >= samples_needed(q)
            else None
            for name, q in _PERCENTILES.items()
        },
    }
