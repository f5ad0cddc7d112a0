"""More traffic with the same tail: shown where it is there, and not where two servers are alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.effort import runs
from tests.engines.models import perceptron

from tailcut.lab.load import LoadResult, LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.lab.trial import FAILED_MS, Arm, ArmRuns, ServedProfile, open_block
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner import baseline
from tailcut.tuner.baseline import Baseline, measure_baseline
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.traffic import CarriedBlocks, CarriedRate, Overload, Traffic, evidence

RUNS = runs(500)
KNOWN = Baseline(capacity=100.0, clients=16, rate=50.0, limit_ms=20.0)


def overload(limit_ms: float, rate: float, capacity: float, *, own_limit: bool = False) -> Overload:
    return Overload(Baseline(capacity, 16, rate, limit_ms, own_limit))


def latencies(rate: float, capacity: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Of an M/M/1 queue that is stable below its capacity, in ms; of one that is not, ever longer."""
    if rate >= capacity:
        return np.linspace(1.0, 1e3 * count * (1 / capacity - 1 / rate) + 1.0, count)
    return random.exponential(1e3 / (capacity - rate), count)


@pytest.mark.parametrize("capacity", [130.0, 180.0, 400.0])
def test_the_baseline_is_found_over_the_limit_near_its_capacity(capacity: float) -> None:
    """Never at a rate whose p99 is within the limit, and soon above that rate."""
    random = np.random.default_rng(0)
    limit_ms = 100.0
    highest = capacity - 1e3 / limit_ms * np.log(100)  # the rate whose p99 is the limit
    search = overload(limit_ms, 80.0, capacity)
    assert search.lowest([latencies(80.0, capacity, 200, random) for _ in range(20)]) is None
    for _ in range(8):
        search.add(latencies(search.rate, capacity, 300, random))
    assert search.result is not None
    assert 0.95 * highest <= search.result <= 1.55 * capacity


@pytest.mark.parametrize("size", [99, 199])
def test_a_block_at_the_limit_is_no_evidence(size: int) -> None:
    """Of a p99 that is the limit, most blocks of these sizes have more than 1 % late answers: nothing is shown."""
    random = np.random.default_rng(size)
    shown = 0
    for _ in range(RUNS):
        blocks = [np.where(random.random(size) < 0.01, 20.0, 1.0) for _ in range(40)]
        shown += overload(10.0, 50.0, 55.0).lowest(blocks) is not None
    assert shown <= 0.02 * RUNS
    assert np.mean([evidence(np.where(random.random(size) < 0.01, 20.0, 1.0), 10.0) for _ in range(20_000)]) <= 1.01


def test_the_rate_at_the_limit_is_hardly_ever_found() -> None:
    """A queue whose p99 is exactly the limit, where late answers come together."""
    random = np.random.default_rng(3)
    capacity, limit_ms = 1000.0, 20.0
    highest = capacity - 1e3 / limit_ms * np.log(100)
    result = 0
    for _ in range(RUNS):
        search = overload(limit_ms, 500.0, capacity)
        while not search.is_over:
            search.add(queue(highest, capacity, 300, random))
        result += search.result is not None
    assert result <= 0.02 * RUNS


def test_the_verification_itself_may_show_it() -> None:
    """A baseline that misses a limit of the user's at the rate of the verification; failed requests count as late."""
    late, failed = np.full(300, 12.0), np.concatenate([np.full(10, 1.0), np.full(20, FAILED_MS)])
    assert overload(10.0, 50.0, 55.0).lowest([late] * 3) == 50.0
    assert overload(10.0, 50.0, 55.0).lowest([late] * 2) is None
    assert overload(10.0, 50.0, 55.0, own_limit=True).lowest([late] * 20) is None
    failing = overload(10.0, 50.0, 55.0)
    for _ in range(3):
        failing.add(failed)
    assert failing.result == pytest.approx(68.75)


def test_a_stall_is_no_overload() -> None:
    """One block in which many answers are late says nothing of the rate; after four rates the search is over."""
    search = overload(10.0, 50.0, 55.0)
    for number in range(7):
        assert not search.is_over
        search.add(np.full(200, 1.0 if number % 2 else 50.0))
    search.add(np.full(200, 1.0))
    assert search.is_over
    assert search.result is None
    assert search.rate == pytest.approx(68.75 * 1.2**4)


def test_the_rate_is_lowered_until_it_is_sustained() -> None:
    """By a third each time, and no further than needed; not for a few late answers of a small block."""
    random = np.random.default_rng(0)
    capacity, limit_ms = 1000.0, 20.0
    highest = capacity - 1e3 / limit_ms * np.log(100)  # the rate whose p99 is the limit
    carried = CarriedRate(limit_ms, 1400.0)
    while not carried.is_over:
        carried.add(latencies(carried.rate, capacity, 400, random), carried.rate)
    assert carried.shown is not None
    assert 0.6 * highest <= carried.shown.rate <= highest
    patient = CarriedRate(10.0, 50.0, above=40.0)
    patient.add(np.array([1.0] * 19 + [50.0]), 50.0)
    assert patient.rate == 50.0
    patient.add(np.concatenate([np.full(100, 1.0), np.full(10, FAILED_MS)]), 50.0)
    assert patient.rate == 32.5


