"""What the page of a tune says, as values: the headline, the strips before and after, and the rungs as a waterfall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET

from tailcut.lab.records import Interval
from tailcut.report.accuracy import accuracy_figures, random_words
from tailcut.report.charts import Chart, Point, Series, Tick, percentile_chart, span
from tailcut.report.strips import Arm, Bar, Mark, Strips, ratio_bar, strips
from tailcut.report.words import count, milliseconds, ratio, round_milliseconds, with_unit
from tailcut.tuner.result_records import ArmFigures, Candidate, Estimate, NoiseResult, OfferResult, Rung, TuneResult

ARM_WORDS = {
    "baseline": "the engine's defaults, one call a request, JSON over HTTP",
    "reference": "the same defaults behind the binary wire",
    "tuned": "the settings of the profile",
    "previous": "the settings of the profile that was checked again",
}
UNCHANGED = "unchanged"
VERDICT_WORDS = {
    "kept": "kept",
    "better": "not kept",
    "worse": "slower",
    "indistinct": "no proof",
    "rejected": "rejected",
    "skipped": "not tried",
    "estimated": "estimated",
    "raced": "raced",
}
_STEPS = frozenset({"better", "indistinct", "worse"})  # verdicts of what was measured beside the step before it
_FINEST = 1.06  # a track is never drawn finer than this ratio each way
_MARKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate: its verdict in a word, what it did and why it stayed or went."""

    entry: Candidate
    css: str
    word: str
    short: str
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class _Climbed:
    """One rung before it has its place on the axis: ratios to where the climb began."""

    number: int
    rung: Rung
    before: float
    after: float
    kept: tuple[Tried, ...]
    tried: tuple[Tried, ...]
    ghosts: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One rung: where p99 stood before and after it, and where each dropped candidate would have put it."""

    number: int
    name: str
    note: str
    kept: tuple[Tried, ...]
    tried: tuple[Tried, ...]
    before: float
    after: float
    ghosts: tuple[Mark, ...]
    said: str

    @property
    def dropped(self) -> tuple[Tried, ...]:
        """Those that were tried and went."""
        return tuple(one for one in self.tried if one.css not in {"kept", "skipped", "estimated"})

    @property
    def estimated(self) -> tuple[Tried, ...]:
        """Those that were measured in process only."""
        return tuple(one for one in self.tried if one.css == "estimated")

    @property
    def untried(self) -> int:
        """Those that the budget left no time for."""
        return sum(one.css == "skipped" for one in self.tried)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The rungs in their order, on one axis of ratios to where the climb began."""

    steps: tuple[Step, ...]
    ticks: tuple[Mark, ...]


def headline(result: TuneResult) -> tuple[str, str]:
    """What was gained, in a few large words and a sentence; nothing is claimed that its interval does not hold."""
    checked = result.verification
    if checked is None:
        return "Not verified", "The tune was interrupted. The profile holds the best settings found until then."
    if result.unchanged:
        return "Unchanged", unchanged_words(result)
    found, samples = checked.tail_ratio, checked.tuned.samples
    if found is None:
        return (
            "Tail unknown",
            f"{samples:,} samples cannot tell it: the p99 takes 459 in each arm. Raise the budget or the rate.",
        )
    of = found.of
    size = f"{samples:,} requests in each arm"
    bounds = f"99 % interval x{found.low:.2f} to x{found.high:.2f}, {size}"
    if found.high < 1:
        gain = f"99 % interval {_times(found.high)} to {_times(found.low)}, {size}"
        rate = f"{result.objective.rate:,.6g} per second"
        return (
            f"{of} {_times(found.point)} shorter",
            f"than the baseline at the same offered rate of {rate} ({gain}).",
        )
    if found.low > 1:
        return (
            f"{of} got longer",
            f"x{found.point:.2f} of the baseline's ({bounds}). Do not use this profile; tune again.",
        )
    return "No proven gain", f"{of} is x{found.point:.2f} of the baseline's ({bounds}): not to be told apart."


def unchanged_words(result: TuneResult) -> str:
    """That nothing was kept, in a sentence."""
    before = "the profile's settings" if result.retune else "the baseline's settings"
    return f"Nothing was better than {before}: the profile holds them."


def arm_title(name: str, result: TuneResult) -> str:
    """What an arm of the verification is called: the tuned one is called unchanged where nothing was kept."""
    return UNCHANGED if name == "tuned" and result.unchanged else name


def tie_words(result: TuneResult) -> str:
    """Why one of several equal configurations was chosen, in a sentence; empty where there was no tie."""
    tie = result.tie_break
    if not tie:
        return ""
    return f"chosen among {len(tie.equals)} that are equal: {tie.chosen or 'the baseline'}: {tie.reason}"


def offer_words(result: TuneResult) -> list[str]:
    """What a looser `--accuracy` would bring, a line for each offer."""
    return [_offer_words(one) for one in result.offers]


