"""What `tailcut bench` says of a run that has no percentile: the bound that there is, and how long a run has to be."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.report.records import bench, point, run

from tailcut.lab.load import LoadResult
from tailcut.lab.record import run_record
from tailcut.lab.records import Scenario, ScenarioResult, SloResult
from tailcut.lab.saturation import Shown
from tailcut.report.bench import bench_table
from tailcut.report.bench_words import doubt, unknown_headline


def result(samples: int, late_ms: float) -> LoadResult:
    """An open loop at 20 requests a second, a millisecond each."""
    nanos = np.full(samples, 1_000_000)
    return LoadResult("open", samples / 20, 20.0, 20.0, 1, nanos, nanos, lateness_p99_ns=late_ms * 1e6)


def shown(samples: int, *, late_ms: float, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed; white space does not count."""
    bench_table(bench(run_record(result(samples, late_ms))))
    return " ".join(capsys.readouterr().out.split())


def test_too_few_samples_say_how_long_the_run_has_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    """459 samples at 20 a second are 23 s, and a tenth more because arrivals are random."""
    text = shown(100, late_ms=0.0, capsys=capsys)
    assert "a p99 needs 459 samples, and there are 100: use --duration 26s" in text
    assert "needs 459" in text
    assert "unknown" not in text


@pytest.mark.parametrize(("lost", "words"), [(900, True), (20, False)])
def test_a_rate_beyond_the_servers_capacity_is_reported(lost: int, words: bool) -> None:
    """Where many requests stay without an answer, too few samples are not the reason; a few may be lost anyway."""
    text = doubt(msgspec.structs.replace(run(1000.0, samples=1000 - lost), errors={"timeout": lost}))
    message = "900 of 1,000 requests were not answered: 1,000 requests/s are more than the server can sustain"
    assert (text == message) is words


def test_a_late_client_gives_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own lateness only adds to the latency, so what it measured is never less than what the server took."""
    text = shown(1000, late_ms=9.0, capsys=capsys)
    assert "p99 at most 1.000 ms, client lateness included" in text
    assert "use --duration" not in text


def test_a_cause_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_search_says_what_is_unknown_of_each_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a rate with too few samples how long it has to be, of one at which the client was late the bound."""
    runs = [run_record(result(100, 0.0)), run_record(result(1000, 9.0))]
    curve = [point(run) for run in runs]
    slo = SloResult(20.0, "p99", met=False, highest_rate=None, limited_by=Shown.UNCLEAR, curve=curve)
    bench_table(msgspec.structs.replace(bench(*runs), slo=slo))
    text = " ".join(capsys.readouterr().out.split())
    assert "needs 459" in text
    assert "20.0 req/s: a p99 needs 459 samples, and there are 100: use --duration 26s" in text
    assert "client late │ - │ 1.000 │" in text
    assert "20.0 req/s: p99 at most 1.000 ms, client lateness included: the client itself fell behind" in text
    assert "unknown" not in text


def test_a_scenario_without_its_metric_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """A p90 takes 44 samples."""
    scenario = ScenarioResult(Scenario.SINGLE_STREAM, 1, "a note", "p90_ms", None, None)
    bench_table(msgspec.structs.replace(bench(run_record(result(20, 0.0))), scenario=scenario))
    assert "single-stream: p90_ms needs 44 samples: use a longer --duration" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate_offered": None}, "there are 100: use more --samples"),
        ({"arrivals": "trace"}, "there are 100: use a longer trace"),
    ],
)
def test_the_advice_is_for_the_load(change: dict, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a fixed number of requests nor a trace gets longer by --duration."""
    bench_table(bench(run_record(replace(result(100, 0.0), **change))))
    assert words in " ".join(capsys.readouterr().out.split())


def test_chance_does_not_shorten_the_advice(capsys: pytest.CaptureFixture[str]) -> None:
    """Five a second for five seconds may be 30 requests; the next run has five a second all the same."""
    bench_table(bench(run_record(replace(result(30, 0.0), rate_offered=5.0, rate_achieved=6.0))))
    assert "there are 30: use --duration 101s" in " ".join(capsys.readouterr().out.split())


def test_the_advice_needs_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """The rate of an open loop is known where nothing was due in a short run, but not where everything failed."""
    silent = replace(result(0, 0.0), rate_offered=3.0, rate_achieved=0.0, duration_s=0.3)
    bench_table(bench(run_record(silent)))
    assert "there are 0: use --duration 169s" in " ".join(capsys.readouterr().out.split())
    assert unknown_headline([run_record(silent)]) == "p99 needs 459 samples: use --duration 169s"
    bench_table(bench(run_record(replace(silent, errors={"503": 9}))))
    assert "--duration" not in capsys.readouterr().out


def test_failed_requests_are_no_samples(capsys: pytest.CaptureFixture[str]) -> None:
    """Where some fail, the rate of those that are answered says how long it takes."""
    bench_table(bench(run_record(replace(result(100, 0.0), rate_achieved=10.0, errors={"503": 100}))))
    assert "there are 100: use --duration 51s" in " ".join(capsys.readouterr().out.split())
