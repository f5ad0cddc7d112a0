"""What the pages of load tests and micro-benchmarks claim, as HTML and as Markdown: no more than was measured."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from msgspec.structs import replace
from tests.report.records import (
    RATES,
    against,
    bench,
    explained,
    microbench,
    point,
    run,
    slower_bench,
    two_functions,
)
from tests.report.test_html import INTERRUPTED, result

from tailcut.lab.microbench_record import changes
from tailcut.lab.records import Scenario, ScenarioResult, SloResult
from tailcut.lab.saturation import Shown
from tailcut.report import bench_page, explain_page, microbench_page
from tailcut.report.charts import Tick
from tailcut.report.explain import explain_markdown
from tailcut.report.html import render_bench_html, render_microbench_html
from tailcut.report.markdown import bench_markdown, microbench_markdown, tune_markdown
from tailcut.report.microbench import count_columns
from tailcut.report.words import load


def test_a_single_run_is_its_p99() -> None:
    """The headline of one run is its p99, with the load it holds for."""
    item = run(500.0)
    page = bench_page.page(bench(item))
    assert page.headline == f"p99 {item.latency_ms.p99:.3f} ms"
    assert "500/s offered" in page.lead
    assert page.rates is None


def test_a_sweep_has_a_curve_over_the_rate() -> None:
    """Three open runs give latency against rate, a curve of percentiles and a strip for each."""
    page = bench_page.page(slower_bench())
    assert page.rates is not None
    assert page.curves is not None
    assert page.strips is not None
    assert [[point.x for point in series.points] for series in page.rates.series] == [list(RATES)] * 3
    assert len(page.curves.series) == len(page.strips.rows) == 3


def test_many_runs_are_thinned_to_the_colours_there_are() -> None:
    """Of twelve runs six curves are drawn, the first and the last among them; the table has all."""
    page = bench_page.page(bench(*(run(100.0 * number) for number in range(1, 13))))
    assert page.curves is not None
    names = [series.name for series in page.curves.series]
    assert len(names) == 6
    assert (names[0], names[-1]) == ("100/s offered", "1,200/s offered")
    assert len({series.tone for series in page.curves.series}) == 6
    assert len(page.runs) == 12


@pytest.mark.slow
def test_what_got_worse_is_the_headline() -> None:
    """A comparison with a faster earlier result comes before anything else, in HTML and Markdown."""
    assert bench_page.page(slower_bench()).headline == "9 of 9 percentiles got worse"
    assert "9 of 9 percentiles got worse" in render_bench_html(slower_bench())
    assert "**worse**" in bench_markdown(slower_bench())
    same = bench(run(500.0))
    assert bench_page.page(against(same, same)).headline == "No proven change"


def test_a_search_for_the_highest_rate_is_its_answer() -> None:
    """The rate shown to keep the limit is the headline, and the limit is marked in the curve; or there is none."""
    shown = ("meets", "meets", "misses")
    points = [
        replace(point(item, Shown(word)), p99_at_most_ms=9.5)
        for item, word in zip(slower_bench().runs, shown, strict=True)
    ]
    slo = SloResult(10.0, "p99", met=True, highest_rate=500.0, limited_by=Shown.MISSES, curve=points)
    record = replace(bench(*slower_bench().runs), slo=slo)
    page = bench_page.page(record)
    assert page.headline == "500 requests per second"
    assert "p99 within 10 ms" in page.lead
    assert page.lead.endswith("Above it, it is missed.")
    assert page.rates is not None
    assert page.rates.rule == Tick(10.0, "limit 10 ms")
    assert "limit 10 ms" in render_bench_html(record)
    for text in (render_bench_html(record), bench_markdown(record)):
        assert "misses" in text
        assert "9.50" in text
    assert [row[3] for row in page.tried] == list(shown)
    none = replace(record, slo=replace(slo, met=False, highest_rate=None))
    assert bench_page.page(none).headline == "No rate keeps p99 within 10 ms"


def test_a_scenario_shows_its_metric() -> None:
    """A named scenario's metric stands below the headline with its interval and its note, also in Markdown."""
    scenario = ScenarioResult(Scenario.SINGLE_STREAM, 1, "a note", "p90_ms", 1.5, (1.4, 1.6))
    record = replace(bench(run(500.0)), scenario=scenario)
    for text in (render_bench_html(record), bench_markdown(record)):
        for words in ("single-stream: p90", "1.5", "1.4 to 1.6", "a note"):
            assert words in text


def test_loads_are_named_by_what_they_are() -> None:
    """A closed loop by its requests in flight, other arrivals than Poisson by name, none at all as all at once."""
    item = run(50.0)
    assert load(replace(item, mode="closed", rate_offered=None)) == "8 in flight"
    assert load(replace(item, arrivals="bursty")) == "50/s offered, bursty"
    assert load(replace(item, mixed=True, model="m")) == "m: 50/s offered"
    assert load(replace(item, rate_offered=None)) == "all at once"


