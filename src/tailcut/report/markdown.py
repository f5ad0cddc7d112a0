"""Results as Markdown for pull requests: the figures of the HTML pages, in narrow tables.

Names are untrusted: characters with a meaning in Markdown or HTML are escaped.
"""

import re
from collections.abc import Sequence

from tailcut.lab.records import BenchResult, MachineFacts, MicrobenchResult
from tailcut.report import bench_page, microbench_page
from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.report.bench_words import interval_words, percentile_words
from tailcut.report.microbench import count_columns, doubts, harness_words, outlier_words
from tailcut.report.tune_page import waterfall
from tailcut.report.tune_words import (
    UNCHANGED,
    arm_title,
    copy_words,
    cost_words,
    headline,
    limits_words,
    more_traffic,
    noise_words,
    offer_words,
    retune_words,
    rows_words,
    tie_words,
    unmet_words,
)
from tailcut.report.words import (
    bounds,
    count,
    cpu,
    load,
    milliseconds,
    milliseconds_between,
    nanoseconds,
    own_figures,
    ratio,
)
from tailcut.tuner.result_records import TuneResult, WorstRow

_FIGURE = re.compile(r"\d|(unknown|client late|-)$|(needs|at most) [\d]")  # a figure, or the text in place of one
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


def tune_markdown(result: TuneResult) -> str:
    """The outcome of a tune.

    Args:
        result: what `tailcut tune --json` prints.
    """
    title, sentence = headline(result)
    parts = [f"### {plain(result.model.name)}: {title}", plain(sentence)]
    checked = result.verification
    if checked is not None:
        failed = any(arm.errors for arm in checked.arms.values())
        rows = [
            [
                arm_title(name, result),
                *(milliseconds(value) for value in (arm.p50_ms, arm.p95_ms, arm.p99_ms)),
                milliseconds_between(arm.p99_interval_ms),
                count(arm.samples),
                *[str(arm.errors)] * failed,
                count(arm.throughput),
                cpu(arm.cost),
            ]
            for name, arm in checked.arms.items()
        ]
        heads = ["", "p50 ms", "p95 ms", "p99 ms", "99 % interval", "samples", *["failed"] * failed]
        heads += ["requests/s", "CPU per request"]
        parts.append(_table(heads, rows))
        if not result.not_kept:
            against = f", p99 to the reference {ratio(checked.reference_p99_ratio)}" if checked.reference else ""
            tail = checked.tail_ratio
            words = f"{tail.of if tail else 'p99'} {ratio(tail)} to the baseline{against}"
            parts.append(f"{words}; throughput {ratio(checked.throughput_ratio)}.")
        if more_traffic(result):
            parts.append(plain(f"{more_traffic(result)}."))
    rungs = [
        [
            plain(step.name),
            " <br> ".join(_code(candidate.entry.setting) for candidate in step.kept) or UNCHANGED,
            str(len(step.dropped)),
            plain(" / ".join(candidate.short for candidate in step.kept) or step.note),
        ]
        for step in waterfall(result).steps
    ]
    parts.append(_table(["rung", "kept", "dropped", "why"], rungs))
    accuracy = result.accuracy
    if accuracy:
        figures = "; ".join(f"{words} {figure}" for words, figure in accuracy_figures(accuracy))
        sentences = [plain(f"Answers to {accuracy.requests:,} requests: {figures}.") if figures else ""]
        parts += [words for words in (*sentences, plain(random_words(accuracy))) if words]
        if accuracy.worst_rows:
            parts.append(_worst_rows(accuracy.worst_rows))
    notes = (
        retune_words(result),
        unmet_words(result),
        tie_words(result),
        cost_words(result),
        limits_words(result),
        noise_words(result.noise),
    )
    parts += [plain(f"{words[0].upper()}{words[1:]}.") for words in notes if words]
    parts += [plain(f"Faster, but not accepted: {words}.") for words in offer_words(result)]
    parts.append(plain(rows_words(result)))
    if copy_words(result):
        parts.append(plain(copy_words(result)))
    parts.append(_details(result.command, result.machine))
    return "\n\n".join(parts)


def _worst_rows(rows: Sequence[WorstRow]) -> str:
    heads = ["request", "row", "output", "found", "expected", "got"]
    cells = [
        [
            plain(row.asked or f"request {row.request}"),
            str(row.row),
            _code(row.output),
            plain(row.found),
            _code(row.expected),
            _code(row.got),
        ]
        for row in rows
    ]
    return f"<details><summary>rows with the largest errors</summary>\n\n{_table(heads, cells)}\n\n</details>"