def _offer_words(offer: OfferResult) -> str:
    measures = ((offer.worst, "cosine {:.4g}"), (offer.value, "metric {:.4g}"), (offer.top1, "top-1 {:.4g}"))
    known = [words.format(value) for value, words in measures if value is not None]
    if not known and offer.differing is not None:
        known = [f"{offer.differing:.2%} of the labels differ"]
    speed = f"p50 x{offer.p50_ratio:.2f}, rate x{offer.rate_ratio:.2f}"
    name = f"{offer.precision} ({offer.engine})"
    return f"{name}: {', '.join([speed, *known[:2]])}; accept with --accuracy {offer.accuracy:g}"


def more_traffic(result: TuneResult) -> str:
    """The second headline: the same tail with more traffic; empty where it was not shown."""
    checked = result.verification
    found = None if checked is None else checked.highest_rate
    if not found or not found.within or found.baseline is None or found.tuned <= found.baseline:
        return ""
    times = found.tuned / found.baseline
    low, high = found.p99_interval_ms
    return (
        f"{times:.2f} times the traffic within the same tail: {found.tuned:,.0f} requests/s with a p99 of {low:.3g} "
        f"to {high:.3g} ms ({found.samples:,} requests); the limit is {found.limit_ms:.3g} ms, and the baseline "
        f"is over it at {found.baseline:,.6g}"
    )


def cost_words(result: TuneResult) -> str:
    """The CPU time per request where that was the objective; else nothing."""
    checked = result.verification
    if checked is None or result.objective.kind != "cost" or not checked.cpu_ratio:
        return ""
    return f"CPU time per request {ratio(checked.cpu_ratio)} of the baseline's"


def memory_words(result: TuneResult) -> str:
    """Whether the tuned server stayed within `--memory`; nothing where no limit was given."""
    checked = result.verification
    if checked is None or checked.memory_within is UNSET:
        return ""
    peak, limit = checked.tuned.memory_peak_bytes or 0, result.objective.memory_bytes or 0
    word = "within" if checked.memory_within else "OVER"
    return f"the tuned server's memory peaked at {peak / 1e6:,.0f} MB: {word} the limit of {limit / 1e6:,.0f} MB"


def noise_words(noise: NoiseResult | None) -> str:
    """How noisy the machine was, in a sentence; nothing where it was not measured."""
    if not noise:
        return ""
    words = f"machine: quiet for {noise.quiet_share:.1%} of the time, worst gap {noise.worst_gap_ms:.3g} ms"
    if noise.repeated_blocks:
        still = f", {noise.late_blocks} of them still late" if noise.late_blocks else ""
        words += f"; {noise.repeated_blocks} blocks repeated because the client was late{still}"
    return words


def retune_words(result: TuneResult) -> str:
    """What changed against the profile that was checked again; nothing where there is none."""
    found = result.retune
    if not found:
        return ""
    if found.wrong:
        return f"the profile that was checked again answers wrongly: {found.wrong}"
    if not found.changed:
        return "unchanged: the profile's settings are still the best"
    changed = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in found.changed.items())
    checked = result.verification
    tail = ratio(checked.previous_p99_ratio) if checked and checked.previous_p99_ratio else ""
    return f"changed against the profile before: {changed}" + (f"; p99 {tail} of the profile before" if tail else "")


def tune_facts(result: TuneResult) -> list[tuple[str, str, str]]:
    """The verified ratios and the deadline, each with what it is measured against."""
    checked = result.verification
    if checked is None:
        return []
    found = [("throughput to the baseline", *_ratio_words(checked.throughput_ratio))]
    if checked.reference:
        found.insert(0, ("p99 to the reference", *_ratio_words(checked.reference_p99_ratio)))
    if result.objective.slo_ms:
        is_met = None if checked.slo_met is UNSET else checked.slo_met
        met = {True: "met", False: "missed", None: "too near to tell"}[is_met]
        found.append((f"deadline of {result.objective.slo_ms:g} ms", met, "judged by the p99's interval"))
    accuracy = result.accuracy
    if accuracy:
        figures = accuracy_figures(accuracy)
        words, figure = figures[0] if figures else (random_words(accuracy), "not compared")
        found.append(("answers", figure, words))
    return found


def rows_words(result: TuneResult) -> str:
    """Whether the model's requests are batched, and why, in a sentence."""
    rows = result.rows
    how = "Requests are batched" if rows.batched else "Each request runs whole, never merged or split"
    return f"{how} (rows {rows.rows}): {rows.reason}."


def copy_words(result: TuneResult) -> str:
    """What the quantised copy is that the settings run, in a sentence; nothing where they run the model itself."""
    copy = result.quantized
    if not copy:
        return ""
    names = ", ".join(copy.in_float)
    kept = f"{len(copy.in_float)} of {copy.operators} operators in float ({names})" if names else "all operators"
    return f"A copy in static int8 runs: {kept}, ranges by {copy.method} over {copy.requests} requests of the data."


