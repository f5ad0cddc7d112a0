"""The content of a load test's page, as values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.lab.records import BenchResult, IntervalRecord, Lengths, Run, SearchPoint, SloResult
from tailcut.lab.saturation import Shown
from tailcut.report import bench_words
from tailcut.report.bench_words import length_figures, percentile_words, scenario_value, unknown_headline
from tailcut.report.charts import (
    TONES,
    Chart,
    Point,
    Series,
    Tick,
    curve,
    linear,
    logarithmic,
    percentile_chart,
)
from tailcut.report.strips import ArmStrip, Bar, Strips, ratio_bar, reach_of, strips
from tailcut.report.words import (
    count,
    length_range,
    length_words,
    load,
    milliseconds,
    own_figures,
    round_milliseconds,
    with_unit,
)

_MOST_CURVES = len(TONES)
_LIMITS = {
    Shown.MISSES: "it is missed",
    Shown.UNCLEAR: "the interval includes the limit, so the result is inconclusive",
    Shown.ERRORS: "requests fail",
    Shown.CLIENT_BEHIND: "the client itself falls behind",
}
_Drawn = tuple[str, str, Run, list[tuple[float, float]]]  # label, tone, run, and pairs of quantile and milliseconds
_RATE_LINES = (("p50", "c5"), ("p95", "c3"), ("p99", "c1"))


@dataclass(frozen=True, slots=True)
class PercentileRow:
    """A percentile of a run compared with the earlier result."""

    run: str
    name: str
    ratio: IntervalRecord
    verdict: str
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class LengthRow:
    """A quarter of the requests by length: the range, the samples, and p50, p95 and p99 as text."""

    lengths: str
    samples: int
    figures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BenchPage:
    """The values for the template."""

    headline: str
    lead: str
    runs: tuple[tuple[str, str, Run], ...]
    strips: Strips | None
    curves: Chart | None
    rates: Chart | None
    facts: tuple[tuple[str, str, str], ...]
    changes: tuple[PercentileRow, ...]
    doubts: tuple[str, ...]
    costs: bool  # whether any run has a server cost
    tried: tuple[tuple[str, ...], ...]  # rows of a search: rate, p99, its bound, verdict, lateness, client CPU
    lengths: tuple[tuple[str, tuple[LengthRow, ...]], ...]  # of runs with requests of several lengths


def page(record: BenchResult) -> BenchPage:
    """Read a record of `tailcut bench`."""
    runs = [(load(run), TONES[number % len(TONES)], run) for number, run in enumerate(record.runs)]
    shown = _spread([(words, tone, run, _quantiles(run)) for words, tone, run in runs if not run.client_behind])
    changes = _changes(record)
    head, lead = headline(record, changes)
    return BenchPage(
        head,
        lead,
        tuple(runs),
        strips(
            [
                ArmStrip(words, tone, f"{run.samples:,} samples", points, _figures(run))
                for words, tone, run, points in shown
            ]
        ),
        percentile_chart(
            [(words, tone, [(q, value) for q, value in points if q >= 0.25]) for words, tone, _, points in shown],
            with_unit,
            "Latency by percentile of each run",
            tick=round_milliseconds,
        ),
        _rates(record),
        _facts(record),
        changes,
        tuple(doubts(record)),
        any(run.server_cost for run in record.runs),
        _tried(record.slo or None),
        tuple(
            (f"{load(run)}: {length_words(run.lengths)}", _length_rows(run, run.lengths))
            for run in record.runs
            if run.lengths and run.lengths.differ
        ),
    )


def headline(record: BenchResult, changes: Sequence[PercentileRow]) -> tuple[str, str]:
    """The title and lead: the p99, or the change if compared with an earlier result."""
    runs, server = record.runs, f"{record.target} ({record.transport})"
    if record.slo:
        return _answer(record.slo, server)
    failed = sum(sum(run.errors.values()) for run in runs)
    lead = f"{sum(run.samples for run in runs):,} requests answered by {server}"
    lead += f", {failed:,} failed." if failed else ", none failed."
    if changes:
        worse = sum(change.verdict == "worse" for change in changes)
        better = sum(change.verdict == "better" for change in changes)
        if worse:
            return f"{worse} of {len(changes)} percentiles got worse", lead
        words = f"{better} of {len(changes)} percentiles got better" if better else "No proven change"
        return words, lead
    known = sorted((run.latency_ms.p99, load(run)) for run in runs if run.latency_ms.p99 is not None)
    if not known:
        return unknown_headline(runs), lead
    (least, words), (most, _) = known[0], known[-1]
    if len(known) == 1:
        return f"p99 {milliseconds(least)} ms", f"At {words}: {lead}"
    return f"p99 {milliseconds(least)} to {milliseconds(most)} ms", f"Over {len(known)} loads: {lead}"


def _answer(slo: SloResult, target: str) -> tuple[str, str]:
    """The title and lead for a search for the highest rate within a limit."""
    limit = f"{slo.percentile} within {slo.slo_ms:g} ms"
    why = _LIMITS[slo.limited_by] if slo.limited_by else ""
    if not slo.met:
        return f"No rate keeps {limit}", f"at {target}: at the lowest one, {why or 'nothing was shown'}."
    above = f" Above it, {why}." if why else ""
    return (
        f"{count(slo.highest_rate)} requests per second",
        f"is the highest rate shown to keep {limit} at {target}.{above}",
    )


def _tried(slo: SloResult | None) -> tuple[tuple[str, ...], ...]:
    """A row for each rate of a search: the p99, its bound, the verdict on the limit, and the client's figures."""
    return tuple(
        (
            count(point.rate_offered),
            percentile_words(point, "p99"),
            "-" if point.p99_at_most_ms is None else milliseconds(point.p99_at_most_ms),
            point.shown,
            *own_figures(point),
        )
        for point in sorted(slo.curve if slo else (), key=lambda point: point.rate_offered)
    )


