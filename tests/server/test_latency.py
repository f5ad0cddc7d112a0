"""Latencies in buckets: powers of two, finer around a limit."""

import pytest

from tailcut.server.latency import Exemplar, LatencyHistogram, bounds_around, cumulative


def test_bounds() -> None:
    """Ascending, from 4 us to 18 minutes; with a limit there are eight more, the limit itself among them."""
    plain = bounds_around()
    assert (plain[0], plain[-1]) == (4096, 2**40)
    assert list(plain) == sorted(set(plain))
    assert set(bounds_around(20_000_000)) - set(plain) >= {20_000_000, 10_000_000, 40_000_000, 18_000_000}


@pytest.mark.parametrize(("took_ns", "within"), [(20_000_000, 1), (20_000_001, 0), (1, 1), (1 << 41, 0)])
def test_what_is_within_the_limit(took_ns: int, within: int) -> None:
    """What took exactly the limit is; what is over every bound is counted, too."""
    result = LatencyHistogram(20_000_000)
    result.add(took_ns)
    assert (sum(result.counts), result.total_ns, result.within_limit()) == (1, took_ns, within)


def test_several_requests_of_one_batch() -> None:
    """Each took as long; without a limit all are within it."""
    result = LatencyHistogram()
    result.add(5000, 3)
    assert (result.total_ns, result.within_limit()) == (15_000, 3)
    assert result.counts[1] == 3


def test_the_newest_exemplar_of_a_bucket_is_kept() -> None:
    """One for each bucket."""
    result = LatencyHistogram()
    for at_s, value in ((1.0, 5000), (2.0, 6000), (3.0, 9000)):
        result.note(Exemplar(at_s, value, "id"))
    assert [exemplar.at_s for exemplar in result.exemplars.values()] == [2.0, 3.0]


def test_buckets_add_up() -> None:
    """As Prometheus has them."""
    assert cumulative([1.0, 2.0], [3, 0, 4]) == [("1.0", 3), ("2.0", 3), ("+Inf", 7)]
    with pytest.raises(ValueError, match="zip"):
        cumulative([1.0], [3])
