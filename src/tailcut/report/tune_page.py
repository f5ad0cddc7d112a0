"""The drawings on a tune's page, as values: strips before and after, the Pareto front, and the rungs as a waterfall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.report.charts import Chart, Point, Series, Tick, percentile_chart, span
from tailcut.report.strips import ArmStrip, Bar, Mark, Strips, ratio_bar, strips
from tailcut.report.tune_words import UNCHANGED, arm_title, arm_words
from tailcut.report.words import count, milliseconds, ratio, round_milliseconds, with_unit
from tailcut.tuner.result_records import ArmFigures, Candidate, EstimateRecord, Rung, TuneResult

VERDICT_WORDS = {
    "kept": "kept",
    "better": "not kept",
    "worse": "slower",
    "indistinct": "inconclusive",
    "rejected": "rejected",
    "skipped": "not tried",
    "estimated": "estimated",
    "raced": "raced",
}
_STEPS = frozenset({"better", "indistinct", "worse"})  # verdicts of steps measured against the step before
_FINEST = 1.06  # a track spans at least this ratio each way
_MARKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate: its verdict in a word, its effect, and why it was kept or dropped."""

    entry: Candidate
    css: str
    word: str
    short: str
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class _Climbed:
    """One rung with its levels as ratios to the baseline, before they are placed on an axis."""

    number: int
    rung: Rung
    before: float
    after: float
    kept: tuple[Tried, ...]
    tried: tuple[Tried, ...]
    ghosts: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class RungStep:
    """One rung: the level of the tail before and after it, and with each dropped candidate, as positions on an axis."""

    number: int
    name: str
    note: str
    kept: tuple[Tried, ...]
    tried: tuple[Tried, ...]
    before: float
    after: float
    ghosts: tuple[Mark, ...]

    @property
    def dropped(self) -> tuple[Tried, ...]:
        """The candidates that were tried and dropped."""
        return tuple(candidate for candidate in self.tried if candidate.css not in {"kept", "skipped", "estimated"})

    @property
    def estimated(self) -> tuple[Tried, ...]:
        """The candidates that were measured in process only."""
        return tuple(candidate for candidate in self.tried if candidate.css == "estimated")

    @property
    def untried(self) -> int:
        """The number of candidates that there was no time to try."""
        return sum(candidate.css == "skipped" for candidate in self.tried)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The rungs in order, on a common axis of ratios to the baseline; `of` names the percentile."""

    steps: tuple[RungStep, ...]
    ticks: tuple[Mark, ...]
    of: str


def figures_of(arm: ArmFigures) -> dict[str, float | None]:
    """The percentiles in ms, by name."""
    return {"p50": arm.p50_ms, "p95": arm.p95_ms, "p99": arm.p99_ms}


def before_after(result: TuneResult) -> tuple[Strips | None, Chart | None]:
    """The arms' latency as strips, and as curves by percentile."""
    checked = result.verification
    if checked is None:
        return None, None
    deadline = result.objective.slo_ms
    arms = [
        ArmStrip(
            arm_title(name, result),
            name,
            arm_words(name, result),
            arm.curve,
            figures_of(arm),
        )
        for name, arm in checked.arms.items()
    ]
    curves = [(arm_title(name, result), name, arm.curve) for name, arm in checked.arms.items()]
    rule = Tick(deadline, f"deadline {deadline:g} ms") if deadline else None
    label = "Latency by percentile of baseline, reference and tuned"
    chart = percentile_chart(curves, with_unit, label, tick=round_milliseconds, rule=rule)
    return strips(arms, deadline), chart


def pareto_chart(result: TuneResult) -> Chart | None:
    """Rate against latency of a lone request, for all estimates; None with fewer than two.

    The line joins configurations that no other beats in both. Those that raced and the winner are marked; the area of a
    dot is proportional to the memory.
    """
    estimates = [estimate for estimate in result.estimated if estimate.rate > 0 and estimate.alone_ms > 0]
    if len(estimates) < 2:
        return None
    most = max(estimate.memory_bytes for estimate in estimates) or 1
    winner = result.winner

    def points(chosen: Sequence[EstimateRecord]) -> tuple[Point, ...]:
        return tuple(
            Point(
                estimate.alone_ms,
                estimate.rate,
                estimate.setting or "defaults",
                _estimate_words(estimate),
                _radius(estimate, most),
            )
            for estimate in chosen
        )

    raced = [estimate for estimate in estimates if estimate.raced is not None]
    front = _front(estimates)
    line = tuple(Point(estimate.alone_ms, estimate.rate, "", "") for estimate in front)
    series = [
        Series("estimated", "c5", points([estimate for estimate in estimates if estimate.raced is None]), "dots"),
        Series("the Pareto front", "c1", line, "fit"),
        Series(
            "raced on the server", "c2", points([estimate for estimate in raced if estimate.setting != winner]), "dots"
        ),
        Series("the winner", "c3", points([estimate for estimate in raced if estimate.setting == winner]), "dots"),
    ]
    x = span([estimate.alone_ms for estimate in estimates], "median of a lone request", round_milliseconds)
    y = span([estimate.rate for estimate in estimates], "requests/s within the limit", count)
    label = "Rate within the limit against the latency of a lone request, for every configuration that was simulated"
    return Chart(label, x, y, tuple(shown for shown in series if shown.points), hover="point")


