"""What `tailcut bench` shows a person: one line a run, and what changed against an earlier one."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_COLOURS = {"better": "green", "worse": "red", "indistinct": "dim"}


def bench_table(record: Mapping[str, Any]) -> None:
    """Print a result to stdout."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # nobody's window to fit: nothing is cut off
    table = Table(title=f"{record['target']}: latency in ms; an unknown percentile lacks samples")
    for name in ("load", "req/s", "samples", "p50", "p95", "p99", "99 % interval", "p99.9", "max", "errors"):
        table.add_column(name, justify="left" if name == "load" else "right")
    for run in record["runs"]:
        table.add_row(*_row(run))
    console.print(table)
    for number, run in enumerate(record["runs"], 1):
        if run["client_behind"]:
            console.print(
                f"[yellow]run {number}: the client itself fell behind its plan "
                f"(p99 {run['client_lateness_p99_ms']} ms), so its percentiles would not be the "
                "server's: lower the rate, or give the client a core of its own[/]"
            )
    for entry in record.get("comparison", []):
        for name, found in entry["percentiles"].items():
            ratio, word = found["ratio"], found["verdict"]
            console.print(
                f"run {entry['run'] + 1} {name}: {ratio['point']:.3f} of before "
                f"({ratio['low']:.3f} to {ratio['high']:.3f}): [{_COLOURS[word]}]{word}[/]"
            )


def _row(run: Mapping[str, Any]) -> list[str]:
    latency, interval = run["latency_ms"], run["p99_interval_ms"]
    load = f"{run['rate_offered']:,.1f}/s offered" if run["mode"] == "open" else f"{run['concurrency']} in flight"
    errors = ", ".join(f"{count} x {kind}" for kind, count in run["errors"].items()) or "0"
    figures = [_ms(latency[name]) for name in ("p50", "p95", "p99")]
    spread = "unknown" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
    tail = [_ms(latency["p99_9"]), _ms(latency["max"])]
    return [load, f"{run['rate_achieved']:,.1f}", f"{run['samples']:,}", *figures, spread, *tail, errors]


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