def test_a_busy_client_is_doubted() -> None:
    """Where the client kept its core busy, the page says that its own speed may be the limit."""
    record = bench(replace(run(500.0), client_cpu=0.97, client_processes=1))
    assert "0.97 cores busy" in bench_page.page(record).doubts[0]


def test_too_few_samples_and_a_late_client_are_doubted() -> None:
    """A run without a p99 claims none; both reports say how long it has to be, or what the p99 is at most."""
    few, late = bench(run(100.0, samples=100)), bench(run(100.0, late_ms=500.0))
    most = f"{late.runs[0].p99_at_most_ms:.3f}"
    assert bench_page.page(few).headline == "p99 needs 459 samples: use --duration 6s"
    assert bench_page.page(late).headline == f"p99 at most {most} ms, client lateness included"
    for text in (render_bench_html(few), bench_markdown(few)):
        assert "100/s offered: a p99 needs 459 samples, and there are 100: use --duration 6s" in text
    assert "| needs 459 |" in bench_markdown(few)
    assert "<td>needs 459</td>" in render_bench_html(few)
    for text in (render_bench_html(late), bench_markdown(late)):
        assert f"100/s offered: p99 at most {most} ms, client lateness included: the client itself fell" in text
        assert "the client was late: lower the rate, or give the client a core of its own" in text
        assert f"at most {most}" in text
        assert "client late" in text
    for record in (few, late):
        assert "unknown" not in bench_markdown(record)
        assert ">unknown<" not in render_bench_html(record)


def test_a_late_client_and_too_few_samples_are_both_reported() -> None:
    """There is no bound either, so the line says how long a run has to be; of many such runs, the slowest's."""
    late = [run(rate, samples=100, late_ms=500.0) for rate in (100.0, 50.0, 200.0, 400.0)]
    needs = "; a p99 needs 459 samples, and there are 100: use --duration "
    record = bench(late[0])
    for text in (render_bench_html(record), bench_markdown(record)):
        assert f"so percentiles would not be the server's{needs}6s" in unescape(text)
    many, _ = bench_page.doubts(bench(*late))
    assert many.endswith(f"{needs}11s")


def test_a_search_says_what_is_unknown_of_each_rate() -> None:
    """Too few samples, and a late client: in the table of rates there is a reason or a bound."""
    few, late = run(20.0, samples=100), run(500.0, late_ms=500.0)
    slo = SloResult(
        10.0, "p99", met=False, highest_rate=None, limited_by=Shown.UNCLEAR, curve=[point(few), point(late)]
    )
    record = replace(bench(few, late), slo=slo)
    rates = [row[1:3] for row in bench_page.page(record).tried]
    assert rates == [("needs 459", "-"), ("client late", f"{late.p99_at_most_ms:.3f}")]
    assert "unknown" not in bench_markdown(record)


@pytest.mark.parametrize(
    ("metric", "words"),
    [("p90_ms", "needs 44 samples"), ("p99_ms", "needs 459 samples"), ("queries_per_s", "not shown")],
)
def test_a_scenario_without_its_metric_says_why(metric: str, words: str) -> None:
    """What is missing is samples, or a rate that was shown to keep the limit."""
    record = replace(bench(run(500.0)), scenario=ScenarioResult(Scenario.SERVER, 1, "a note", metric, None, None))
    for text in (render_bench_html(record), bench_markdown(record)):
        assert words in text


def test_many_late_runs_are_one_doubt() -> None:
    """A search that the client could not keep up with says so once."""
    record = bench(*(run(100.0 * number, late_ms=500.0 + number) for number in range(1, 6)), run(50.0))
    late, advice = bench_page.doubts(record)
    assert "in 5 of 6 runs the client itself fell behind its schedule (p99 501.0 to 505.0 ms)" in late
    assert re.search(r"; p99 at most \d\.\d+ to \d\.\d+ ms, client lateness included$", late)
    assert advice == "the client was late: lower the rate, or give the client a core of its own"


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        pytest.param({"f": 5.0}, " us per call", marks=pytest.mark.slow),
        pytest.param({"f": 10.0, "g": 5.0}, "g is 2 times faster", marks=pytest.mark.slow),
        ({"f": 5.0, "g": 10.0}, "f is the fastest"),
        ({"f": 5.0, "g": 5.0}, "No proven difference"),
    ],
)
def test_the_headline_of_a_microbenchmark(scales: dict[str, float], words: str) -> None:
    """The time of one function; of several the fastest, or that none is proven to be."""
    record = microbench(scales)
    assert words in microbench_page.page(record).headline
    assert words in render_microbench_html(record)
    assert words in microbench_markdown(record)