def bench_markdown(record: BenchResult) -> str:
    """The outcome of a load test.

    Args:
        record: what `tailcut bench --json` prints.
    """
    page = bench_page.page(record)
    parts = [f"### {plain(page.headline)}", plain(page.lead)]
    rows = []
    for run in record.runs:
        failed = ", ".join(f"{number} x {kind}" for kind, number in run.errors.items()) or "0"
        figures = [percentile_words(run, name) for name in ("p50", "p95", "p99")]
        row = [plain(load(run)), count(run.rate_achieved), count(run.samples), *figures]
        row += [interval_words(run), plain(failed), *own_figures(run)]
        rows.append(row + ([cpu(run.server_cost)] if page.costs else []))
    heads = (
        ["load", "requests/s", "samples", "p50 ms", "p95 ms", "p99 ms", "99 % interval", "failed"]
        + ["client late, p99 ms", "client CPUs"]
        + (["server CPU"] if page.costs else [])
    )
    parts.append(_table(heads, rows))
    parts += [f"{plain(term)}: {value} {plain(note)}".rstrip() for term, value, note in page.facts]
    if page.tried:
        heads = ["requests/s offered", "p99 ms", "p99 at most, ms", "the limit", "client late, p99 ms", "client CPUs"]
        parts.append(_table(heads, [list(row) for row in page.tried]))
    for text, lengths in page.lengths:
        cells = [[part.lengths, count(part.samples), *part.figures] for part in lengths]
        parts += [plain(f"{text}."), _table(["length", "samples", "p50 ms", "p95 ms", "p99 ms"], cells)]
    if page.changes:
        changed = [
            [change.run, change.name, ratio(change.ratio), _verdict(change.verdict, change.verdict)]
            for change in page.changes
        ]
        parts.append(_table(["load", "percentile", "to the earlier result", "verdict"], changed))
    parts += [f"> {plain(line)}" for line in page.doubts]
    parts.append(_details(record.command, record.machine))
    return "\n\n".join(parts)


def microbench_markdown(record: MicrobenchResult) -> str:
    """The outcome of a micro-benchmark.

    Args:
        record: what `tailcut microbench --json` prints.
    """
    title, sentence = microbench_page.headline(record)
    counted = count_columns(record)
    rows = [
        [_code(function.name), nanoseconds(function.median_ns.point), bounds(function.median_ns)]
        + [
            nanoseconds(None if function.p95_ns is None else function.p95_ns.point),
            str(function.samples),
            outlier_words(function.outliers),
        ]
        + [words[number] for _, words in counted]
        for number, function in enumerate(record.functions)
    ]
    heads = ["function", "median", "99 % interval", "p95", "samples", "outliers", *(title for title, _ in counted)]
    parts = [f"### {plain(title)}", plain(sentence), _table(heads, rows)]
    changes = microbench_page.page(record).changes
    if changes:
        compared = [
            [_code(change.name), plain(change.to), ratio(change.ratio, 3), _verdict(change.verdict, change.words)]
            for change in changes
        ]
        parts.append(_table(["function", "to", "ratio of times", "verdict"], compared))
    parts += [f"> {plain(line)}" for line in doubts(record)]
    parts += [f"{harness_words(record).capitalize()}.", _details(record.command, record.machine)]
    return "\n\n".join(parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    figures = [all(_FIGURE.match(row[index]) for row in rows) for index in range(len(heads))]
    rule = "|".join("---:" if right else "---" for right in figures)
    lines = [f"| {' | '.join(heads)} |", f"|{rule}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _details(command: str, machine: MachineFacts) -> str:
    names = ("cpu", "usable_cpus", "isa", "system", "python")
    facts = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    return f"<details><summary>command and machine</summary>\n\n{_code(command)}\n\n{plain(facts)}\n\n</details>"


def _verdict(verdict: str, words: str) -> str:
    return f"**{words}**" if verdict in {"better", "worse"} else words


def plain(words: str) -> str:
    """Untrusted text as one line of Markdown, with special characters escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(words.split()))


def _code(words: str) -> str:
    """Text as inline code; bars and backticks, which would end a table cell or the code, are replaced."""
    return f"`{' '.join(words.split()).replace('`', chr(39)).replace('|', '¦')}`"
