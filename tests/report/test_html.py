"""The report: one file that opens offline, says no more than was measured, and shows strangers' names as text."""

import re
import subprocess
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict, replace
from rich.console import Console
from tests.browser import CHROMIUM, FLAGS, needs_chromium
from tests.report.records import explained, slower_bench, two_functions

from tailcut.lab.records import Cost, IntervalRecord
from tailcut.report import tune_page, tune_words
from tailcut.report.console import tune_summary
from tailcut.report.html import (
    headline,
    render_bench_html,
    render_explain_html,
    render_microbench_html,
    render_tune_html,
)
from tailcut.report.markdown import plain, tune_markdown
from tailcut.runtime.settings import PipelineSettings, Settings
from tailcut.spec import Rows
from tailcut.tuner.objective import ALL_LATE
from tailcut.tuner.result_records import (
    AccuracyResult,
    Candidate,
    EqualConfiguration,
    EstimateRecord,
    ModelRequest,
    NoiseResult,
    OfferResult,
    Quantized,
    Retune,
    RowsDecision,
    Rung,
    TailRatio,
    TieBreakResult,
    TunedModel,
    TuneObjective,
    TuneResult,
    Verification,
    VerifiedArm,
    WorstRow,
)
from tailcut.tuner.space import changed

COST = Cost(
    cpu_ns=87_654.0,
    waited_ns=None,
    context_switches=2.25,
    involuntary_switches=None,
    page_faults=0.125,
    major_faults=None,
)


def figures(p99: float | None, samples: int = 2000) -> dict[str, Any]:
    """Of an arm, by the names of its fields."""
    return {
        "p50_ms": 1.5,
        "p95_ms": 1.95,
        "p99_ms": p99,
        "p99_interval_ms": (p99 * 0.9, p99 * 1.2) if p99 else None,
        "samples": samples,
        "throughput": 1234.5,
        "client_cpu": 0.12,
        "client_cpu_closed": 0.97,
        "rate_offered": 500.0,
        "rate_achieved": 500.0,
        "errors": 0,
        "cost": COST,
        "client_behind_blocks": 0,
        "curve": [(q, 1.0 + q) for q in (0.0, 0.25, 0.5, 0.9, 0.95)] + ([(0.99, p99)] if p99 else []),
    }


def arm(p99: float | None) -> VerifiedArm:
    return VerifiedArm(**figures(p99), memory_peak_bytes=None)


def ratio(point: float) -> IntervalRecord:
    return IntervalRecord(point, point * 0.8, point * 1.1)


def candidate(verdict: str, point: float | None) -> Candidate:
    return Candidate.of(
        "engine.threads=2",
        verdict,
        f"because {verdict}",
        p50_ms=1.0,
        p95_ms=2.0,
        throughput=10.0,
        samples=100,
        cost=COST if point else None,
        tail_ratio=ratio(point) if point else None,
        ratio_of="p95",
    )


def estimate(number: int) -> EstimateRecord:
    """A configuration that was simulated: larger batches carry more, and take longer alone."""
    return EstimateRecord(
        setting=f"batching.max_batch_size={number}",
        rate=100.0 * number * (0.5 if number % 3 else 1.0),
        alone_ms=0.1 * number,
        cpu_us=10.0 + number,
        memory_bytes=number << 22,
        front=number % 3 == 0,
        raced=100.0 * number if number > 25 else None,
        accuracy=0.99912 if number > 25 else None,
    )


ASKED = ModelRequest(
    memory_bytes=None,
    cpus=None,
    accuracy="0.999",
    metric=None,
    wire="any",
    normalize=None,
    outputs=None,
    fix=None,
    local=False,
    device="cpu",
    budget_s=60.0,
    seed=0,
    slo_ms=10.0,
    data=None,
)