def test_a_regression_is_the_headline() -> None:
    """Against a saved run, what got slower comes first."""
    record = replace(microbench({"f": 6.0}), against=changes(microbench({"f": 6.0}), microbench({"f": 5.0})))
    assert microbench_page.page(record).headline == "f got slower"
    assert "**slower**" in microbench_markdown(record)


def test_a_microbenchmark_has_its_three_charts() -> None:
    """The distribution holds an area and dots of each function, the regression a line through three lengths."""
    page = microbench_page.page(two_functions())
    assert [series.kind for series in page.distribution.series] == ["area", "dots"] * 2
    assert page.lines is not None
    assert [series.kind for series in page.lines.series] == ["fit", "dots"] * 2
    assert len({point.x for point in page.lines.series[1].points}) == 3
    assert len(page.distribution.legend) == 2
    assert "The harness" not in page.harness
    assert "empty loop" in page.harness


def test_pages_stay_below_two_megabytes() -> None:
    """Forty runs of 20,000 kept latencies, and sixty functions, give pages that fit into a mail."""
    item = run(100.0, samples=20_000)
    heavy = [replace(item, rate_offered=100.0 * number) for number in range(1, 41)]
    page = render_bench_html(bench(*heavy))
    assert len(page.encode()) < 2_000_000
    assert '"thinned":' in page
    names = {f"test_module.py::test_number_{number}": 5.0 for number in range(12)}
    record = microbench(names)
    record = replace(record, functions=record.functions * 5)
    page = render_microbench_html(record)
    assert len(page.encode()) < 2_000_000
    assert "The first 6 of 60 functions are drawn." in page


def test_counts_that_say_something_have_columns() -> None:
    """Page faults and IPC of a call are shown where there are some, in HTML and Markdown; rare counts are not."""
    record = microbench({"f": 5.0, "g": 6.0})
    for item, faults in zip(record.functions, (12.0, 0.0), strict=True):
        item.counts.clear()
        item.counts.update({"page_faults": faults, "context_switches": 0.001, "ipc": 2.5})
    assert dict(count_columns(record)) == {"IPC": ["2.5", "2.5"], "page faults": ["12", "0"]}
    page, text = render_microbench_html(record), microbench_markdown(record)
    assert ">Page faults</th>" in page
    assert "| IPC | page faults |" in text
    assert "switches" not in text


def test_disturbed_samples_are_doubted() -> None:
    """Where over a tenth of the samples are outliers, the report says that something else runs."""
    record = microbench({"f": 5000.0}, draw="heavy tail")
    assert any("are outliers" in line for line in microbench_page.page(record).doubts)


@pytest.mark.parametrize(
    "write",
    [
        lambda: bench_markdown(slower_bench()),
        lambda: microbench_markdown(two_functions()),
        lambda: tune_markdown(result()),
        lambda: tune_markdown(INTERRUPTED),
    ],
    ids=["bench", "microbench", "tune", "interrupted"],
)
def test_markdown_tables_are_whole(write: Callable[[], str]) -> None:
    """Every row of a table has as many cells as its head, and nothing is a Python object."""
    text = write()
    for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not re.search(r"\bNone\b|\bnan\b|<[a-z]+ object", text)


def test_markdown_escapes_strangers_names() -> None:
    """A model called like an image or a table's bar stays text."""
    text = tune_markdown(result(name="![x](http://e.example/p.png) | <b>"))
    assert r"!\[x\](http://e.example/p.png) \| \<b\>" in text


def test_tune_markdown_tells_the_ladder() -> None:
    """Each rung with what was kept and why; the verified figures; the command."""
    text = tune_markdown(result())
    assert "2.50 times shorter" in text
    assert re.search(r"\| algorithmic \| `engine.threads=2` \| 3 \| because better \|", text)
    assert "the engine lays memory out by itself" in text
    assert "`tailcut tune ranker.onnx`" in text


def test_an_explained_tail_is_its_cause() -> None:
    """The cause is the headline; two bars of stages share an axis; each of the worst requests has one."""
    page = explain_page.page(explained())
    assert page.headline == "100 % is garbage collection"
    assert "memory.gc_freeze" in page.lead
    assert page.means is not None
    assert page.worst is not None
    median, slowest = (sum(part.width for part in row.parts) for row in page.means.rows)
    assert median * 25 < slowest <= 100.1
    assert all("garbage collection" in row.note for row in page.worst.rows[:10])
    assert page.worst.rows[0].figures == (("queue", "20.1 ms"),)
    assert "m<b>" not in explain_markdown(explained())


def test_too_few_requests_have_no_tail_on_the_page() -> None:
    """The page says how many it takes, and draws nothing; what was missed is doubted."""
    page = explain_page.page(replace(explained(20), missed=7))
    assert page.headline == "No tail to explain"
    assert (page.means, page.worst) == (None, None)
    assert page.doubts[0].startswith("7 more requests")
