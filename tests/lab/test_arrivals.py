"""Arrival processes have the rate, the gaps and the bursts that they say."""

import re
from pathlib import Path

import numpy as np
import pytest

from tailcut.errors import UsageError
from tailcut.lab.arrivals import (
    BURST_SHARE,
    Bursty,
    Constant,
    Poisson,
    RecordingWindow,
    Replayed,
    plan,
    poisson_times,
    read_trace,
    read_trace_of_models,
)


@pytest.mark.parametrize("arrivals", [Constant(1000), Poisson(1000), Bursty(1000)])
def test_times_keep_the_rate_and_the_order(arrivals: Constant | Poisson | Bursty) -> None:
    """Whole nanoseconds inside the duration, sorted, as many as the mean rate says."""
    times = arrivals.times(200, 1)
    assert times.dtype == np.int64
    assert times[0] >= 0
    assert times[-1] < 200e9
    assert (np.diff(times) >= 0).all()
    assert len(times) == pytest.approx(200_000, rel=0.06)


def test_poisson_times_are_a_poisson_process() -> None:
    """Sorted nanoseconds inside the duration, as many as the rate says, with gaps of mean and deviation 1/rate."""
    times = poisson_times(1000, 100, seed=3)
    assert times.dtype == np.int64
    assert times[0] >= 0
    assert times[-1] < 100e9
    assert len(times) == pytest.approx(100_000, abs=4 * 100_000**0.5)
    gaps = np.diff(times) / 1e6
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert gaps.std() == pytest.approx(1.0, rel=0.02)


def test_a_seed_repeats_its_times() -> None:
    """The same seed plans the same arrivals, another one others."""
    first, again, other = (poisson_times(50, 10, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:10], other[:10])