def _length_rows(run: Run, lengths: Lengths) -> tuple[LengthRow, ...]:
    rows = zip(lengths.quartiles, length_figures(run, lengths), strict=True)
    return tuple(LengthRow(length_range(part), part.samples, tuple(figures)) for part, figures in rows)


def _facts(record: BenchResult) -> tuple[tuple[str, str, str], ...]:
    """The metric of a named scenario."""
    scenario = record.scenario
    if not scenario:
        return ()
    ends = scenario.interval
    spread = "" if ends is None else f"99 % interval {ends[0]:,.4g} to {ends[1]:,.4g}; "
    return (
        (f"{scenario.name}: {scenario.metric}", scenario_value(scenario, "{:,.4g}".format), f"{spread}{scenario.note}"),
    )


def doubts(record: BenchResult) -> list[str]:
    """Reasons to doubt the figures, and why the client was late."""
    late = [run for run in record.runs if run.client_behind]
    return bench_words.doubts([(load(run), run) for run in record.runs]) + bench_words.late_causes(late)


def _figures(run: Run) -> dict[str, float | str]:
    known = {name: getattr(run.latency_ms, name) for name in ("p50", "p95", "p99")}
    return {name: percentile_words(run, name) if value is None else value for name, value in known.items()}


def _quantiles(run: Run) -> list[tuple[float, float]]:
    """Quantiles in milliseconds, including the lowest ones, from the latencies in the record."""
    values = np.sort(np.asarray(run.latencies_us, float)) / 1e3
    if len(values) < 8:
        return []
    low = [(q, float(values[int(q * (len(values) - 1))])) for q in (0.0, 0.1)]
    return [*low, *curve(values)]


def _spread(entries: list[_Drawn]) -> list[_Drawn]:
    """As many entries as there are colours, evenly spaced from first to last."""
    entries = [entry for entry in entries if entry[3]]
    if len(entries) <= _MOST_CURVES:
        return entries
    indices = np.linspace(0, len(entries) - 1, _MOST_CURVES).round().astype(int)
    return [
        (words, TONES[number], run, points)
        for number, (words, _, run, points) in enumerate(entries[i] for i in indices)
    ]


def _rates(record: BenchResult) -> Chart | None:
    """Latency against offered rate, with the limit of a search; None with fewer than three open loops."""
    slo = record.slo
    runs: Sequence[Run | SearchPoint] = slo.curve if slo else [run for run in record.runs if run.mode == "open"]
    swept = sorted(
        ((run.rate_offered, run.latency_ms) for run in runs if run.rate_offered and run.latency_ms.p50 is not None),
        key=lambda line: line[0],
    )
    if len(swept) < 3:
        return None
    series = [
        Series(
            name,
            tone,
            tuple(
                Point(rate, value, f"{count(rate)}/s", f"{milliseconds(value)} ms")
                for rate, latency in swept
                if (value := getattr(latency, name)) is not None
            ),
        )
        for name, tone in _RATE_LINES
    ]
    kept = tuple(line for line in series if line.points)
    rule = Tick(slo.slo_ms, f"limit {slo.slo_ms:g} ms") if slo else None
    values = [point.y for line in kept for point in line.points] + ([rule.value] if rule else [])
    x = linear(0, swept[-1][0] * 1.04, "requests per second, offered", lambda rate: f"{rate:,.6g}")
    y = logarithmic(min(values) / 1.25, max(values) * 1.25, "latency", round_milliseconds)
    return Chart("Latency against the offered rate", x, y, kept, rule)


def _changes(record: BenchResult) -> tuple[PercentileRow, ...]:
    entries = [
        (load(record.runs[entry.run]), name, result)
        for entry in record.comparison or ()
        for name, result in entry.percentiles.items()
    ]
    reach = reach_of([result.ratio for _, _, result in entries]) if entries else 1.0
    return tuple(
        PercentileRow(run, name.replace("_", "."), result.ratio, result.verdict, ratio_bar(result.ratio, reach))
        for run, name, result in entries
    )
