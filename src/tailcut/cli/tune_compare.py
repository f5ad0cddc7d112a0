"""`tailcut tune --compare`: profiles of one model measured against the first one given."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from tailcut.runtime.settings import Settings
    from tailcut.tuner.compare import Comparison
    from tailcut.tuner.records import Wanted


def compare_profiles(wanted: "Wanted", profiles: dict[str, "Settings"], asked: dict[str, Any], *, json: bool) -> None:
    """Measure, and print the comparison; exit code 1 where a profile is worse, or answers wrongly.

    Raises:
        TailcutError: as `compare`.
    """
    import orjson
    from rich.console import Console

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.console import LadderView, comparison_summary
    from tailcut.tuner.compare import compare, comparison_record

    with LadderView(wanted.budget_s) as view:
        found: Comparison = compare(wanted, profiles, view)
    record = {
        "model": str(wanted.model),
        "machine": fingerprint(),
        "objective": asked,
        "command": f"tailcut {shlex.join(sys.argv[1:])}",
    } | comparison_record(found, wanted.slo_ms)
    if json:
        print(orjson.dumps(record).decode())
    else:
        Console().print(comparison_summary(record))
    if found.is_worse:
        raise typer.Exit(1)
