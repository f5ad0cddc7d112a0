"""The output of `tailcut explain`: tables for a terminal, and Markdown for pull requests."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tailcut.lab.records import ExplainResult
from tailcut.report.markdown import plain
from tailcut.report.words import count, nanoseconds
from tailcut.runtime.tracing.attribution import COINCIDENCES, KINDS

HEADS = ("stage", "median us", "slowest 1 % us", "of the time above the median")

DEVICE_HEADS = ("phase", "median", "slowest 1 %")
STEP_HEADS = ("step", "median in queue", "median computing", "slowest 1 % in queue", "slowest 1 % computing")


def explain_view(result: ExplainResult) -> RenderableType:
    """The verdict, the stages, and the events that coincided with slow requests."""
    lines: list[RenderableType] = [f"[bold]{escape(result.verdict)}[/]"]
    if result.stages:
        lines.append(_table(f"{result.requests:,} requests in {result.duration_s:g} s", HEADS, stage_rows(result)))
        lines += [escape(line) for line in (*process_lines(result), *coincided_lines(result))]
    if result.steps:
        lines.append(_table("steps of the pipeline, us", STEP_HEADS, step_rows(result)))
    if result.device:
        lines.append(_table("calls to the device, us", DEVICE_HEADS, device_rows(result)))
    if result.missed:
        lines.append(f"[yellow]{result.missed:,} more requests were overwritten before they could be read[/]")
    return Group(*lines)


def _table(title: str, heads: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """Names on the left, figures on the right."""
    table = Table(title=title)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def explain_markdown(result: ExplainResult) -> str:
    """The same as Markdown."""
    parts = [f"### {plain(result.model)}: {plain(result.verdict)}"]
    if result.stages:
        rows = [" | ".join(row) for row in (HEADS, ("---", "---:", "---:", "---:"), *stage_rows(result))]
        lines = (*process_lines(result), *coincided_lines(result))
        parts += ["\n".join(f"| {row} |" for row in rows), "\n".join(f"- {line}" for line in lines)]
    if result.steps:
        figures = [(plain(name), *row) for name, *row in step_rows(result)]
        steps = [" | ".join(row) for row in (STEP_HEADS, ("---", "---:", "---:", "---:", "---:"), *figures)]
        parts.append("\n".join(f"| {row} |" for row in steps))
    if result.device:
        device = [" | ".join(row) for row in (DEVICE_HEADS, ("---", "---:", "---:"), *device_rows(result))]
        parts.append("\n".join(f"| {row} |" for row in device))
    if result.missed:
        parts.append(f"{result.missed:,} more requests were overwritten before they could be read.")
    return "\n\n".join(part for part in parts if part) + "\n"


def stage_rows(result: ExplainResult) -> list[tuple[str, str, str, str]]:
    """A row for each stage: its name, its time in median requests and in the slowest ones, and its share."""
    return [
        (name, count(stage.median_us), count(stage.slowest_us), f"{100 * stage.share:.0f} %")
        for name, stage in (result.stages or {}).items()
    ]


def step_rows(result: ExplainResult) -> list[tuple[str, ...]]:
    """A row for each step of a pipeline: its name, and the time in its queue and in its calls."""
    return [
        (
            step.stage,
            count(step.queue_p50_us),
            count(step.compute_p50_us),
            count(step.slowest_queue_us),
            count(step.slowest_compute_us),
        )
        for step in result.steps or []
    ]


def device_rows(result: ExplainResult) -> list[tuple[str, ...]]:
    """A row for each phase of calls to a device: its name, its median time, and its time in the slowest calls."""
    return [
        (phase.phase.replace("_", " "), count(phase.median_us), count(phase.slowest_us))
        for phase in result.device or []
    ]


def process_lines(result: ExplainResult) -> list[str]:
    """A line for each process, if there are several."""
    processes = result.processes or []
    return [
        f"process {process.process}: {count(process.requests)} requests, {count(process.slowest)} of the slowest; "
        f"p50 {_time(process.total_us.p50)}, p99 {_time(process.total_us.p99)}"
        for process in processes
        if len(processes) > 1
    ]


def _time(us: float | None) -> str:
    return "unknown" if us is None else nanoseconds(us * 1e3)


def coincided_lines(result: ExplainResult) -> list[str]:
    """A line for each kind of event that coincided with requests."""
    return [
        f"{coincidence(name)}: {entry.events} times, up to {entry.longest_us / 1e3:,.3g} ms; it overlapped "
        f"{100 * entry.slowest_hit:.0f} % of the slowest requests and {100 * entry.median_hit:.0f} % of those "
        "around the median"
        for name, entry in (result.coincided or {}).items()
    ]


def coincidence(kind: str) -> str:
    """The description of a kind of coincidence, given its name or the kind of one of its events."""
    name = next((name for name, spans in KINDS.items() if any(kind in kinds for kinds in spans.values())), kind)
    return COINCIDENCES[name][0] if name in COINCIDENCES else name
