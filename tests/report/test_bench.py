"""What `tailcut bench` says of a run that has no percentile: the bound that there is, and how long a run has to be."""

from dataclasses import replace

import numpy as np
import pytest
from tests.report.records import bench

from tailcut.lab.load import LoadResult
from tailcut.lab.record import run_record
from tailcut.report.bench import bench_table


def shown(samples: int, *, late_ms: float, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed of an open loop at 20 requests a second, a millisecond each; white space does not count."""
    nanos = np.full(samples, 1_000_000)
    result = LoadResult("open", samples / 20, 20.0, 20.0, 1, nanos, nanos, lateness_p99_ns=late_ms * 1e6)
    bench_table(bench(run_record(result)))
    return " ".join(capsys.readouterr().out.split())


def test_too_few_samples_say_how_long_the_run_has_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    """459 samples at 20 a second are 23 s, and a tenth more because arrivals are random."""
    text = shown(100, late_ms=0.0, capsys=capsys)
    assert "a p99 needs 459 samples, and there are 100: use --duration 26s" in text
    assert "needs 459" in text
    assert "unknown" not in text


def test_a_late_client_gives_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own lateness only adds to the latency, so what it measured is never less than what the server took."""
    text = shown(1000, late_ms=9.0, capsys=capsys)
    assert "p99 at most 1.000 ms, client lateness included" in text
    assert "use --duration" not in text


def test_a_cause_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Models of a mix are late together; a cause that is not known leaves the advice. Lateness and CPU are columns."""
    nanos = np.full(1000, 1_000_000)
    late = LoadResult("open", 5.0, 20.0, 20.0, 1, nanos, nanos, lateness_p99_ns=9e6, client_cpu=0.123, mixed=True)
    runs = [replace(late, model=name, late_because="make [all] (pid 7) uses 1 CPU") for name in ("one", "two")]
    bench_table(bench(*map(run_record, runs)))
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("the client was late: make [all] (pid 7) uses 1 CPU") == 1
    assert "one: 20.0/s offered" in text
    assert "│ 9.000 │ 0.12 │" in text
    bench_table(bench(run_record(late)))
    assert "the client was late: lower the rate, or give the client a core of its own" in capsys.readouterr().out
