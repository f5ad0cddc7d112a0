"""The result of `tailcut bench`: files, output, success or failure, and the comparison with an earlier one."""

from pathlib import Path
from typing import TYPE_CHECKING

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailcut.lab.record import PlannedRun
    from tailcut.lab.records import BenchResult, EarlierResult, EarlierRun, Run, RunComparison


def finish(record: "BenchResult", *, output: Path | None, report: Path | None, markdown: bool, json: bool) -> None:
    """Write the output files, and print the result even if a file cannot be written."""
    import sys

    try:
        write(record, output=output, report=report)
    finally:
        show(record, markdown=markdown, json=json)
    if record.comparison == []:
        print("tailcut: --against: no run of the earlier result has the same load as one of these", file=sys.stderr)


def write(record: "BenchResult", *, output: Path | None, report: Path | None) -> None:
    """Write the output files."""
    from tailcut.atomic import write_atomically
    from tailcut.lab.records import to_json

    if output:
        write_atomically(output, to_json(record, indented=True))
    if report:
        from tailcut.report.html import render_bench_html

        write_atomically(report, render_bench_html(record))


def show(record: "BenchResult", *, markdown: bool, json: bool) -> None:
    """Print the result as JSON, Markdown or tables."""
    if json:
        from tailcut.lab.records import to_json

        print_json(to_json(record))
    elif markdown:
        from tailcut.report.markdown import bench_markdown

        print(bench_markdown(record))
    else:
        from tailcut.report.bench import bench_table

        bench_table(record)


def is_good(record: "BenchResult") -> bool:
    """Whether the command succeeded: no request failed, the limit was met, nothing got worse, everything was compared.

    Some probes of a search fail by design, so for a search only its result counts.
    """
    from tailcut.lab.record import regressed

    if record.comparison == []:
        return False
    if any(regressed(entry.percentiles) or not entry.percentiles for entry in record.comparison or ()):
        return False
    if record.slo:
        return record.slo.met
    return not any(run.errors or not run.samples for run in record.runs)


def check_comparable(path: Path | None, earlier: "EarlierResult | None", planned: "Sequence[PlannedRun]") -> None:
    """Check that an earlier result has a run with the load of a planned one, as far as these are known in advance.

    Raises:
        UsageError: it has none.
    """
    from tailcut.errors import UsageError
    from tailcut.lab.record import load_words, match_runs

    if earlier is None or not planned or match_runs(planned, earlier.runs):
        return
    has, would = (" and ".join(dict.fromkeys(map(load_words, runs))) or "nothing" for runs in (earlier.runs, planned))
    raise UsageError(f"--against {path}: nothing to compare: its runs are {has}, and the new ones would be {would}")


def compare_runs(runs: "Sequence[Run]", earlier: "Sequence[EarlierRun]") -> "list[RunComparison]":
    """Compare each run with the earlier one of the same mode, rate and concurrency; empty if none match."""
    from tailcut.lab.record import compare, match_runs
    from tailcut.lab.records import RunComparison

    pairs = match_runs(runs, earlier)
    return [RunComparison(new, compare(runs[new], earlier[old])) for new, old in pairs]
