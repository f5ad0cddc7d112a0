"""What `tailcut bench` shows a person: one line a run, and what changed against an earlier one."""

from collections.abc import Sequence
from math import ceil

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tailcut.lab.record import PERCENTILES
from tailcut.lab.records import BenchResult, Bounds, CurvePoint, Lengths, Run, RunComparison, ScenarioResult, SloResult
from tailcut.report.words import cpu, fixed_milliseconds, length_range, length_words, load, own_figures
from tailcut.stats import samples_needed

_SPARE = 1.1  # times the samples that are needed: arrivals are random
_WIDTH = 170  # of the widest table
_BUSY = 0.9  # of a core for each client process
_LATE_ADVICE = "lower the rate, or give the client a core of its own"
_COLOURS = {"better": "green", "worse": "red", "indistinct": "dim"}


def bench_table(record: BenchResult) -> None:
    """Print a result to stdout."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)  # no terminal: nothing is cut off
    if record.slo:  # its runs are the points of the curve
        _slo(console, record.slo)
    else:
        _runs(console, record)
    if record.scenario:
        _scenario(console, record.scenario)
    for entry in record.comparison or ():
        _comparison(console, entry)


def _runs(console: Console, record: BenchResult) -> None:
    table = Table(title=f"{record.target}, {record.transport}: latency in ms")
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
        doubt = _doubt(run)
        if doubt:
            console.print(f"[yellow]run {number}: {escape(doubt)}[/]")
    _late_causes(console, [run for run in record.runs if run.client_behind or run.late_because])


def _late_causes(console: Console, late: Sequence[Run | CurvePoint]) -> None:
    """Say each cause once why the client was late."""
    for text in dict.fromkeys(run.late_because or _LATE_ADVICE for run in late):
        console.print(f"[yellow]the client was late: {escape(text)}[/]")


def _doubt(run: Run) -> str:
    """Why a run's percentiles are unknown, or may not be the server's; nothing where they are."""
    if run.client_behind:
        at_most = run.p99_at_most_ms
        bound = "" if at_most is None else f"p99 at most {at_most:.3f} ms, client lateness included: "
        return (
            f"{bound}the client itself fell behind its plan (p99 {run.client_lateness_p99_ms} ms), so its "
            "percentiles would not be the server's"
        )
    if run.samples and run.latency_ms.p99 is None:
        return _longer(run)
    if run.client_cpu > _BUSY * run.client_processes:
        return (
            f"the client kept {run.client_cpu:.2f} cores busy with {run.client_processes} of its processes, so "
            f"its own speed may be the limit: {'lower the rate' if run.mixed else 'add --processes auto'}"
        )
    return ""


def _lengths(console: Console, run: Run, lengths: Lengths) -> None:
    """Which lengths were sent, and the latency of each quarter of them."""
    console.print(escape(f"{load(run)}: {length_words(lengths)}"), highlight=False)  # a title wraps at a narrow table
    table = Table()
    for name in ("length", "samples", "p50", "p95", "p99"):
        table.add_column(name, justify="right")
    for part in lengths.quartiles:
        figures = [_percentile(run, name, getattr(part.latency_ms, name)) for name in ("p50", "p95", "p99")]
        table.add_row(length_range(part), f"{part.samples:,}", *figures)
    console.print(table)


def _comparison(console: Console, entry: RunComparison) -> None:
    number = entry.run + 1
    if not entry.percentiles:
        console.print(f"[red]run {number} could not be compared: it or the earlier one has no percentile[/]")
    for name, found in entry.percentiles.items():
        ratio, word = found.ratio, found.verdict
        console.print(
            f"run {number} {name}: {ratio.point:.3f} of before "
            f"({ratio.low:.3f} to {ratio.high:.3f}): [{_COLOURS[word]}]{word}[/]"
        )


def _scenario(console: Console, scenario: ScenarioResult) -> None:
    value, interval = scenario.value, scenario.interval
    spread = "" if interval is None else f" (99 % interval {interval[0]:,.3f} to {interval[1]:,.3f})"
    shown = "unknown" if value is None else f"{value:,.3f}"
    console.print(f"{scenario.name}: {scenario.metric} {shown}{spread}")
    console.print(f"[dim]{scenario.note}[/]")


def _slo(console: Console, slo: SloResult) -> None:
    """The answer, and the curve that it was read from."""
    table = Table(title=f"{slo.percentile} against rate; the limit is {slo.slo_ms:g} ms")
    heads = ("req/s offered", "p50", "p99", "99 % interval", "p99 at most", "errors", "late p99", "client CPU", "shown")
    for name in heads:
        table.add_column(name, justify="left" if name == "shown" else "right")
    for point in slo.curve:
        latency = point.latency_ms
        figures = (
            fixed_milliseconds(latency.p50),
            fixed_milliseconds(latency.p99),
            _bounds(point.p99_interval_ms, "unknown"),
        )
        errors = str(sum(point.errors.values()))
        row = [*figures, fixed_milliseconds(point.p99_at_most_ms), errors, *own_figures(point), point.shown]
        table.add_row(f"{point.rate_offered:,.1f}", *row)
    console.print(table)
    _late_causes(console, [point for point in slo.curve if point.late_because])
    if slo.highest_rate is not None:
        above = f"; above it: {slo.limited_by}" if slo.limited_by else ""
        console.print(f"[green]{slo.highest_rate:,.1f} requests/s keep {slo.percentile} within the limit{above}[/]")
    else:
        console.print(f"[red]no rate was shown to keep {slo.percentile} within the limit: {slo.limited_by}[/]")


def _row(run: Run) -> list[str]:
    latency = run.latency_ms
    errors = ", ".join(f"{count} x {kind}" for kind, count in run.errors.items()) or "0"
    p50, p95, p99, p99_9 = (_percentile(run, name, getattr(latency, name)) for name in PERCENTILES)
    most = "-" if latency.max is None else f"{latency.max:.3f}"
    figures = [p50, p95, p99, _bounds(run.p99_interval_ms, "-"), p99_9, most]
    return [escape(load(run, ",.1f")), f"{run.rate_achieved:,.1f}", f"{run.samples:,}", *figures, errors]


def _percentile(run: Run, name: str, value: float | None) -> str:
    """A percentile, or why there is none."""
    if value is not None:
        return f"{value:.3f}"
    return "client late" if run.client_behind else f"needs {samples_needed(PERCENTILES[name]):,}"


def _longer(run: Run) -> str:
    """How long a run has to be for a p99, at the rate that this one had."""
    needed = samples_needed(PERCENTILES["p99"])
    longer_s = ceil(_SPARE * needed / run.rate_achieved)
    return f"a p99 needs {needed} samples, and there are {run.samples}: use --duration {longer_s}s"


def _bounds(bounds: Bounds | None, unknown: str) -> str:
    return unknown if bounds is None else f"{bounds[0]:.3f}-{bounds[1]:.3f}"