def verification(p99: float | None, gain: float | None) -> Verification:
    return Verification(
        baseline=arm(p99 and 2 * p99),
        reference=arm(p99 and 1.5 * p99),
        tuned=arm(p99),
        reference_p99_ratio=ratio(0.9) if gain else None,
        p99_ratio=ratio(gain) if gain else None,
        tail_ratio=TailRatio(**asdict(ratio(gain)), of="p99") if gain else None,
        clients=16,
        cpu_ratio=None,
        throughput_ratio=ratio(2.0),
        highest_rate=None,
        slo_met=None,
    )


def result(*, name: str = "ranker", p99: float | None = 8.0, gain: float | None = 0.4) -> TuneResult:
    verdicts = [("better", 0.5), ("worse", 1.8), ("indistinct", 1.0), ("rejected", None), ("skipped", None)]
    return TuneResult(
        model=TunedModel(name, f"{name}.onnx", "0" * 64, ["x FP32 [-1, 4]"], ["y"]),
        machine={"cpu": "a processor", "cpus": 2},
        objective=TuneObjective(
            **asdict(ASKED), percentile="p99", kind="goodput", limit_ms=10.0, rate=500.0, took_s=60.0, interrupted=False
        ),
        command=f"tailcut tune {name}.onnx",
        rows=RowsDecision(Rows.DEPENDENT, False, "Softmax over axis 0 mixes <rows>", "auto", {}),
        rungs=[
            Rung("algorithmic", None, [candidate(*verdict) for verdict in verdicts], "engine.threads=2"),
            Rung("layout", "the engine lays memory out by itself", [], None),
        ],
        estimated=[estimate(number) for number in range(1, 30)],
        winner="batching.max_batch_size=29",
        reused_estimates=0,
        noise=NoiseResult(0.987, 4.2, probes=60, late_blocks=1, repeated_blocks=3, client_lateness_p99_ms=None),
        verification=verification(p99, gain),
        unchanged=False,
        tie_break=None,
        offers=[],
        retune=None,
        accuracy=AccuracyResult(
            metric="built-in",
            right=True,
            reason="right",
            requests=146,
            worst=0.9999,
            top1=None,
            spread=0.0123,
            differing=None,
            value=None,
            labels_accuracy=None,
            random_outputs=[],
            worst_rows=[
                WorstRow(
                    request=12,
                    row=2,
                    asked="request 12 joined with 2 more, asked with 15 others",
                    output="y<b>",
                    measure="cosine",
                    found="cosine 0.999900 (at least 0.999)",
                    expected="[3] 0.5",
                    got="[3] 0.52",
                )
            ],
        ),
        quantized=None,
        settings=changed(Settings(), engine={"threads": 2}, batching={"max_batch_size": 8}),
        profile="ranker.profile.toml",
        report="ranker.report.html",
        trials=None,
    )


RETUNED = replace(
    result(),
    retune=Retune("a", "b", {"engine.threads": (1, 2)}, None),
    verification=replace(verification(8.0, 0.4), previous=arm(9.0), previous_p99_ratio=ratio(0.8)),
)
INTERRUPTED = replace(result(), verification=None, accuracy=None)


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "line", "circle", "path", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


PAGES = {
    "full": lambda: render_tune_html(result()),
    "unknown": lambda: render_tune_html(result(gain=None, p99=None)),
    "retuned": lambda: render_tune_html(RETUNED),
    "interrupted": lambda: render_tune_html(INTERRUPTED),
    "bench": lambda: render_bench_html(slower_bench()),
    "microbench": lambda: render_microbench_html(two_functions()),
    "explain": lambda: render_explain_html(explained()),
    "no tail": lambda: render_explain_html(explained(20)),
}


@pytest.mark.parametrize("draw", PAGES.values(), ids=PAGES)
def test_one_small_file_without_a_single_reference_outside(draw: Callable[[], str]) -> None:
    """No address, no import, balanced tags, every id once, far below 2 MB."""
    page = draw()
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page)
    assert "@import" not in page
    assert "default-src 'none'" in page  # the browser itself would stop a request
    assert len(page) < 400_000
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (result(gain=0.4), "2.50 times shorter"),
        (result(gain=0.95), "No proven gain"),
        (result(gain=1.5), "longer"),
        (result(gain=None, p99=None), "unknown"),
        (INTERRUPTED, "Not verified"),
    ],
)
def test_the_headline_claims_what_the_interval_holds(case: TuneResult, words: str) -> None:
    """A gain only when the whole interval is one."""
    assert words in headline(case)[0]
    page = render_tune_html(case)
    assert words in page
    assert ("may be chance" in page) == (words == "No proven gain")


