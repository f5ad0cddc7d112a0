"""`tailcut stat`: the cost of a command, counted by the processor and the kernel."""

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from tailcut.cli.records import StatResult
    from tailcut.lab.command import CommandCounts

_WORDS = {  # in table order: label, and the count that it is a share of
    "cpu_ns": ("CPU time", "wall_ns"),
    "context_switches": ("context switches", None),
    "involuntary_switches": ("  of these, involuntary", "context_switches"),
    "migrations": ("migrations to another core", None),
    "page_faults": ("page faults", None),
    "major_faults": ("  of these, major (waited for a disk)", "page_faults"),
    "cycles": ("cycles", None),
    "instructions": ("instructions", None),
    "branches": ("branches", None),
    "branch_misses": ("  of these, mispredicted", "branches"),
    "cache_references": ("last-level cache references", None),
    "cache_misses": ("  of these, missed", "cache_references"),
    "l1d_misses": ("first-level data cache misses", None),
    "dtlb_misses": ("data TLB misses", None),
}
_TITLE = 60


def stat(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="Command to run with its arguments, after --.")
    ],
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; the command's own output goes to stderr.")
    ] = False,
) -> None:
    """Run a command and count what it and its children cost: time, switches, faults, cycles, cache misses."""
    import msgspec

    from tailcut.lab.command import run_counted

    result = run_counted(command, quiet=json)
    if json:
        print_json(msgspec.json.encode(_record(command, result)))
    else:
        _show(command, result)


def _record(command: list[str], result: "CommandCounts") -> "StatResult":
    from tailcut.cli.records import MissingCount, StatResult

    return StatResult(
        command=command,
        exit_code=result.exit_code,
        counts=result.counts.values(),
        user_ns=result.user_ns,
        system_ns=result.system_ns,
        user_only=result.counts.user_only,
        missing={
            counter.name: MissingCount(reason=counter.reason, remedy=counter.remedy)
            for counter in result.counts.missing
        },
    )


def _show(command: list[str], result: "CommandCounts") -> None:
    import shlex

    from rich.markup import escape
    from rich.table import Table

    from tailcut.report.terminal import output_console

    console = output_console()
    values = result.counts.values()
    line = " ".join(shlex.join(command).split())
    table = Table(title=escape(line if len(line) <= _TITLE else f"{line[:_TITLE]} ..."))
    table.add_column("counted")
    table.add_column("", justify="right")
    table.add_column("")
    table.add_row("wall time", f"{result.counts.wall_ns / 1e6:,.3f} ms", "")
    for name, (words, whole) in _WORDS.items():
        value = values[name]
        if value is not None:
            shown = f"{value / 1e6:,.3f} ms" if name == "cpu_ns" else f"{value:,}"
            table.add_row(words, shown, _share(value, whole, values, result.counts.wall_ns))
    if result.counts.ipc is not None:
        table.add_row("instructions per cycle", f"{result.counts.ipc:.2f}", "")
    table.add_row("user, system time", f"{result.user_ns / 1e6:,.3f}, {result.system_ns / 1e6:,.3f} ms", "")
    table.add_row("exit code", _ending(result.exit_code), "")
    console.print(table)
    if result.counts.user_only:
        console.print("[yellow]hardware counts cover user space only: counting the kernel is not permitted[/]")
    for reason, remedy, names in _by_reason(result):
        console.print(f"[yellow]not counted: {', '.join(names)}: {escape(reason)}[/]\n  remedy: {escape(remedy)}")


def _share(value: float, whole: str | None, values: dict[str, Any], wall_ns: int) -> str:
    """The share of `whole` in per cent; for CPU time, the number of busy cores; without a whole, a rate per second."""
    if whole == "wall_ns":
        return f"{value / wall_ns:.2f} cores busy"
    if whole is not None:
        return f"{100 * value / values[whole]:.1f} %" if values[whole] else ""
    return f"{value / wall_ns * 1e9:,.0f} per second"


def _ending(code: int) -> str:
    return str(code) if code >= 0 else f"{code} ({signal.strsignal(-code) or 'unknown signal'})"


def _by_reason(result: "CommandCounts") -> list[tuple[str, str, list[str]]]:
    """Missing counters grouped by reason: a machine without a PMU lacks eight of them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for counter in result.counts.missing:
        groups.setdefault((counter.reason, counter.remedy), []).append(counter.name.replace("_", " "))
    return [(reason, remedy, names) for (reason, remedy), names in groups.items()]
