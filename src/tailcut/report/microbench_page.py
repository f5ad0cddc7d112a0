"""The content of a micro-benchmark's page, as values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.lab.records import FunctionResult, IntervalRecord, MicrobenchResult
from tailcut.report.charts import TONES, Chart, Point, Scale, Series, density, linear, span
from tailcut.report.microbench import count_columns, doubts, harness_words, verdict_words
from tailcut.report.strips import Bar, ratio_bar, reach_of
from tailcut.report.words import bounds, nanoseconds

_DRAWN = len(TONES)  # functions in a chart; the table has all
_DOTS = 480  # in a chart, of all functions: more are indistinguishable, and make the page larger


@dataclass(frozen=True, slots=True)
class RatioRow:
    """A ratio of two times, with its verdict."""

    name: str
    to: str
    ratio: IntervalRecord
    verdict: str
    words: str
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class MicrobenchPage:
    """The values for the template."""

    headline: str
    lead: str
    functions: tuple[tuple[str, FunctionResult], ...]
    counted: tuple[tuple[str, list[str]], ...]
    drawn: int
    distribution: Chart
    history: Chart
    lines: Chart | None
    changes: tuple[RatioRow, ...]
    doubts: tuple[str, ...]
    harness: str


def page(record: MicrobenchResult) -> MicrobenchPage:
    """Read a record of `tailcut microbench`."""
    functions = [(TONES[number % len(TONES)], function) for number, function in enumerate(record.functions)]
    changes = _changes(record)
    head, lead = headline(record)
    drawn = functions[:_DRAWN]
    scale = span([value for _, function in drawn for value in function.samples_ns], "time per call", nanoseconds)
    return MicrobenchPage(
        head,
        lead,
        tuple(functions),
        tuple(count_columns(record)),
        len(drawn),
        _distribution(drawn, scale),
        _history(drawn),
        _lines(drawn),
        changes,
        tuple(doubts(record)),
        harness_words(record),
    )


def headline(record: MicrobenchResult) -> tuple[str, str]:
    """The title and lead: the time of a single function, the fastest of several, or changes since the saved run."""
    against, comparisons, functions = (record.against or []), record.comparisons, record.functions
    slower = [change for change in against if change.verdict == "worse"]
    if slower:
        first = f"{slower[0].name} got slower" if len(slower) == 1 else f"{len(slower)} functions got slower"
        return (
            first,
            f"Of {len(against)} compared with the saved run; the whole 99 % interval is beyond the noise.",
        )
    if len(functions) == 1:
        function = functions[0]
        return (
            f"{nanoseconds(function.median_ns.point)} per call",
            f"{function.name}: median of {function.samples} samples, 99 % interval {bounds(function.median_ns)}.",
        )
    better = sorted(
        (comparison for comparison in comparisons if comparison.verdict == "better"),
        key=lambda comparison: comparison.ratio.point,
    )
    if better:
        gain = better[0].ratio
        return (
            f"{better[0].name} is {1 / gain.point:.3g} times faster",
            f"than {better[0].to} (99 % interval {1 / gain.high:.3g} to {1 / gain.low:.3g}), measured interleaved.",
        )
    if comparisons and all(comparison.verdict == "worse" for comparison in comparisons):
        return (
            f"{functions[0].name} is the fastest",
            f"of {len(functions)} measured interleaved; every interval proves it.",
        )
    return "No proven difference", f"between {len(functions)} functions measured interleaved."


def _distribution(functions: Sequence[tuple[str, FunctionResult]], scale: Scale) -> Chart:
    series: list[Series] = []
    for number, (tone, function) in enumerate(functions):
        values = np.asarray(function.samples_ns, float)
        hill = density(values, scale)
        series.append(Series(function.name, tone, tuple(Point(x, 0.12 + 0.88 * y, "", "") for x, y in hill), "area"))
        height = 0.02 + 0.08 * (number + 0.5) / len(functions)
        dots = [
            Point(value, height, f"sample {index + 1}", nanoseconds(value))
            for index, value in _few(values, len(functions))
        ]
        series.append(Series(function.name, tone, tuple(dots), "dots"))
    y = linear(0, 1.02, "density", str, ticks=())
    return Chart("How the samples of each function are distributed", scale, y, tuple(series), hover="point")


def _history(functions: Sequence[tuple[str, FunctionResult]]) -> Chart:
    """Samples in the order of time, which shows drift and disturbances."""
    values = [value for _, function in functions for value in function.samples_ns]
    rounds = max(function.samples for _, function in functions)
    series = tuple(
        Series(
            function.name,
            tone,
            tuple(
                Point(index + 1, value, f"round {index + 1}", nanoseconds(value))
                for index, value in _few(np.asarray(function.samples_ns, float), len(functions))
            ),
            "dots",
        )
        for tone, function in functions
    )
    x = linear(1, rounds, "round", lambda value: f"{value:.0f}")
    return Chart("Samples in the order of time", x, span(values, "time", nanoseconds), series, hover="point")


def _lines(functions: Sequence[tuple[str, FunctionResult]]) -> Chart | None:
    """Total times of samples against their number of calls, a share of each function's largest, with fitted lines."""
    series: list[Series] = []
    highest = 0.0
    for tone, function in functions:
        if function.slope_ns is None or function.intercept_ns is None:
            continue
        loops, ns = np.asarray(function.loops, float), np.asarray(function.samples_ns, float)
        totals, most = loops * ns, loops.max()
        highest = max(highest, float(totals.max()))
        dots = [
            Point(loops[index] / most, totals[index], f"{loops[index]:,.0f} calls", nanoseconds(totals[index]))
            for index, _ in _few(ns, len(functions))
        ]
        line = [(share, function.intercept_ns + function.slope_ns.point * share * most) for share in (0.0, 1.0)]
        series.append(Series(function.name, tone, tuple(Point(x, max(0.0, y), "", "") for x, y in line), "fit"))
        series.append(Series(function.name, tone, tuple(dots), "dots"))
    if not series:
        return None
    x = linear(
        0, 1.05, "calls in a sample, share of the most", lambda value: f"{value:.0%}", ticks=(0, 1 / 3, 2 / 3, 1)
    )
    y = linear(0, highest * 1.05, "total time", nanoseconds)
    return Chart("Total time of a sample against its number of calls", x, y, tuple(series), hover="point")


def _few(values: np.ndarray, functions: int) -> list[tuple[int, float]]:
    """Indices and values of the samples to draw of one function: evenly spaced in time, and always the extremes."""
    most = min(_DOTS // functions, 240)
    if len(values) <= most:
        return list(enumerate(values.tolist()))
    indices = {*np.linspace(0, len(values) - 1, most - 2).round().astype(int).tolist()}
    indices |= {int(values.argmin()), int(values.argmax())}
    return [(index, float(values[index])) for index in sorted(indices)]


def _changes(record: MicrobenchResult) -> tuple[RatioRow, ...]:
    entries = [
        (comparison.name, comparison.to, comparison.ratio, comparison.verdict) for comparison in record.comparisons
    ]
    entries += [
        (change.name, f"the saved {nanoseconds(change.before_ns)}", change.ratio, change.verdict)
        for change in record.against or ()
    ]
    reach = reach_of([ratio for _, _, ratio, _ in entries], least=1.03) if entries else 1.0
    return tuple(
        RatioRow(name, to, ratio, verdict, verdict_words(verdict), ratio_bar(ratio, reach))
        for name, to, ratio, verdict in entries
    )