def test_names_are_text() -> None:
    """A model called like a script tag is shown as one, in the page and in the raw numbers."""
    hostile = "</script><script>document.title='owned'</script>"
    page = render_tune_html(result(name=hostile))
    assert "<script>document.title" not in page
    assert "&lt;/script&gt;" in page


def browse(page: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    path = folder / "report.html"
    path.write_text(page)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'browser'}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_waterfall_shows_what_was_kept_and_why_the_rest_was_not() -> None:
    """The kept setting moves the level by its ratio; each dropped one is a ring with its reason."""
    first, second = tune_page.waterfall(result()).steps
    assert [item.entry.verdict for item in first.kept] == ["better"]
    assert first.after < first.before == pytest.approx(second.before + first.before - first.after, abs=0.02)
    assert second.before == second.after == first.after
    assert {item.css for item in first.dropped} == {"worse", "indistinct", "rejected"}
    assert len(first.ghosts) == 2  # what was rejected has no ratio, so no place
    assert first.untried == 1
    page = render_tune_html(result())
    assert "because rejected" in page
    assert "the engine lays memory out by itself" in page


def test_the_waterfall_names_its_percentile() -> None:
    """That of the kept settings, and none where they differ."""
    case = result()
    assert tune_page.waterfall(case).of == "p95"
    assert "Where the p95 stood after each rung" in render_tune_html(case)
    entry = replace(candidate("better", 0.8), ratio_of="p50")
    mixed = replace(case, rungs=[case.rungs[0], Rung("layout", None, [entry], entry.setting)])
    assert tune_page.waterfall(mixed).of == "tail"
    assert tune_page.waterfall(replace(case, rungs=[])).of == "tail"


def test_it_says_whether_requests_are_batched_and_why() -> None:
    """On the page, in Markdown and on the console."""
    sentence = "Each request runs whole, never merged or split (rows dependent): Softmax over axis 0 mixes <rows>."
    assert escape(sentence) in render_tune_html(result())
    assert plain(sentence) in tune_markdown(result())
    console = Console(file=StringIO(), width=500)
    console.print(tune_summary(result()))
    assert sentence in console.file.getvalue()  # type: ignore[attr-defined]
    rows = replace(result().rows, rows=Rows.INDEPENDENT, batched=True, reason="so it is")
    batched = render_tune_html(replace(result(), rows=rows))
    assert "Requests are batched (rows independent): so it is." in batched
    assert "runs whole" not in batched


def test_what_is_better_but_changes_precision_is_dropped() -> None:
    """A candidate that won its trial and was not kept is shown as dropped, with the reason."""
    case = result()
    entry = Candidate.of("engine.precision=int8", "better", "p99 x0.40; not kept: precision", tail_ratio=ratio(0.4))
    case.rungs[0].candidates.append(entry)
    dropped = tune_page.waterfall(case).steps[0].dropped[-1]
    assert (dropped.css, dropped.word, dropped.short) == ("better", "not kept", "precision")


def probe(page: str, script: str) -> str:
    """The page with a script behind its own that writes what it finds into the title."""
    return page.replace("</body>", f"<script>document.title = String({script});</script></body>")


def title(done: subprocess.CompletedProcess[str]) -> str:
    outcome = re.search(r"<title>(.*?)</title>", done.stdout)
    assert outcome, done.stderr
    return outcome[1]


