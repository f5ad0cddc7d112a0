"""What a pipeline is expected to do, from what a call of each step takes."""

import pytest

from tailcut.runtime.pipeline_settings import StageSettings
from tailcut.tuner.pipelines.ways import Around, Way, expect, shortlist

MS = 1e6
AROUND = Around(cpus=4.0, hand_over_ns=0.0, limit_ms=1e9, rate=0.0)


def way(name: str, times_ms: dict[int, float], *, workers: int = 1, batch: int = 64, mib: int = 10) -> Way:
    times = {size: value * MS for size, value in times_ms.items()}
    settings = StageSettings(name=name, workers=workers, max_batch_size=batch)
    return Way(settings, times, times, batch, workers, workers * mib << 20)


def test_the_slowest_step_limits_the_rate() -> None:
    """A lone call is the sum of all; more processes of the slowest step carry more."""
    quick, slow = way("a", {1: 1.0}), way("b", {1: 4.0})
    assert expect([quick, slow], AROUND).rate == pytest.approx(250)
    assert expect([quick, slow], AROUND).alone_ms == pytest.approx(5)
    assert expect([quick, way("b", {1: 4.0}, workers=2)], AROUND).rate == pytest.approx(500)


def test_the_cpus_limit_it_too() -> None:
    """Of more processes than CPUs no more comes."""
    many = [way("a", {1: 4.0}, workers=8)]
    assert expect(many, AROUND).rate == pytest.approx(1000)


def test_batches_are_as_large_as_the_limit_leaves_room_for() -> None:
    """Rows are cheaper in a batch, but a batch that takes longer than the limit is of no use."""
    steps = [way("a", {1: 1.0, 8: 2.0, 64: 9.0})]
    assert expect(steps, AROUND).rate == pytest.approx(64 / 9e-3, rel=0.01)
    tight = Around(4.0, 0.0, 4.0, 0.0)
    assert expect(steps, tight).rate == pytest.approx(4000)
    assert expect([way("a", {1: 1.0, 8: 2.0}, batch=4)], AROUND).rate == pytest.approx(1000)


def test_the_tail_grows_with_the_load() -> None:
    """And is without bounds over the capacity."""
    steps = [way("a", {1: 1.0})]
    tails = [expect(steps, Around(4.0, 0.0, 1e9, rate)).p99_ms for rate in (10, 500, 900, 1100)]
    assert tails == sorted(tails)
    assert tails[-1] == float("inf")


def test_what_is_beaten_in_everything_is_left_out() -> None:
    """More processes that carry no more, and take more memory; the others stay, the quickest alone among them."""
    good, wasteful = way("a", {1: 1.0}), way("a", {1: 1.0}, mib=99)
    many = way("a", {1: 1.0}, workers=2)
    alone = way("a", {1: 0.8}, mib=20)
    assert {id(item) for item in shortlist([good, wasteful, many, alone], 8)} == {id(good), id(many), id(alone)}
    assert [id(item) for item in shortlist([good, many, alone], 2)] == [id(alone), id(many)]
