"""Results on disk: honest where samples are few, and compared with verdicts."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict

from tailcut.errors import UsageError
from tailcut.lab.load import LoadResult
from tailcut.lab.record import compare, match_runs, read_record, regressed, run_record
from tailcut.lab.records import EarlierRun, Latencies, Mode, Run, to_json

UNKNOWN = Latencies(*[None] * 5)


def result(latencies_ms: np.ndarray, *, late_ms: float = 0.0, mode: Mode = "open") -> LoadResult:
    nanos = (latencies_ms * 1e6).astype(np.int64)
    rate = 100.0 if mode == "open" else None
    return LoadResult(mode, 10.0, rate, len(nanos) / 10, 4, nanos, nanos, {}, late_ms * 1e6)


def lognormal(seed: int, scale: float = 1.0, size: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(sigma=0.3, size=size) * scale


def test_keys_and_figures() -> None:
    """Percentiles are points of the sample in milliseconds, the interval encloses the p99."""
    record = run_record(result(np.random.default_rng(0).permutation(np.arange(1, 5001)) / 100))
    assert record.latency_ms == Latencies(p50=25.0, p95=47.5, p99=49.5, p99_9=49.95, max=50.0)
    low, high = record.p99_interval_ms
    assert low < 49.5 < high
    assert (record.mode, record.samples, record.errors, record.concurrency) == ("open", 5000, {}, 4)
    assert (record.rate_offered, record.rate_achieved) == (100.0, 500.0)
    assert msgspec.json.decode(to_json(record), type=Run) == record


@pytest.mark.parametrize(
    ("samples", "unknown"),
    [
        (0, {"p50", "p95", "p99", "p99_9", "max"}),
        (89, {"p95", "p99", "p99_9"}),
        (458, {"p99", "p99_9"}),
        (459, {"p99_9"}),
        (4603, set()),
    ],
)
def test_percentiles_without_the_samples_for_them_are_null(samples: int, unknown: set[str]) -> None:
    """A p99 needs 459 samples, a p99.9 4,603: with fewer they are unknown."""
    record = run_record(result(lognormal(1, size=samples)))
    assert {name for name, value in asdict(record.latency_ms).items() if value is None} == unknown
    assert (record.p99_interval_ms is None) == ("p99" in unknown)


def test_a_late_client_gives_no_percentile() -> None:
    """When the client fell behind its plan, every figure of latency is unknown, and why is in the record."""
    record = run_record(result(lognormal(1), late_ms=50))
    assert set(asdict(record.latency_ms).values()) == {None}
    assert record.p99_interval_ms is None
    assert record.client_behind is True
    assert record.client_lateness_p99_ms == 50


def test_very_many_latencies_are_thinned() -> None:
    """A record stays small whatever the rate was."""
    record = run_record(result(lognormal(1, size=100_001)))
    assert record.samples == 100_001
    assert 15_000 < len(record.latencies_us) <= 20_000


@pytest.mark.slow
def test_alike_runs_are_indistinct() -> None:
    """Two runs of one distribution are not distinguished, and nothing has regressed."""
    outcome = compare(run_record(result(lognormal(1))), run_record(result(lognormal(2))))
    assert set(outcome) == {"p50", "p95", "p99", "p99_9"}
    assert {change.verdict for change in outcome.values()} == {"indistinct"}
    assert not regressed(outcome)


@pytest.mark.parametrize(("scale", "word"), [(1.5, "worse"), pytest.param(0.6, "better", marks=pytest.mark.slow)])
def test_a_true_change_has_its_verdict(scale: float, word: str) -> None:
    """Half as slow again is worse, with the ratio inside its interval; much faster is better; only worse regresses."""
    outcome = compare(run_record(result(lognormal(1, scale))), run_record(result(lognormal(2))))
    for name in ("p50", "p95", "p99"):
        assert outcome[name].verdict == word
        assert outcome[name].ratio.low <= scale * 1.1
        assert outcome[name].ratio.high >= scale * 0.9
    assert regressed(outcome) == (word == "worse")


def test_percentiles_unknown_to_either_run_are_not_compared() -> None:
    """Too few samples, or a late client, on one side are enough."""
    few = run_record(result(lognormal(1, size=300)))
    assert set(compare(few, run_record(result(lognormal(2, size=1000))))) == {"p50", "p95"}
    late = run_record(result(lognormal(1), late_ms=50))
    assert compare(run_record(result(lognormal(2))), late) == {}


def test_runs_match_by_mode_rate_and_concurrency() -> None:
    """Open runs by their rate, whatever connections they needed; closed ones by what was in flight."""

    def run(mode: Mode, rate: float | None, concurrency: int, arrivals: str | None = None) -> EarlierRun:
        return EarlierRun(mode, rate, concurrency, UNKNOWN, arrivals=arrivals)

    new = [run("open", 100, 9), run("closed", None, 8), run("closed", None, 32), run("open", 100, 9, "bursty")]
    old = [run("closed", None, 32), run("open", 100, 4), run("open", 200, 4)]
    assert match_runs(new, old) == [(0, 1), (2, 0)]
    assert match_runs(new, [run("open", 100, 4, "poisson")]) == [(0, 0)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such result file"),
        (b"{", "not a result"),
        (b"[]", "has no runs"),
        (b'{"runs": 1}', "has no runs"),
        (b'{"runs": [{"mode": "open"}]}', "has no runs to compare with: Object missing required field `rate_offered`"),
    ],
)
def test_a_file_that_is_no_result(tmp_path: Path, content: bytes | None, words: str) -> None:
    """One line names the file and what it lacks."""
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
