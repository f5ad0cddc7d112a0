"""`tailcut tune --compare`: profiles of one model measured against the first one given."""

from typing import TYPE_CHECKING

import typer

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from tailcut.runtime.profile import Profile
    from tailcut.tuner.compare import ProfileComparison
    from tailcut.tuner.records import TuneRequest
    from tailcut.tuner.result_records import ModelRequest


def compare_profiles(
    wanted: "TuneRequest", profiles: dict[str, "Profile"], asked: "ModelRequest", *, json: bool
) -> None:
    """Compare profiles, and print the result; exit code 1 if a profile is worse, or answers wrongly.

    Raises:
        TailcutError: as `compare`.
    """
    from tailcut.cli.outputs import command_line
    from tailcut.lab.records import to_json
    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.console import LadderView, comparison_summary
    from tailcut.report.terminal import output_console
    from tailcut.tuner.compare import compare, comparison_record

    with LadderView(wanted.budget_s) as view:
        comparison: ProfileComparison = compare(wanted, profiles, view)
    record = comparison_record(
        comparison, model=str(wanted.model), machine=fingerprint(), objective=asked, command=command_line()
    )
    if json:
        print_json(to_json(record))
    else:
        output_console().print(comparison_summary(record))
    if comparison.is_worse:
        raise typer.Exit(1)