READ = """(() => {
  const chart = document.querySelector("figure.chart");
  const press = (key) => chart.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  press("Home"); const first = chart.querySelector("[aria-live]").textContent;
  press("End"); const last = chart.querySelector("[aria-live]").textContent;
  const shown = !chart.querySelector(".tip").hidden && chart.querySelectorAll(".lit").length;
  press("Escape");
  const box = [...chart.querySelectorAll("svg")].find((one) => one.getClientRects().length).getBoundingClientRect();
  const svg = [...chart.querySelectorAll("svg")].find((one) => one.getClientRects().length);
  svg.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: box.right - 20, clientY: box.top + 50 }));
  const pointed = chart.querySelector(".tip").textContent;
  press("Escape");
  const fits = document.body.scrollWidth <= innerWidth;
  return [first, last, pointed, shown, chart.querySelector(".tip").hidden, fits].join(" | ");
})()"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What a browser made of a page of a model with a hostile name, whose chart is read by keys and pointer."""
    page = probe(render_tune_html(result(name="<b>x</b>")), READ)
    return browse(page, tmp_path_factory.mktemp("browsed"), "--dump-dom", "--enable-logging=stderr", "--v=0")


@needs_chromium
def test_its_script_runs_in_a_browser(browsed: subprocess.CompletedProcess[str]) -> None:
    """The page reads its own raw numbers, wires its chart and reports no error; a hostile name stays text."""
    assert 'data-ready="2"' in browsed.stdout
    assert "&lt;b&gt;x&lt;/b&gt;" in browsed.stdout
    assert "ERROR:CONSOLE" not in browsed.stderr.upper()


@needs_chromium
def test_charts_are_read_by_keyboard_and_pointer(browsed: subprocess.CompletedProcess[str]) -> None:
    """Home and End read every curve aloud and light up its points; the pointer shows them; Escape hides them."""
    first, last, pointed, lit, hidden, fits = title(browsed).split(" | ")
    assert first == "p25: baseline 1.250 ms; reference 1.250 ms; tuned 1.250 ms"
    assert last == "p99: baseline 16.00 ms; reference 12.00 ms; tuned 8.000 ms"
    assert pointed == "p99baseline 16.00 msreference 12.00 mstuned 8.000 ms"
    assert (lit, hidden, fits) == ("3", "true", "true")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("draw", [PAGES["bench"], PAGES["microbench"]], ids=["bench", "microbench"])
def test_narrow_pages_do_not_scroll_sideways(tmp_path: Path, draw: Callable[[], str]) -> None:
    """At the width of a telephone nothing but tables, which scroll by themselves, is wider than the page."""
    script = "document.documentElement.dataset.ready + ' ' + (document.body.scrollWidth <= innerWidth)"
    done = browse(probe(draw(), script), tmp_path, "--dump-dom", "--window-size=500,1600")
    charts, fits = title(done).split(" ")
    assert int(charts) >= 2
    assert fits == "true"


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("size", ["1200,1600", "420,1600"])
def test_it_is_drawn_light_and_dark(tmp_path: Path, size: str) -> None:
    """Both schemes give a picture, and not the same one."""
    pictures = []
    for scheme in ("0", "1"):  # dark, light in Chromium's own numbers
        folder = tmp_path / scheme
        folder.mkdir()
        shot = folder / "shot.png"
        browse(
            render_tune_html(result()),
            folder,
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--window-size={size}",
            f"--screenshot={shot}",
        )
        pictures.append(shot.read_bytes())
    assert all(len(picture) > 10_000 for picture in pictures)
    assert pictures[0] != pictures[1]


def test_the_rows_that_are_furthest_off_are_shown() -> None:
    """Request, row, output, what was found, expected and got: in the page as text, and in Markdown."""
    page, markdown = render_tune_html(result()), tune_markdown(result())
    for text in (page, markdown):
        assert "request 12 joined with 2 more, asked with 15 others" in text
        assert "cosine 0.999900 (at least 0.999)" in text
        assert "[3] 0.52" in text
    assert "y&lt;b&gt;" in page
    assert "1.23%" in page


