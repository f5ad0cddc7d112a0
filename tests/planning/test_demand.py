"""Rates, arrival processes, limits and recordings, as they are written on the command line."""

from pathlib import Path

import numpy as np
import pytest

from tailcut.durations import parse_duration
from tailcut.errors import UsageError
from tailcut.lab.arrivals import Bursty
from tailcut.planning.demand import (
    Limit,
    Recording,
    Stretch,
    busiest,
    even_bursts,
    parse_arrivals,
    parse_headroom,
    parse_limit,
    parse_rates,
    replayed,
)
from tailcut.planning.recordings import read_recording


def test_a_limit_has_a_percentile() -> None:
    """Any percentile, and any duration."""
    assert parse_limit("p99=10ms", parse_duration) == Limit("p99", 10.0)
    assert parse_limit(" p99.9 = 0.5s", parse_duration) == Limit("p99.9", 500.0)
    assert parse_limit("p97.5=1ms", parse_duration).share == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10ms", "no percentile"),
        ("q99=10ms", "unknown percentile 'q99'"),
        ("p100=10ms", "unknown percentile"),
        ("p0=10ms", "unknown percentile"),
        ("p99=0ms", "greater than 0"),
        ("p99=x", "not a duration"),
    ],
)
def test_another_limit_is_refused(text: str, message: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(UsageError, match=message):
        parse_limit(text, parse_duration)


def test_rates() -> None:
    """One, or one for each model; none of them 0."""
    assert parse_rates("5000") == [5000.0]
    assert parse_rates("5000, 0.5") == [5000.0, 0.5]
    for text in ("0", "-1", "inf", "nan", "x", "5,"):
        with pytest.raises(UsageError, match=r"at least 0\.01"):
            parse_rates(text)
    with pytest.raises(UsageError, match="write 1000000"):
        parse_rates("1,000,000")


def test_headroom() -> None:
    """A share, or per cent; a large share was meant as per cent."""
    assert [parse_headroom(text) for text in ("0.2", "20%", "0", "3", "4.0", "2000%", " 15 %")] == [
        *(0.2, 0.2, 0.0, 3.0, 4.0, 20.0, 0.15)
    ]
    for text in ("20", "5", "4.1"):
        with pytest.raises(UsageError, match=rf"as 0\.2 is 20 %: write {text}%"):
            parse_headroom(text)
    for text in ("-0.1", "-1%", "x", "", "%", "nan", "inf", "10001%"):
        with pytest.raises(UsageError, match=r"is not a share of the rate: write 0\.2 or 20%"):
            parse_headroom(text)


def test_arrivals() -> None:
    """Each process has the mean rate that it is asked for."""
    for text in ("poisson", "constant", "bursty", "bursty:3", "bursty:3:50ms"):
        times = parse_arrivals(text, parse_duration)(1000.0).times(200.0, 1)
        assert len(times) == pytest.approx(200_000, rel=0.1)
    for text in ("gauss", "poisson:3", "bursty:x", "bursty:3:50ms:1", "bursty:11", "bursty:3:0s"):
        with pytest.raises(UsageError):
            parse_arrivals(text, parse_duration)


def test_arrival_times_are_replayed(tmp_path: Path) -> None:
    """As they are, or scaled to another rate with the same course."""
    path = tmp_path / "trace.txt"
    path.write_text("# seconds\n" + "\n".join(f"{value:.6f}" for value in np.linspace(5, 15, 1001)))
    result = read_recording(path)
    assert (result.length_s, result.replayed) == (pytest.approx(10.01), True)
    assert result.rate == pytest.approx(100.0)
    assert len(result.times(None, 0)) == result.requests == 1001
    assert result.times(None, 0)[:3] == pytest.approx([0, 10_000_000, 20_000_000], abs=2)
    assert len(result.times(1000.0, 0)) == pytest.approx(10_000, rel=0.05)
    assert len(result.times(50.0, 0)) == pytest.approx(500, rel=0.15)
    assert set(result.times(50.0, 0)) <= set(result.times(None, 0))


@pytest.mark.parametrize("rate", [0.5, 1.05, 500.0])
def test_scaled_arrivals_begin_as_they_go_on(tmp_path: Path, rate: float) -> None:
    """One arrival a second, as any other rate: no second has more than Poisson arrivals, the first one neither."""
    path = tmp_path / "trace.txt"
    path.write_text("\n".join(map(str, range(601))))
    counts = np.bincount(read_recording(path).times(rate, 0) // 1_000_000_000, minlength=601)
    assert counts.mean() == pytest.approx(rate, rel=0.15)
    assert counts.max() <= rate + 5 * rate**0.5
    assert len(counts) == 601


def test_short_gaps_of_a_sampled_log_are_no_bursts() -> None:
    """Scaled up, arrivals are drawn at the mean rates of a hundred of them; a rise of the rate stays."""
    random = np.random.default_rng(0)
    seconds = np.sort(np.concatenate([random.uniform(0, 600, 600), random.uniform(300, 600, 600)]))
    result = replayed(seconds - seconds[0], 600.0)
    assert [result.scaled_up(rate) for rate in (None, 1.0, 2.1, 100.0)] == [False, False, False, True]
    course = result.smoothed()
    assert (course.requests, course.length_s, len(course.load)) == (1200, 600.0, 12)
    counts = np.bincount(course.times(100.0, 0) // 1_000_000_000, minlength=600)
    assert counts.max() < 250 < np.bincount(result.times(100.0, 0) // 1_000_000_000).max()
    assert [counts[:300].mean(), counts[300:].mean()] == pytest.approx([50, 150], rel=0.15)


def test_rates_over_time_are_drawn(tmp_path: Path) -> None:
    """Each rate lasts until the next line, the last one as long as the one before."""
    path = tmp_path / "day.txt"
    path.write_text("0 100\n60 1000\n\n120 0\n")
    times = read_recording(path).times(None, 1) / 1e9
    counts = np.histogram(times, [0, 60, 120, 180])[0]
    assert counts == pytest.approx([6000, 60_000, 0], rel=0.05)
    scaled = read_recording(path).times(10.0, 1) / 1e9
    assert len(scaled) == pytest.approx(1800, rel=0.1)
    assert (scaled < 60).mean() == pytest.approx(1 / 11, abs=0.03)


def test_more_requests_than_can_be_simulated() -> None:
    """Time runs faster: the same rates, each for a shorter time."""
    day = Recording(np.array([0.0, 43_200.0, 86_400.0]), np.array([0.0, 4.32e7, 3.024e8]), replayed=False)
    assert day.compression(100.0) == 1.0
    assert day.compression(None) == pytest.approx(30.24)
    assert day.compression(7000.0) == pytest.approx(60.48)
    short = day.compressed(10_000.0)
    counts = np.histogram(short.times(None, 1) / 1e9, [0, 4.32, 8.64])[0]
    assert counts == pytest.approx([4320, 25_920], rel=0.05)


def test_the_busiest_part() -> None:
    """The window with the most arrivals, from its first one on."""
    times = np.concatenate([np.arange(0, 100), np.arange(100, 110, 0.1), np.arange(110, 200)])
    result = busiest((times * 1e9).astype(np.int64), 10.0)
    assert len(result) == pytest.approx(100, abs=2)
    assert result[0] == 0.0
    assert result[-1] < 10.0


def test_a_stretch_repeats_at_any_rate() -> None:
    """With its own course: what comes in its first half does so at twice the rate, too."""
    part = np.sort(np.random.default_rng(0).random(10_000)) ** 2 * 10
    for rate in (500.0, 2000.0):
        times = Stretch(part, 10.0, rate).times(40.0, 1) / 1e9
        assert len(times) == pytest.approx(40 * rate, rel=0.05)
        assert (times % 10 < 2.5).mean() == pytest.approx((part < 2.5).mean(), abs=0.03)


def test_a_stretch_adds_no_bursts() -> None:
    """Fifty times one arrival a second: the first second has as many as any, and short gaps of drawn arrivals none."""
    even = np.arange(60.0)
    counts = np.bincount(Stretch(even, 60.0, 50.0).times(180.0, 0) // 1_000_000_000, minlength=180)
    assert (counts.mean(), counts.max() < 90) == (pytest.approx(50, rel=0.1), True)
    drawn = np.sort(np.random.default_rng(0).uniform(0, 60, 6000))
    counts = np.bincount(Stretch(drawn, 60.0, 120.0, drawn=True).times(60.0, 0) // 100_000_000, minlength=600)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.25)


def test_short_gaps_of_a_stretch_are_no_bursts() -> None:
    """At a thousand times one arrival a second, a millisecond between two of them has no second's worth of others."""
    random = np.random.default_rng(0)
    seconds = np.cumsum(random.exponential(1.0, 60))
    times = Stretch(seconds - seconds[0], float(seconds[-1]), 1000.0).times(120.0, 0)
    counts = np.bincount(times // 10_000_000)
    assert counts.mean() == pytest.approx(10, rel=0.1)
    assert counts.max() < 40


def test_a_recording_that_ends_in_a_burst() -> None:
    """A hundred arrivals within 10 ms once a minute: the last ones are no rate of their own, as if they lasted."""
    cron = np.concatenate([minute * 60 + np.arange(100) * 1e-4 for minute in range(20)])
    course = replayed(cron, float(cron[-1]) + 0.57).smoothed()
    rates = np.diff(course.load) / np.diff(course.edges_s)
    assert rates.max() < 2.1 * rates.min()
    assert course.requests == 2000


@pytest.mark.parametrize("scale", [1.0, 1.2, 5.0])
def test_bursts_of_a_stretch_stay(scale: float) -> None:
    """A hundred arrivals within 10 ms are no fewer at a higher rate, and a tenth more at most beside what is drawn."""
    cron = np.concatenate([minute + np.arange(100) * 1e-4 for minute in (0.0, 20.0, 40.0)])
    times = Stretch(cron, 60.0, scale * 5.0).times(60.0, 0)
    assert 100 <= ((times >= 20e9) & (times < 20.01e9)).sum() <= 100 + 10 * (scale > 1) + 4 * scale
    assert len(times) == pytest.approx(300 * scale, abs=150)


@pytest.mark.parametrize("seed", range(4))
def test_twenty_bursts_are_neither_more_nor_longer_than_expected(seed: int) -> None:
    """Whatever the seed: a tenth of the time at five times the mean rate, and the rest at what keeps the mean."""
    process = Bursty(100.0, 5.0, 10.0)
    times = even_bursts(process, 20 * process.cycle_s, seed)
    assert len(times) == pytest.approx(200_000, rel=0.01)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] <= times[-1] < 2e12
    counts = np.bincount(times // 1_000_000_000, minlength=2000)
    assert (counts > 250).mean() == pytest.approx(0.1, abs=0.01)
    assert counts[counts < 150].mean() == pytest.approx(process.calm_rate, rel=0.03)


def test_bursts_at_ten_times_the_mean_have_nothing_between_them() -> None:
    """The rate in between is 0; one burst at least is in the shortest simulation."""
    times = even_bursts(Bursty(100.0, 10.0, 1.0), 1.0, 3) / 1e9
    assert len(times) == pytest.approx(100, abs=40)
    assert (np.diff(np.sort(times)) > 0.8).sum() <= 1