def dispersion(times: np.ndarray, window_s: float) -> float:
    """Variance over mean of the counts in windows: 1 for a Poisson process."""
    counts = np.bincount((times / (window_s * 1e9)).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def test_gaps_and_bursts_are_the_named_ones() -> None:
    """Counts in windows of 100 ms vary not at all, like a Poisson process, or many times as much."""
    assert dispersion(Constant(1000).times(100, 1), 0.1) == pytest.approx(0, abs=0.01)
    assert dispersion(Poisson(1000).times(100, 1), 0.1) == pytest.approx(1, abs=0.2)
    assert dispersion(Bursty(1000).times(100, 1), 0.1) > 20


def test_bursts_have_their_share_and_their_rate() -> None:
    """A tenth of the time runs at five times the mean rate, the rest at five ninths of it."""
    times = Bursty(1000, factor=5, length_s=2.0).times(3000, 2)
    counts = np.bincount((times / 1e8).astype(int))[:-1] * 10.0  # a second, in windows far shorter than the bursts
    high = counts > 2000
    assert high.mean() == pytest.approx(BURST_SHARE, rel=0.15)
    assert np.median(counts[high]) == pytest.approx(5000, rel=0.03)
    assert np.median(counts[~high]) == pytest.approx(1000 * 5 / 9, rel=0.03)


@pytest.mark.parametrize(("factor", "length_s"), [(1.0, 0.2), (11.0, 0.2), (5.0, 0.0)])
def test_bursts_that_cannot_be(factor: float, length_s: float) -> None:
    """More than the mean rate in a tenth of the time leaves less than nothing for the rest."""
    with pytest.raises(UsageError, match="burst"):
        Bursty(100, factor, length_s)


def test_a_trace_is_replayed_as_it_was(tmp_path: Path) -> None:
    """Times count from the first arrival; comments and empty lines are left out; the warm-up stands before them."""
    path = tmp_path / "trace"
    path.write_text("# recorded on Monday\n100.0\n\n100.25\n100.25\n101.5\n")
    trace = read_trace(path)
    assert trace.times(10, 0).tolist() == [0, 250_000_000, 250_000_000, 1_500_000_000]
    assert trace.times(1, 0).tolist() == [0, 250_000_000, 250_000_000]
    assert trace.rate == pytest.approx(2.0)
    times = plan(trace, 5.0, trace.length_s, 0)
    assert times[times >= 5_000_000_000].tolist() == [5_000_000_000, 5_250_000_000, 5_250_000_000, 6_500_000_000]
    assert 3 <= (times < 5_000_000_000).sum() <= 20


def test_a_trace_of_dates(tmp_path: Path) -> None:
    """Their differences count; one without a zone is UTC."""
    path = tmp_path / "trace"
    path.write_text("2026-03-29 00:59:59.75\n2026-03-29T01:00:00Z\n2026-03-29 03:00:01.25 +02:00\n")
    assert read_trace(path).seconds.tolist() == pytest.approx([0.0, 0.25, 1.5], abs=1e-6)
    path.write_text("2026-03-29 00:59:59 UTC a\n2026-03-29 01:00:01 b\n2026-03-29 01:00:03 a\n")
    ours, theirs = read_trace_of_models(path, ["a", "b"])
    assert (ours.seconds.tolist(), theirs.seconds.tolist()) == ([0.0, 4.0], [2.0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such trace"),
        ("", "no arrivals: the file is empty"),
        ("# a\n\n# b\n", "no arrivals: the file is empty, or has only comments"),
        ("1\n", "only one arrival: a trace needs two or more"),
        ("1\n1\n", "all 2 arrivals are at the same time"),
        ("1\nx\n", "line 2 is not a time in seconds"),
        ("1\n-1\n", "line 2 is not a time in seconds, from 0 on"),
        ("1\nnan\n", "line 2 is not a time"),
        ("# c\n2\n1\n", "line 3 is earlier than the one before it: sort the lines by time"),
        ("1\ninf\n", "line 2 is not a time"),
    ],
)
def test_a_file_that_is_no_trace(tmp_path: Path, text: str | None, words: str) -> None:
    """The message names the file and the line."""
    path = tmp_path / "trace"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_trace(path)


def test_plans_of_other_processes_run_on_through_the_warm_up() -> None:
    """One process over warm-up and duration together, so that the counted part begins in its steady state."""
    np.testing.assert_array_equal(plan(Poisson(100), 1.0, 2.0, 3), Poisson(100).times(3.0, 3))
    assert isinstance(Replayed(np.array([0.0, 1.0])).rate, float)


@pytest.mark.parametrize("arrivals", [Constant(1e12), Poisson(1e12), Bursty(1e12), Replayed(np.array([0.0, 1e-12]))])
def test_no_plan_is_of_more_requests_than_fit_into_memory(arrivals: Constant | Poisson | Bursty | Replayed) -> None:
    """Not even the warm-up of a trace."""
    with pytest.raises(UsageError, match="a run has at most 100,000,000: lower the rate or the duration"):
        plan(arrivals, 1.0, 2.0, 3)


def test_a_trace_of_several_models_has_one_window_for_all(tmp_path: Path) -> None:
    """Each model has its own times on the clock of the recording, which goes on at its beginning."""
    path = tmp_path / "trace"
    path.write_text("# seconds model\n10 a\n10.5 b\n11 a\n13 a\n", encoding="utf-8")
    a, b = read_trace_of_models(path, ["a", "b"])
    assert (a.length_s, b.length_s) == (4.0, 4.0)
    assert (a.rate, b.rate) == (0.75, 0.25)
    for seed in range(5):
        times_a, times_b = a.times(8.0, seed) / 1e9, b.times(8.0, seed) / 1e9
        assert (len(times_a), len(times_b)) == (6, 2)
        assert np.allclose(np.diff(times_b), 4.0, atol=1e-6)
        assert any(np.isclose(times_b[1] - times_a, 0.5, atol=1e-6))
    starts = {RecordingWindow(np.array([0.0]), 1.0).times(1.0, seed).tolist()[0] for seed in range(9)}
    assert len(starts) == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such trace"),
        ("0 a\n1 c\n", "line 2 names no model 'c': write SECONDS NAME, with one of a, b"),
        ("0 a\n1\n", "line 2 names no model"),
        ("a 0\n1 b\n", "line 1 is not a time"),
        ("0 a\n2 b\n1 a\n", "line 3 is earlier than the one before it: sort the lines"),
        ("0 a\n1 a\n", "no arrivals for b"),
        ("0 a\n", "only one arrival"),
    ],
)
def test_a_file_that_is_no_trace_of_models(tmp_path: Path, text: str | None, words: str) -> None:
    """The line is named, and what it should be."""
    path = tmp_path / "trace"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(words)):
        read_trace_of_models(path, ["a", "b"])


def test_a_trace_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Is read as without."""
    path = tmp_path / "trace"
    path.write_text("\ufeff1.0\n2.0\n", encoding="utf-8")
    assert read_trace(path).seconds.tolist() == [0.0, 1.0]