def test_what_was_not_compared_is_reported() -> None:
    """A random model has no figures; each report says why."""
    random = replace(result().accuracy, worst=None, spread=None, worst_rows=[], random_outputs=["noise"])
    case = replace(result(), accuracy=random)
    words = "Not compared, because the model itself draws them at random: noise."
    console = Console(width=200)
    with console.capture() as shown:
        console.print(tune_summary(case))
    for text in (render_tune_html(case), tune_markdown(case), shown.get()):
        assert words in text
        assert "cosine" not in text.partition('<script type="application/json"')[0]


def test_a_quantised_copy_is_described() -> None:
    """Each report says what stayed in float, and where the ranges come from; without a copy nothing."""
    copy = Quantized("openvino", "minmax", 64, 20, ["stem", "head"], 0.9998)
    for quantized, words in (
        (copy, "2 of 20 operators in float (stem, head), ranges by minmax over 64 requests"),
        (replace(copy, in_float=[]), "The profile uses a copy in static int8: all operators, ranges by"),
        (None, ""),
    ):
        case = replace(result(), quantized=quantized)
        console = Console(width=200)
        with console.capture() as shown:
            console.print(tune_summary(case))
        for text in (render_tune_html(case), tune_markdown(case), shown.get()):
            assert words in text
            assert bool(words) is ("static int8" in text.partition('<script type="application/json"')[0])


def test_a_metric_of_the_users_own_is_named() -> None:
    """Its value stands where the cosine would."""
    accuracy = replace(result().accuracy, metric="mine:f1", value=0.75, worst=None, spread=None, worst_rows=[])
    case = replace(result(), objective=replace(result().objective, metric="mine:f1"), accuracy=accuracy)
    assert tune_words.tune_facts(case)[-1] == ("answers", "0.75", "mine:f1")
    assert "mine:f1" in render_tune_html(case)
    assert "mine:f1 0.75" in tune_markdown(case)


def test_the_front_is_drawn_of_everything_that_was_estimated() -> None:
    """A dot for each configuration, those that raced and the winner in their own colours, and the front as a line."""
    chart = tune_page.pareto_chart(result())
    assert chart is not None
    counts = {series.name: len(series.points) for series in chart.series}
    assert counts["estimated"] == 25
    assert counts["raced on the server"] == 3
    assert counts["the winner"] == 1
    dots = [(series.name, point.text) for series in chart.series for point in series.points if series.kind == "dots"]
    assert all(text.endswith(", accuracy 0.99912") == (name != "estimated") for name, text in dots)
    (front,) = (series for series in chart.series if series.kind == "fit")
    rates = [point.y for point in front.points]
    assert rates == sorted(rates)
    assert all(point.size for series in chart.series if series.kind == "dots" for point in series.points)
    assert "All configurations" in render_tune_html(result())
    assert tune_page.pareto_chart(replace(result(), estimated=[])) is None


def test_noise_and_changes_are_reported() -> None:
    """How quiet the machine was, how many blocks were repeated, and what a profile that was checked again became."""
    for text in (render_tune_html(RETUNED), _shown(tune_summary(RETUNED)), tune_markdown(RETUNED)):
        assert "quiet for 98.7% of the time" in text
        assert "x0.80 (0.64 to 0.88) compared with the previous profile" in text
        assert "3 blocks repeated because the client was late; the client was late in 1 of the blocks" in text
        assert "engine.threads 1" in text
        assert "previous" in text


OFFER = OfferResult(
    setting="engine.precision=int8",
    engine="onnxruntime",
    precision="int8",
    p50_ratio=0.55,
    rate_ratio=1.7,
    accuracy=0.97,
    worst=0.9771,
    top1=None,
    spread=None,
    differing=None,
    value=None,
)
EQUAL = EqualConfiguration("engine.spinning=False", 1.0, None, None)
TIE = TieBreakResult("engine.spinning=False", "equal within the noise; takes 0.3 of the CPU", [EQUAL, EQUAL])


