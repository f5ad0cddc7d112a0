"""Percentiles of a second: counted by the histogram, percentile_ns inside its bucket by traces, unknown where few."""

import numpy as np
import pytest

from tailcut.live.percentiles import latency, percentile_ns, since, summed

BOUNDS = (1_000, 2_000, 4_000, 8_000)
NONE = np.empty(0, np.int64)


def test_no_requests_are_none() -> None:
    """Not 0: nothing is known of requests that there were not."""
    figures = latency({}, BOUNDS, NONE, limit_ns=4_000)
    assert figures.requests == 0
    assert (figures.p50_us, figures.p95_us, figures.p99_us, figures.within_slo) == (None, None, None, None)


@pytest.mark.parametrize(("requests", "known"), [(6, 0), (7, 1), (89, 1), (90, 2), (458, 2), (459, 3)])
def test_few_requests_have_no_high_percentile(requests: int, known: int) -> None:
    """As everywhere in Tailcut: 7 for p50, 90 for p95, 459 for p99."""
    figures = latency({1: requests}, BOUNDS, np.full(requests, 1_500))
    assert [value is not None for value in (figures.p50_us, figures.p95_us, figures.p99_us)] == [
        number < known for number in range(3)
    ]


def test_with_all_traces_it_is_exact() -> None:
    """The nearest-rank percentile of the times, whatever the buckets are."""
    times = np.sort(np.random.default_rng(1).integers(900, 9_000, 1000))
    counts = dict(enumerate(np.bincount(np.searchsorted(BOUNDS, times), minlength=5).tolist()))
    for q in (0.5, 0.95, 0.99):
        assert percentile_ns(counts, BOUNDS, times, q) == times[int(np.ceil(q * 1000)) - 1]


@pytest.mark.parametrize("times", [NONE, np.array([10]), np.array([10**9]), np.array([1_700, 1_800])])
def test_it_stays_in_the_bucket_of_the_true_one(times: np.ndarray) -> None:
    """Whatever traces of other requests say: 95 of 100 took 1 to 2 us, so p50 did, and p99 took 4 to 8."""
    counts = {1: 95, 3: 5}
    assert 1_000 <= percentile_ns(counts, BOUNDS, times, 0.5) <= 2_000
    assert 4_000 <= percentile_ns(counts, BOUNDS, times, 0.99) <= 8_000


def test_the_last_bucket_has_no_upper_bound() -> None:
    """Without traces, the figure is its lower bound; with them, the traces' own."""
    assert percentile_ns({4: 10}, BOUNDS, NONE, 0.5) == 8_000
    assert percentile_ns({4: 10}, BOUNDS, np.array([77_000]), 0.5) == 77_000


def test_the_share_within_a_limit_is_counted() -> None:
    """A bucket ends at the limit, so it is exact."""
    figures = latency({0: 1, 2: 8, 3: 1}, BOUNDS, NONE, limit_ns=4_000)
    assert figures.within_slo == 0.9


def test_differences_and_sums_of_counts() -> None:
    """What has not grown is left out; a count that is smaller than it was is another histogram's."""
    assert since({1: 5, 2: 7, 3: 1}, {1: 5, 2: 4, 3: 9}) == {2: 3}
    assert summed([{1: 2, 3: 1}, {}, {1: 5}]) == {1: 7, 3: 1}
