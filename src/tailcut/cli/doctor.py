"""`tailcut doctor`: causes of latency on this machine, and the command that fixes each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from tailcut.cli.records import Applied
    from tailcut.machine.checks import Reach
    from tailcut.machine.finding import Check

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "red"}
_LONGEST_PROBE_S = 60.0
_HEADER = "# written by tailcut doctor --apply\n"  # docker, systemd and shells all read this as a comment


def doctor(
    probe: Annotated[str, typer.Option(help="How long to measure CPU time lost to others.")] = "1s",
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the environment variables among the remedies to --env-file.")
    ] = False,
    env_file: Annotated[Path, typer.Option(help="File that --apply writes, in NAME=value lines.")] = Path(
        "tailcut.env"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Check the machine for causes of tail latency: what each costs, and the command that fixes it."""
    import os

    import msgspec

    from tailcut.cli.records import DoctorResult
    from tailcut.durations import parse_duration
    from tailcut.errors import UsageError
    from tailcut.machine.checks import examine, something_wrong
    from tailcut.machine.counters import counts_missing
    from tailcut.machine.facts import collect
    from tailcut.machine.fingerprint import fingerprint
    from tailcut.machine.gpu import read_devices
    from tailcut.machine.gpu_checks import examine_devices
    from tailcut.machine.probe import measure

    seconds = parse_duration(probe)
    if not 0 < seconds <= _LONGEST_PROBE_S:
        raise UsageError(f"--probe must be greater than 0 and at most {_LONGEST_PROBE_S:g}s")
    if apply and env_file.exists() and not env_file.read_text(errors="replace").startswith(_HEADER):
        raise UsageError(f"{env_file} was not written by tailcut doctor: choose another file with --env-file")
    facts = collect(missing=counts_missing())
    measured = measure(facts.mask, seconds)
    checks = examine(facts, measured, _reaches()) + examine_devices(read_devices(), facts.mask, os.getpid())
    applied = _apply(checks, env_file) if apply else None
    if json:
        result = DoctorResult(checks=list(checks), applied=applied, machine=fingerprint())
        print_json(msgspec.json.encode(result))
    else:
        _show(checks, applied)
    if something_wrong(checks):
        raise typer.Exit(1)


def _reaches() -> "tuple[Reach, ...]":
    from tailcut.engines.reach import engine_reaches
    from tailcut.kernels.isa import numba_isa
    from tailcut.machine.checks import Reach

    isa = numba_isa()
    return (Reach("numba", isa, f"compiles for {isa}"), *engine_reaches())


def _apply(checks: "Sequence[Check]", path: Path) -> "Applied | None":
    """Write the environment file; nothing else on the machine is changed."""
    from tailcut.atomic import write_atomically
    from tailcut.cli.records import Applied

    variables = {name: value for check in checks for name, value in check.environment.items()}
    if not variables:
        return None
    write_atomically(path, _HEADER + "".join(f"{name}={value}\n" for name, value in variables.items()))
    return Applied(file=str(path.resolve()), variables=variables)


def _show(checks: "Sequence[Check]", applied: "Applied | None") -> None:
    from collections import Counter

    from rich.markup import escape
    from rich.table import Table

    from tailcut.report.terminal import output_console

    console = output_console()
    table = Table(show_lines=False)
    for name in ("", "check", "finding and cost on this machine"):
        table.add_column(name)
    for check in checks:
        cost = f"\n[dim]{escape(check.cost)}[/]" if check.cost else ""
        colour = _COLOURS[check.severity.value]
        table.add_row(f"[{colour}]{check.severity.value}[/]", check.name, f"{escape(check.finding)}{cost}")
    console.print(table)
    fixes = [check for check in checks if check.remedy and check.severity.value != "ok"]
    if fixes:
        console.print("Commands that fix these problems (not run automatically):")
    for check in fixes:
        console.print(f"  [bold]{check.name}[/]: {escape(check.remedy or '')}", soft_wrap=True)
    if applied is not None:
        name = escape(applied.file)
        console.print(f"wrote {name}: start with `set -a; . {name}` or `docker run --env-file {name}`", soft_wrap=True)
    elif any(check.environment for check in checks):
        console.print("`tailcut doctor --apply` writes the environment variables among these to tailcut.env")
    counted = Counter(check.severity.value for check in checks)
    console.print(", ".join(f"{counted[name]} {name}" for name in _COLOURS if counted[name]))
