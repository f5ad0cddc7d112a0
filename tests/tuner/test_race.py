"""What two arms' blocks say about each other."""

from typing import Any

import numpy as np
import pytest

from tailcut.lab.trial import FAILED_MS, ArmRuns
from tailcut.stats import Interval, Verdict
from tailcut.tuner.race import Ratios, judged, met, p99_interval, p99_ratio, percentiles_ms, ratios, tail_of
from tailcut.tuner.result import arm_record, no_ratio_because, tail_ratio

RANDOM = np.random.default_rng


def runs(scale: float, *, blocks: int = 12, size: int = 150, speed: float = 100.0, seed: int = 0) -> ArmRuns:
    random = RANDOM(seed)
    arm = ArmRuns()
    for _ in range(blocks):
        arm.blocks.append(random.lognormal(sigma=0.4, size=size) * scale)
        arm.throughputs.append(speed * random.lognormal(sigma=0.03))
    return arm


def test_a_shorter_tail_is_seen() -> None:
    """Half the latency is half of every percentile, and the interval says so."""
    result = ratios(runs(0.5, seed=1), runs(1.0, seed=2))
    assert list(result.percentiles) == ["p99", "p95", "p50"]
    assert result.tail is not None
    assert result.tail[0] == "p99"
    assert all(interval.low < 0.5 < interval.high < 0.9 for interval in result.percentiles.values())


def test_one_stalled_block_does_not_hide_it() -> None:
    """A block in which the machine stalled costs the pair, not the comparison."""
    new = runs(0.5, blocks=20, seed=1)
    new.blocks[4] = new.blocks[4] * 40
    assert ratios(new, runs(1.0, blocks=20, seed=2)).percentiles["p99"].high < 0.9


@pytest.mark.parametrize(("size", "known"), [(1, ["p50"]), (10, ["p95", "p50"]), (60, ["p99", "p95", "p50"])])
def test_few_samples_tell_less(size: int, known: list[str]) -> None:
    """A percentile that the samples cannot tell is absent; short blocks are taken together."""
    result = ratios(runs(0.5, size=size, seed=1), runs(1.0, size=size, seed=2))
    assert list(result.percentiles) == known
    assert result.percentiles["p50"].high < 0.95


def test_too_few_for_anything() -> None:
    """Six samples know no percentile."""
    result = ratios(runs(1.0, blocks=3, size=2), runs(1.0, blocks=3, size=2))
    assert result.tail is None
    assert percentiles_ms(runs(1.0, blocks=3, size=2)) == {"p50_ms": None, "p95_ms": None, "p99_ms": None}


def test_throughput_turned_over() -> None:
    """Twice the requests per second is half the time a request."""
    result = Ratios(throughput=Interval(2.0, 1.6, 2.5))
    assert result.time_per_request == Interval(0.5, 0.4, 0.625)
    assert Ratios().time_per_request is None


def failing(share: float, **options: Any) -> ArmRuns:
    """Runs in which a share of each block's requests failed."""
    arm = runs(1.0, **options)
    for block in arm.blocks:
        block[: round(share * len(block))] = FAILED_MS
        arm.errors += round(share * len(block))
    return arm


def test_failed_requests_count_as_later_than_any_other() -> None:
    """Of 2 % that failed, the p99 is one: it is over every limit, and no ratio is claimed."""
    before, after = runs(1.0, seed=1), failing(0.02, seed=2)
    assert percentiles_ms(after)["p99_ms"] is None
    assert percentiles_ms(after)["p50_ms"] == pytest.approx(1.0, rel=0.1)
    assert met(after, 1e6) is False
    assert met(before, 1e6) is True
    assert p99_ratio(after, before) is None
    assert tail_ratio(after, before, 0) is None
    assert no_ratio_because(after, before, 0) == "requests failed: 36 of the tuned server's and 0 of the baseline's"
    assert judged(Ratios(ratios(after, before).percentiles)) == (Verdict.WORSE, "p99 of failed requests")
    assert judged(Ratios(ratios(before, after).percentiles)) == (Verdict.BETTER, "p99 of failed requests")
    record = arm_record(after, 100.0)
    assert (record.p99_ms, record.p99_interval_ms, record.errors) == (None, None, 36)
    assert record.samples == 12 * 147
    assert max(value for _, value in record.curve) < 10


def test_where_requests_of_both_sides_failed_the_p95_is_compared() -> None:
    """Two p99 that no answer reached have no ratio."""
    of, interval = tail_of(failing(0.02, seed=1), failing(0.02, seed=2)) or (None, None)
    assert of == "p95"
    assert interval is not None
    assert interval.low < 1 < interval.high


def test_a_single_failure_leaves_the_p99() -> None:
    """It is one late request of 1,800."""
    after = runs(0.5, seed=2)
    after.blocks[3][0] = FAILED_MS
    after.errors = 1
    ratio = p99_ratio(after, runs(1.0, seed=1))
    assert ratio is not None
    assert ratio.high < 1
    assert p99_interval(after) is not None


def test_nothing_is_claimed_of_a_client_that_was_late_in_most_blocks() -> None:
    """No percentile and no ratio, as in a load test."""
    before, after = runs(1.0, seed=1), runs(0.5, seed=2)
    after.behind = 6
    assert tail_ratio(after, before, 0) is not None
    after.behind = 7
    record = arm_record(after, 100.0)
    assert (record.p50_ms, record.p99_ms, record.p99_interval_ms, record.curve) == (None, None, None, [])
    assert record.samples == 1800
    assert met(after, 1e6) is None
    assert tail_ratio(after, before, 0) is p99_ratio(after, before) is None
    assert no_ratio_because(after, before, 0) == "the load client itself was late in most blocks"
