"""The output of `tailcut microbench` on a terminal, and the texts that all its reports share."""

from msgspec import UNSET
from rich.markup import escape
from rich.table import Table

from tailcut.lab.records import MicrobenchResult, OutlierRecord
from tailcut.report.terminal import output_console
from tailcut.report.words import bounds, count, nanoseconds, ratio

_COLOURS = {"better": "green", "worse": "red", "indistinct": "dim"}
_WORDS = {"better": "faster", "worse": "slower", "indistinct": "inconclusive"}
_MANY_OUTLIERS = 0.1
# Counts per call, with their titles and the least count to show: rarer events are due to the machine.
_COUNTS = (
    ("instructions", "retired", 1),
    ("ipc", "IPC", 0),
    ("cache_misses", "cache misses", 0.1),
    ("branch_misses", "branch misses", 0.1),
    ("page_faults", "page faults", 0.1),
    ("context_switches", "switches", 0.1),
)
_DRIFT = 0.02


def microbench_table(record: MicrobenchResult) -> None:
    """Print a record to stdout."""
    console = output_console(highlight=False)
    table = Table(title="time per call", title_justify="left")
    for name in ("function", "median", "99 % interval", "slope", "fastest", "p95", "samples", "outliers"):
        table.add_column(name, justify="left" if name == "function" else "right")
    counted = count_columns(record)
    for title, _ in counted:
        table.add_column(title, justify="right")
    for number, function in enumerate(record.functions):
        slope, p95 = function.slope_ns, function.p95_ns
        row = [escape(function.name), nanoseconds(function.median_ns.point), bounds(function.median_ns)]
        row += ["one call each" if slope is None else nanoseconds(slope.point), nanoseconds(function.min_ns)]
        row += [
            nanoseconds(None if p95 is None else p95.point),
            f"{function.samples}",
            outlier_words(function.outliers),
        ]
        table.add_row(*row, *(words[number] for _, words in counted))
    console.print(table)
    for beside in record.comparisons:
        text = f"{ratio(beside.ratio, 3)}: {_verdict_words(beside.verdict)}"
        console.print(f"{escape(beside.name)} against {escape(beside.to)}: {text}")
    for change in record.against or ():
        saved = nanoseconds(change.before_ns)
        text = f"{ratio(change.ratio, 3)}: {_verdict_words(change.verdict)}"
        console.print(f"{escape(change.name)} against the saved {saved}: {text}")
    for line in doubts(record):
        console.print(f"[yellow]{escape(line)}[/]")
    console.print(f"[dim]{harness_words(record)}[/]")


def count_columns(record: MicrobenchResult) -> list[tuple[str, list[str]]]:
    """Titles and cells of the counts per call: callgrind's instructions, and event counts that are not negligible."""
    functions = record.functions
    columns = []
    retired = [None if function.instructions is UNSET else function.instructions for function in functions]
    if any(number is not None for number in retired):
        columns.append(("instructions", [count(number) for number in retired]))
    for name, title, least in _COUNTS:
        values = [function.counts.get(name) for function in functions]
        if any(value is not None and value >= least for value in values):
            columns.append((title, [count(value) for value in values]))
    return columns


def doubts(record: MicrobenchResult) -> list[str]:
    """Reasons to doubt the figures, a line each."""
    result = []
    functions = record.functions
    cut = [function.name for function in functions if function.warmup.steady is False]
    if cut:
        result.append(f"{', '.join(cut)}: still changing when the warm-up ended: give it more with --warmup")
    moved = [function for function in functions if function.drift.significant and abs(function.drift.change) >= _DRIFT]
    if moved:
        words = ", ".join(f"{function.name} by {function.drift.change:+.1%}" for function in moved)
        result.append(f"drifted from the first round to the last: {words}: ratios are reliable, times may not be")
    disturbed = [function for function in functions if function.outliers.total > _MANY_OUTLIERS * function.samples]
    if disturbed:
        words = ", ".join(f"{function.outliers.total} of {function.name}" for function in disturbed)
        result.append(f"more than a tenth of the samples are outliers ({words}): something else runs on this machine")
    return result


def harness_words(record: MicrobenchResult) -> str:
    """The overhead of the harness, which is subtracted from the figures."""
    overhead = record.overhead_ns
    return (
        f"subtracted: {nanoseconds(overhead.clock)} per sample for reading the clock, "
        f"{nanoseconds(overhead.loop)} per call for the empty loop"
    )


def outlier_words(apart: OutlierRecord) -> str:
    """How many samples are outliers, and how severe."""
    severe, total = apart.low_severe + apart.high_severe, apart.total
    return "none" if not total else f"{total} mild" if not severe else f"{total}, {severe} severe"


def verdict_words(verdict: str) -> str:
    """A verdict on a time: faster, slower or inconclusive."""
    return _WORDS[verdict]


def _verdict_words(verdict: str) -> str:
    return f"[{_COLOURS[verdict]}]{_WORDS[verdict]}[/]"