def _front(estimates: Sequence[EstimateRecord]) -> list[EstimateRecord]:
    """The estimates that no other beats in rate and lone latency at once, by latency."""
    front: list[EstimateRecord] = []
    for estimate in sorted(estimates, key=lambda each: (each.alone_ms, -each.rate)):
        if not front or estimate.rate > front[-1].rate:
            front.append(estimate)
    return front


def _radius(estimate: EstimateRecord, most: float) -> float:
    """The radius of a dot: linear in the square root of the memory."""
    return round(2.0 + 5.0 * math.sqrt(estimate.memory_bytes / most), 1)


def _estimate_words(estimate: EstimateRecord) -> str:
    alone = f"{milliseconds(estimate.alone_ms)} ms alone"
    words = f"{count(estimate.rate)} requests/s, {alone}, {estimate.cpu_us:,.0f} us of CPU"
    accuracy = "" if estimate.accuracy is None else f", accuracy {estimate.accuracy:.5g}"
    return f"{words}, {estimate.memory_bytes / 1e6:,.0f} MB{accuracy}"


def waterfall(result: TuneResult) -> Waterfall:
    """The level of the tail rung by rung: the product of the measured ratios of all kept candidates."""
    level = 1.0
    raw: list[_Climbed] = []
    for number, rung in enumerate(result.rungs, 1):
        before, kept, ghosts, tried = level, [], [], []
        names = (rung.kept or "").split(" + ")
        for entry in rung.candidates:
            stays = entry.verdict in _STEPS and entry.setting in names
            names = [name for name in names if not stays or name != entry.setting]
            attempt = _tried(entry, stays=stays)
            tried.append(attempt)
            if stays:
                kept.append(attempt)
                level *= entry.tail_ratio.point if entry.tail_ratio else 1.0
            elif entry.tail_ratio:
                ghosts.append((level * entry.tail_ratio.point, attempt.css))
        raw.append(_Climbed(number, rung, before, level, tuple(kept), tuple(tried), tuple(ghosts)))
    return _placed(raw)


def _placed(raw: Sequence[_Climbed]) -> Waterfall:
    levels = [1.0, *(level for climbed in raw for level in (climbed.after, *(ghost for ghost, _ in climbed.ghosts)))]
    low, high = min(*levels, 1 / _FINEST) / 1.1, max(*levels, _FINEST) * 1.1

    def position(value: float) -> float:
        return round(100 * min(1.0, max(0.0, math.log(value / low) / math.log(high / low))), 2)

    steps = tuple(
        RungStep(
            climbed.number,
            climbed.rung.name,
            climbed.rung.note or UNCHANGED,
            climbed.kept,
            climbed.tried,
            position(climbed.before),
            position(climbed.after),
            tuple(Mark(position(level), css) for level, css in climbed.ghosts),
        )
        for climbed in raw
    )
    ticks = tuple(Mark(position(value), text=f"x{value:g}") for value in _MARKS if low <= value <= high)
    percentiles = {attempt.entry.ratio_of for climbed in raw for attempt in climbed.kept} - {None}
    return Waterfall(steps, ticks, f"{percentiles.pop()}" if len(percentiles) == 1 else "tail")


def _tried(entry: Candidate, *, stays: bool) -> Tried:
    css = "kept" if stays else entry.verdict.value
    interval = entry.tail_ratio
    if css in {"rejected", "skipped", "estimated", "raced"} or interval is None:
        short = entry.reason
    elif css == "better":
        short = entry.reason.rpartition("not kept: ")[2]
    elif stays:
        short = entry.reason
    else:
        short = f"{entry.ratio_of} {ratio(interval)}"
    return Tried(entry, css, VERDICT_WORDS[css], short, ratio_bar(interval))