def test_what_is_shown_a_step_below_stands_while_the_whole_rate_is_tried() -> None:
    """Both are sustained; only the lower one; or a step below is worth nothing: the baseline sustains as much."""
    quick, late = np.full(700, 1.0), np.full(700, 50.0)
    both, lower = CarriedRate(10.0, 100.0), CarriedRate(10.0, 100.0)
    for carried, then in ((both, quick), (lower, late)):
        assert carried.rate == 65.0
        for _ in range(4):
            assert not carried.is_over
            carried.add(quick, 65.0)
        assert (carried.rate, carried.is_over) == (100.0, False)
        while not carried.is_over:
            carried.add(then, 100.0)
    assert [carried.best.rate for carried in (both, lower)] == [100.0, 65.0]
    assert [len(carried.best.latencies) for carried in (both, lower)] == [4 * 700] * 2
    assert CarriedRate(10.0, 100.0, above=70.0).rate == 100.0


def test_the_own_tail_of_the_baseline_is_that_of_the_same_rounds() -> None:
    """A limit that was measured in a quiet moment counts for nothing: nor does a p99 that is hardly the shorter one."""
    random = np.random.default_rng(5)
    shown = {}
    for factor in (0.2, 1.0):
        carried = CarriedRate(2.0, 100.0)
        for _ in range(4):
            beside = random.exponential(10.0, 500)
            carried.add(factor * random.exponential(10.0, 500), 65.0, beside)
        shown[factor] = carried.best.is_within(2.0)
        assert carried.rate == pytest.approx(100.0 if factor == 0.2 else 0.65 * 65.0)
    assert shown == {0.2: True, 1.0: False}


def test_a_rate_that_the_baseline_carries_is_no_way_out() -> None:
    """Where a step down is worth nothing, more blocks may show the rate; what is too much is lowered all the same."""
    random = np.random.default_rng(6)
    carried = CarriedRate(20.0, 100.0, above=70.0)
    for number in range(8):
        carried.add(random.exponential(10.0 if number < 4 else 1.0, 500), 100.0, random.exponential(10.0, 500))
    assert carried.rate == 100.0
    assert carried.best.blocks
    carried.add(np.full(500, 900.0), 100.0, random.exponential(10.0, 500))
    assert carried.rate == 65.0


def test_a_rate_with_failed_requests_is_not_sustained() -> None:
    """However few: the p99 would hide them."""
    carried = CarriedRate(10.0, 100.0)
    for _ in range(4):
        carried.add(np.append(np.full(999, 1.0), FAILED_MS), 65.0)
    assert carried.shown is None
    assert carried.rate == pytest.approx(65.0 * 0.65)


def test_a_rate_that_is_not_reached_is_lowered() -> None:
    """However quick the answers are that came: less was answered than was offered."""
    carried = CarriedRate(10.0, 50.0, above=40.0)
    carried.add(np.full(100, 1.0), 49.0)
    assert carried.rate == 50.0
    carried.add(np.full(100, 1.0), 44.0)
    assert carried.rate == 32.5
    behind = CarriedRate(10.0, 50.0, above=40.0)
    behind.add(np.full(100, 1.0), 45.0)
    assert behind.rate == 32.5


def queue(rate: float, capacity: float, count: int, random: np.random.Generator) -> np.ndarray:
    """Times in ms in a queue of one server, where neighbours wait behind the same requests."""
    gaps, work = random.exponential(1e3 / rate, count + 2000), random.exponential(1e3 / capacity, count + 2000)
    walk = np.concatenate([[0.0], np.cumsum(work[:-1] - gaps[1:])])
    return ((walk - np.minimum.accumulate(walk)) + work)[2000:]


@pytest.mark.parametrize(("share", "least", "most"), [(1.03, 0, 4), (0.5, 90, 100)])
def test_near_the_highest_rate_nothing_is_claimed_of_answers_that_waited_together(
    share: float, least: int, most: int
) -> None:
    """Of rates that a queue does not sustain, hardly any is claimed; of lower rates, nearly all are."""
    random = np.random.default_rng(1)
    capacity, limit_ms = 1000.0, 20.0
    highest = capacity - 1e3 / limit_ms * np.log(100)
    blocks = [[queue(share * highest, capacity, 600, random) for _ in range(8)] for _ in range(100)]
    assert least <= sum(CarriedBlocks(1.0, each).is_within(limit_ms) for each in blocks) <= most