def _arm_words(name: str, result: TuneResult) -> str:
    """What an arm ran."""
    if name == "tuned" and result.unchanged:
        return "nothing was kept: the same settings as before"
    if name == "baseline" and result.settings.pipeline:
        return "the pipeline as it is written, with the settings of @stage"
    return ARM_WORDS[name]


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
        Arm(
            arm_title(name, result),
            name,
            _arm_words(name, result),
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
    """Rate against lone latency of everything that was estimated; None where that is too little for a chart.

    The line joins those that no other beats in both; raced ones and the winner are marked; a dot's size is the memory.
    """
    found = [one for one in result.estimated if one.rate > 0 and one.alone_ms > 0]
    if len(found) < 2:
        return None
    most = max(one.memory_bytes for one in found) or 1
    winner = result.winner

    def points(chosen: Sequence[Estimate]) -> tuple[Point, ...]:
        return tuple(
            Point(one.alone_ms, one.rate, one.setting or "defaults", _estimate_words(one), _radius(one, most))
            for one in chosen
        )

    raced = [one for one in found if one.raced is not None]
    front = _front(found)
    line = tuple(Point(one.alone_ms, one.rate, "", "") for one in front)
    series = [
        Series("estimated", "c5", points([one for one in found if one.raced is None]), "dots"),
        Series("the front", "c1", line, "fit"),
        Series("raced on the server", "c2", points([one for one in raced if one.setting != winner]), "dots"),
        Series("the winner", "c3", points([one for one in raced if one.setting == winner]), "dots"),
    ]
    x = span([one.alone_ms for one in found], "median of a lone request", round_milliseconds)
    y = span([one.rate for one in found], "requests/s within the limit", count)
    label = "Rate within the limit against the latency of a lone request, for every configuration that was simulated"
    return Chart(label, x, y, tuple(one for one in series if one.points), hover="point")


def _front(found: Sequence[Estimate]) -> list[Estimate]:
    """Those that no other beats in rate and lone latency at once, by latency."""
    front: list[Estimate] = []
    for one in sorted(found, key=lambda each: (each.alone_ms, -each.rate)):
        if not front or one.rate > front[-1].rate:
            front.append(one)
    return front


def _radius(one: Estimate, most: float) -> float:
    """In proportion to the root of the memory, so that areas compare."""
    return round(2.0 + 5.0 * math.sqrt(one.memory_bytes / most), 1)


def _estimate_words(one: Estimate) -> str:
    words = f"{count(one.rate)} requests/s, {milliseconds(one.alone_ms)} ms alone, {one.cpu_us:,.0f} us of CPU"
    return f"{words}, {one.memory_bytes / 1e6:,.0f} MB"


def waterfall(result: TuneResult) -> Waterfall:
    """Rung by rung, how far the tail came down, as the product of what each kept candidate was measured to do."""
    level = 1.0
    raw: list[_Climbed] = []
    for number, rung in enumerate(result.rungs, 1):
        before, kept, ghosts, tried = level, [], [], []
        names = (rung.kept or "").split(" + ")
        for entry in rung.candidates:
            stays = entry.verdict in _STEPS and entry.setting in names
            names = [name for name in names if not stays or name != entry.setting]
            one = _tried(entry, stays=stays)
            tried.append(one)
            if stays:
                kept.append(one)
                level *= entry.tail_ratio.point if entry.tail_ratio else 1.0
            elif entry.tail_ratio:
                ghosts.append((level * entry.tail_ratio.point, one.css))
        raw.append(_Climbed(number, rung, before, level, tuple(kept), tuple(tried), tuple(ghosts)))
    return _placed(raw)


def _placed(raw: Sequence[_Climbed]) -> Waterfall:
    levels = [1.0, *(level for one in raw for level in (one.after, *(ghost for ghost, _ in one.ghosts)))]
    low, high = min(*levels, 1 / _FINEST) / 1.1, max(*levels, _FINEST) * 1.1

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, math.log(value / low) / math.log(high / low))), 2)

    steps = tuple(
        Step(
            one.number,
            one.rung.name,
            one.rung.note or UNCHANGED,
            one.kept,
            one.tried,
            place(one.before),
            place(one.after),
            tuple(Mark(place(level), css) for level, css in one.ghosts),
            "" if not one.kept or abs(one.after / one.before - 1) < 0.005 else f"p99 x{one.after / one.before:.2f}",
        )
        for one in raw
    )
    ticks = tuple(Mark(place(value), text=f"x{value:g}") for value in _MARKS if low <= value <= high)
    return Waterfall(steps, ticks)


def _tried(entry: Candidate, *, stays: bool) -> Tried:
    css = "kept" if stays else entry.verdict.value
    found = entry.tail_ratio
    if css in {"rejected", "skipped", "estimated", "raced"} or found is None:
        short = entry.reason
    elif css == "better":
        short = entry.reason.rpartition("not kept: ")[2]
    elif stays:
        short = entry.reason
    else:
        short = f"{entry.ratio_of} {ratio(found)}"
    return Tried(entry, css, VERDICT_WORDS[css], short, ratio_bar(found))


def _ratio_words(found: Interval | None) -> tuple[str, str]:
    if found is None:
        return "unknown", "too few samples"
    return f"x{found.point:.2f}", f"{found.low:.2f} to {found.high:.2f}"


def _times(value: float) -> str:
    if value <= 0:
        return "unboundedly"
    times = 1 / value
    return f"{times:.2f} times" if times < 10 else f"{times:.3g} times"