def test_where_nothing_was_kept_every_report_says_unchanged() -> None:
    """In the headline and in the row of the tuned settings; never that it is better, whatever the noise says."""
    same = replace(result(), unchanged=True)
    for text in (render_tune_html(same), _shown(tune_summary(same)), tune_markdown(same)):
        assert "Nothing was better than the baseline" in text
        assert "times shorter" not in text
    page, markdown = render_tune_html(same), tune_markdown(same)
    assert '<h1 id="gain">Unchanged</h1>' in page
    assert '<span class="swatch tuned"></span>unchanged' in page
    assert "| unchanged |" in markdown
    assert "│ unchanged" in _shown(tune_summary(same))
    again = replace(RETUNED, unchanged=True, retune=Retune("a", "a", {}, None))
    assert "unchanged: the profile's settings are still the best" in _shown(tune_summary(again))
    assert "| unchanged |" in tune_markdown(again)


def test_a_choice_among_equals_and_offers_are_reported() -> None:
    """With the reason, and with what to add to the command."""
    outcome = replace(result(), tie_break=TIE, offers=[OFFER])
    for text in (render_tune_html(outcome), _shown(tune_summary(outcome)), tune_markdown(outcome).replace("\\", "")):
        assert (
            "hosen among 2 that are equal: engine.spinning=False: equal within the noise; takes 0.3 of the CPU" in text
        )
        assert "int8 (onnxruntime): p50 x0.55, rate x1.70, cosine 0.9771; accept with --accuracy 0.97" in text


def test_a_limit_that_nothing_meets_is_reported() -> None:
    """That the race had no answer within it, or that the simulation expects none; nothing where one is met."""
    assert not tune_words.unmet_words(result())
    late = [replace(each, rate=0.0, raced=each.raced and ALL_LATE / 2) for each in result().estimated]
    outcome = replace(result(), estimated=late)
    for text in (render_tune_html(outcome), _shown(tune_summary(outcome)), tune_markdown(outcome)):
        assert "o configuration answered within the limit of 10 ms in the race: the one with the shortest p99" in text
    few = replace(result(), estimated=[replace(each, raced=each.raced and 1.0) for each in late])
    assert tune_words.unmet_words(few) == "no configuration is expected to meet the limit of 10 ms"
    by_rate = replace(outcome, objective=replace(outcome.objective, kind="throughput"))
    assert not tune_words.unmet_words(by_rate)


def test_a_pipeline_has_no_reference() -> None:
    """Its baseline is the pipeline as written; its steps' settings are in the page."""
    steps = msgspec.convert({"stages": [{"name": "tokenize", "workers": 2}], "models": []}, PipelineSettings)
    outcome = replace(
        result(),
        settings=replace(result().settings, pipeline=steps),
        verification=replace(verification(8.0, 0.4), reference=msgspec.UNSET, reference_p99_ratio=None),
    )
    page = render_tune_html(outcome)
    assert "the pipeline as written" in page
    assert "tokenize" in page
    for text in (page, _shown(tune_summary(outcome)), tune_markdown(outcome)):
        assert "to the reference" not in text
        assert "of the reference" not in text


def test_memory_over_the_limit_is_reported() -> None:
    """The tuned server's peak beside --memory."""
    tuned = replace(arm(8.0), memory_peak_bytes=150_000_000)
    outcome = replace(
        result(),
        objective=replace(result().objective, memory_bytes=100_000_000),
        verification=replace(verification(8.0, 0.4), memory_within=False, tuned=tuned),
    )
    assert tune_words.limits_words(outcome) == ("the tuned server's memory peaked at 150 MB: OVER the limit of 100 MB")


def _shown(what: Any) -> str:
    console = Console(file=StringIO(), width=400)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_clients_own_cores_stand_beside_each_arm() -> None:
    """In the page and in the terminal: a figure of a client that was busy all the time is the client's own."""
    out = StringIO()
    Console(file=out, width=300).print(tune_summary(result()))
    arms = len(verification(8.0, 0.4).arms)
    assert arms > 1
    assert out.getvalue().count("0.12 / 0.97") == arms
    assert render_tune_html(result()).count("0.12 / 0.97") == arms