@pytest.mark.parametrize("start", [0.97, 1.3, 2.5])
def test_a_rate_that_is_claimed_is_sustained(start: float) -> None:
    """Wherever the search begins, a rate is mostly shown, and hardly ever one that the queue does not carry."""
    random = np.random.default_rng(2)
    capacity, limit_ms = 1000.0, 20.0
    highest = capacity - 1e3 / limit_ms * np.log(100)
    claimed = []
    for _ in range(60):
        carried = CarriedRate(limit_ms, start * highest)
        for _ in range(12):
            if not carried.is_over:
                carried.add(queue(carried.rate, capacity, 800, random), carried.rate)
        claimed += [] if carried.shown is None else [carried.shown.rate]
    assert len(claimed) >= 36
    assert np.median(claimed) >= 0.4 * highest
    assert sum(rate > highest for rate in claimed) <= 1


def arm(server: ServedProfile) -> Arm:
    payload = infer_payload(server.target, "m", {"x": np.ones((1, 64), np.float32)}, server.profile.settings.io.wire)
    return Arm(server.target, [payload], server.pid)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("alike", [True, False])
def test_two_servers(tmp_path: Path, alike: bool) -> None:
    """Nothing is claimed of equal ones; inline dispatch on raw bodies sustains more than the defaults on JSON."""
    model = perceptron([64, 256, 8], tmp_path / "m.onnx")
    json = changed(BASELINE, io={"wire": "json"})
    fast: Settings = changed(BASELINE, batching={"dispatch": "inline", "max_batch_size": 32}, io={"wire": "raw"})
    profiles = [Profile.of_model(model, settings) for settings in (json, json if alike else fast)]
    with ServedProfile(profiles[0]) as first, ServedProfile(profiles[1]) as second:
        baseline, tuned = arm(first), arm(second)
        limit = measure_baseline(baseline, 1.0, rate=None, limit_ms=None)
        highest = (0.8 if alike else 1.5) * limit.capacity
        traffic = Traffic(tuned, baseline, highest, replace(limit, limit_ms=min(3 * limit.limit_ms, 30.0)))
        verified = ArmRuns()
        for number in range(12):
            open_block([baseline], [verified], rate=limit.rate, duration_s=0.2, seed=number)
            traffic.measure(number, float("inf"), verified.blocks[-1])
    result = traffic.result(verified)
    if alike:
        assert result is None or result.baseline is None or result.baseline >= result.tuned or not result.within
    elif result is None:
        pytest.skip("the machine is too busy: too few of the answers were independent")
    else:
        assert result.tuned <= highest
        assert result.baseline is None or limit.rate <= result.baseline < result.tuned


@pytest.mark.parametrize(("rate", "offered"), [(None, 50.0), (80.0, 80.0), (96.0, 50.0), (300.0, 50.0)])
def test_the_limit_is_measured_where_the_baseline_keeps_up(
    monkeypatch: pytest.MonkeyPatch, rate: float | None, offered: float
) -> None:
    """At half of its capacity where it cannot carry the rate: a p99 of a queue that only grows is no limit."""
    asked = []

    def loop(*_: object, rate: float = 0.0, **__: object) -> LoadResult:
        asked.append(rate)
        times = np.full(2000, 5e6)
        return LoadResult("open", 1.0, None, 100.0, 1, times, times)

    monkeypatch.setattr(baseline, "closed_loop", loop)
    monkeypatch.setattr(baseline, "open_loop", loop)
    known = measure_baseline(Arm(LoadTarget(), []), 1.0, rate=rate, limit_ms=None)
    assert asked[-1] == offered
    assert known.is_overloaded is (known.rate != offered)
    assert known.own_limit is not known.is_overloaded
    assert known.rate == (rate or 50.0)
    assert known.limit_ms == 5.0


@pytest.mark.parametrize(("capacity", "expected"), [(4000.0, [1.0] * 4), (300.0, [1.2 * 459 / 150])])
def test_a_stall_of_the_machine_is_no_limit(
    monkeypatch: pytest.MonkeyPatch, capacity: float, expected: list[float]
) -> None:
    """A quick baseline's limit is the median of several loops; a slow one has one loop, as long as a p99 takes."""
    lengths = []

    def loop(*_: object, rate: float = 100.0, duration_s: float = 1.0, **__: object) -> LoadResult:
        lengths.append(duration_s)
        times = np.full(int(rate * duration_s), 900e6 if len(lengths) == 4 else 5e6)
        return LoadResult("open", duration_s, None, capacity, 1, times, times)

    monkeypatch.setattr(baseline, "closed_loop", loop)
    monkeypatch.setattr(baseline, "open_loop", loop)
    known = measure_baseline(Arm(LoadTarget(), []), 2.0, rate=None, limit_ms=None)
    assert known.limit_ms == 5.0
    assert lengths[2:] == pytest.approx(expected)
