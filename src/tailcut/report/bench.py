"""The output of `tailcut bench` on a terminal: a line per run, and the changes since an earlier result."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tailcut.lab.record import PERCENTILES
from tailcut.lab.records import BenchResult, Lengths, Run, RunComparison, ScenarioResult, SearchPoint, SloResult
from tailcut.report.bench_words import (
    doubt,
    doubts,
    interval_words,
    late_causes,
    length_figures,
    longest_words,
    percentile_words,
    scenario_value,
)
from tailcut.report.terminal import output_console
from tailcut.report.words import cpu, fixed_milliseconds, length_range, length_words, load, own_figures

_COLOURS = {"better": "green", "worse": "red", "indistinct": "dim"}


def bench_table(record: BenchResult) -> None:
    """Print a result to stdout."""
    console = output_console()
    if record.slo:  # the runs are the points of its curve
        _slo(console, record.slo)
    else:
        _runs(console, record)
    if record.scenario:
        _scenario(console, record.scenario)
    for entry in record.comparison or ():
        _comparison(console, entry)


def _runs(console: Console, record: BenchResult) -> None:
    table = Table(title=escape(f"{record.target}, {record.transport}: latency in ms"))
    for name in ("load", "req/s", "samples", "p50", "p95", "p99", "99 % interval", "p99.9", "max", "errors"):
        table.add_column(name, justify="left" if name == "load" else "right")
    for name in ("late p99", "client CPU"):
        table.add_column(name, justify="right")
    costs = any(run.server_cost for run in record.runs)
    if costs:
        table.add_column("server CPU", justify="right")
    for run in record.runs:
        table.add_row(*_row(run), *own_figures(run), *([cpu(run.server_cost)] if costs else []))
    console.print(table)
    for run in record.runs:
        if run.lengths and run.lengths.differ:
            _lengths(console, run, run.lengths)
    for number, run in enumerate(record.runs, 1):
        words = doubt(run)
        if words:
            console.print(f"[yellow]run {number}: {escape(words)}[/]")
    _late_causes(console, [run for run in record.runs if run.client_behind or run.late_because])


def _late_causes(console: Console, late: Sequence[Run | SearchPoint]) -> None:
    for text in late_causes(late):
        console.print(f"[yellow]{escape(text)}[/]")


def _lengths(console: Console, run: Run, lengths: Lengths) -> None:
    """Which lengths were sent, and the latency of each quarter of them."""
    # Not as the table's title, which would wrap to the width of the table.
    console.print(escape(f"{load(run)}: {length_words(lengths)}"), highlight=False)
    table = Table()
    for name in ("length", "samples", "p50", "p95", "p99"):
        table.add_column(name, justify="right")
    for part, figures in zip(lengths.quartiles, length_figures(run, lengths, fixed_milliseconds), strict=True):
        table.add_row(length_range(part), f"{part.samples:,}", *figures)
    console.print(table)


def _comparison(console: Console, entry: RunComparison) -> None:
    number = entry.run + 1
    if not entry.percentiles:
        console.print(f"[red]run {number} could not be compared: no percentile is known of it or of the earlier run[/]")
    for name, result in entry.percentiles.items():
        ratio, word = result.ratio, result.verdict
        console.print(
            f"run {number} {name}: {ratio.point:.3f} of before "
            f"({ratio.low:.3f} to {ratio.high:.3f}): [{_COLOURS[word]}]{word}[/]"
        )


def _scenario(console: Console, scenario: ScenarioResult) -> None:
    interval = scenario.interval
    spread = "" if interval is None else f" (99 % interval {interval[0]:,.3f} to {interval[1]:,.3f})"
    console.print(f"{scenario.name}: {scenario.metric} {scenario_value(scenario, '{:,.3f}'.format)}{spread}")
    console.print(f"[dim]{scenario.note}[/]")


def _slo(console: Console, slo: SloResult) -> None:
    """The rate that was found, and the curve that it is from."""
    table = Table(title=f"{slo.percentile} against rate; the limit is {slo.slo_ms:g} ms")
    heads = ("req/s offered", "p50", "p99", "99 % interval", "p99 at most", "errors", "late p99", "client CPU", "shown")
    for name in heads:
        table.add_column(name, justify="left" if name == "shown" else "right")
    for point in slo.curve:
        figures = [percentile_words(point, name, fixed_milliseconds) for name in ("p50", "p99")]
        bounds = ["-" if point.p99_interval_ms is None else interval_words(point, fixed_milliseconds, "-")]
        bounds.append("-" if point.p99_at_most_ms is None else fixed_milliseconds(point.p99_at_most_ms))
        row = [*figures, *bounds, str(sum(point.errors.values())), *own_figures(point), point.shown]
        table.add_row(f"{point.rate_offered:,.1f}", *row)
    console.print(table)
    for words in doubts([(f"{point.rate_offered:,.1f} req/s", point) for point in slo.curve]):
        console.print(f"[yellow]{escape(words)}[/]")
    _late_causes(console, [point for point in slo.curve if point.late_because])
    if slo.highest_rate is not None:
        above = f"; above it: {slo.limited_by}" if slo.limited_by else ""
        words = f"is the highest rate with {slo.percentile} within the limit{above}"
        console.print(f"[green]{slo.highest_rate:,.1f} requests/s {words}[/]")
    else:
        console.print(f"[red]no rate was shown to keep {slo.percentile} within the limit: {slo.limited_by}[/]")


def _row(run: Run) -> list[str]:
    errors = ", ".join(f"{count} x {kind}" for kind, count in run.errors.items()) or "0"
    *figures, p99_9 = (percentile_words(run, name, fixed_milliseconds) for name in PERCENTILES)
    figures += [interval_words(run, fixed_milliseconds, "-"), p99_9, longest_words(run, fixed_milliseconds)]
    return [escape(load(run, ",.1f")), f"{run.rate_achieved:,.1f}", f"{run.samples:,}", *figures, escape(errors)]
