"""Percentiles of the requests that were answered between two readings of a histogram.

The histogram counts every request, but its buckets are powers of two. The traces have the exact times of some of the
same requests. So the histogram determines the bucket, and the traces the value inside it: a figure is never outside the
bucket that contains the true value, and is exact if all traces were read.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from tailcut.live.records import Latency
from tailcut.stats import samples_needed

NO_REQUESTS = Latency(requests=0, p50_us=None, p95_us=None, p99_us=None, within_slo=None)
_QUANTILES = (0.5, 0.95, 0.99)


def latency(counts: Mapping[int, int], bounds: Sequence[int], times_ns: np.ndarray, *, limit_ns: int = 0) -> Latency:
    """Latency percentiles of some requests; None where there are too few requests for one.

    Args:
        counts: number of requests in each bucket, by its index; those in `counts[i]` took at most `bounds[i]`.
        bounds: upper bounds of the buckets, in nanoseconds; one further bucket is above all of them.
        times_ns: times of some of the requests, int64 [n], sorted; may be empty.
        limit_ns: the latency objective; 0: none.
    """
    requests = sum(counts.values())
    if not requests:
        return NO_REQUESTS
    p50, p95, p99 = (
        percentile_ns(counts, bounds, times_ns, q) / 1e3 if requests >= samples_needed(q) else None for q in _QUANTILES
    )
    within = None
    if limit_ns:
        last = bisect_left(bounds, limit_ns)
        within = sum(count for number, count in counts.items() if number <= last) / requests
    return Latency(requests=requests, p50_us=p50, p95_us=p95, p99_us=p99, within_slo=within)


def percentile_ns(counts: Mapping[int, int], bounds: Sequence[int], times_ns: np.ndarray, q: float) -> float:
    """The q-quantile in nanoseconds, of at least one request: the traces' own, clipped to the histogram's bucket.

    Without traces, the geometric mean of the bucket's bounds; Args as `latency`, with q from 0 to 1.
    """
    rank, below = math.ceil(q * sum(counts.values())), 0
    number = 0
    for number in sorted(counts):
        below += counts[number]
        if below >= rank:
            break
    low = bounds[number - 1] if number else 0
    high = bounds[number] if number < len(bounds) else math.inf
    if len(times_ns):
        return float(min(max(times_ns[math.ceil(q * len(times_ns)) - 1], low), high))
    return float(low) if math.isinf(high) else math.sqrt(max(low, high / 2) * high)


def since(now: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """The counts since an earlier reading, without those that are 0."""
    grown = {number: count - before.get(number, 0) for number, count in now.items()}
    return {number: count for number, count in grown.items() if count > 0}


def summed(many: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """The sum of several processes' counts."""
    result: dict[int, int] = {}
    for counts in many:
        for number, count in counts.items():
            result[number] = result.get(number, 0) + count
    return result
