"""The content of an explained tail's page, as values: two bars of stages, then one for each of the worst requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tailcut.lab.records import ExplainResult
from tailcut.report.charts import Scale, linear
from tailcut.report.explain import coincided_lines, coincidence, process_lines, stage_rows
from tailcut.report.strips import Mark
from tailcut.report.words import count, nanoseconds
from tailcut.runtime.tracing.records import SlowRequest, StageTimes

STAGES = {  # in the order of a request: description, and tone in a bar
    "receive": ("the client sends", "c5"),
    "queue": ("the request waits in the queue", "c2"),
    "dispatch": ("a worker wakes", "c6"),
    "compute": ("the engine computes", "c1"),
    "deliver": ("the event loop handles the answer", "c3"),
    "encode": ("the answer is encoded", "c4"),
    "write": ("the client receives it", "c7"),
}
_LEAST_WIDTH = 0.05  # per cent; narrower parts are not drawn
_NAMED_SHARE = 0.2  # of a request: stages of at least this share are named beside its bar


@dataclass(frozen=True, slots=True)
class StagePart:
    """A stage in a bar; position and width are in per cent of the bar."""

    tone: str
    at: float
    width: float
    words: str


@dataclass(frozen=True, slots=True)
class StageBar:
    """A request, or the mean of many: its name, a note, its largest stages as text, and its parts."""

    name: str
    note: str
    figures: tuple[tuple[str, str], ...]
    parts: tuple[StagePart, ...]


@dataclass(frozen=True, slots=True)
class StageBars:
    """Bars on a common time axis that starts at 0."""

    rows: tuple[StageBar, ...]
    ticks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ExplainPage:
    """The values for the template."""

    headline: str
    lead: str
    facts: tuple[tuple[str, str, str], ...]
    doubts: tuple[str, ...]
    stages: tuple[tuple[str, str, str], ...]
    means: StageBars | None
    rows: tuple[tuple[str, str, str, str], ...]
    processes: tuple[str, ...]
    coincided: tuple[str, ...]
    worst: StageBars | None
    figures: tuple[tuple[str, ...], ...]


def page(result: ExplainResult) -> ExplainPage:
    """The page of a result of `tailcut explain`."""
    stages, worst = result.stages or {}, result.worst or []
    head, lead = headline(result)
    return ExplainPage(
        head,
        lead,
        _facts(result),
        doubts(result),
        tuple((name, words, tone) for name, (words, tone) in STAGES.items()),
        _bars([_mean(name, stages, time) for name, time in _MEANS]) if stages else None,
        tuple(stage_rows(result)) if stages else (),
        tuple(process_lines(result)),
        tuple(coincided_lines(result)),
        _bars([_one(entry, several=len(result.processes or []) > 1) for entry in worst]) if worst else None,
        tuple(_figures(entry) for entry in worst),
    )


def headline(result: ExplainResult) -> tuple[str, str]:
    """The title and lead: the cause with its share, and what to do about it."""
    cause = result.cause
    if not cause:
        return "No tail to explain", f"{result.verdict}."
    above = nanoseconds((result.above_median_us or 0.0) * 1e3)
    lead = f"The slowest one per cent took {above} longer than the median request. What to do: {cause.advice}."
    return f"{100 * cause.share:.0f} % is {cause.words}", lead


def doubts(result: ExplainResult) -> tuple[str, ...]:
    """Why the figures may be incomplete."""
    lines = []
    if result.missed:
        lines.append(
            f"{result.missed:,} more requests were overwritten before they could be read, and are not in these figures."
        )
    if result.stages and result.total_us.p99 is None:
        lines.append(f"{result.requests:,} requests are too few for a p99: observe the server for longer.")
    return tuple(lines)


_MEANS: tuple[tuple[str, Callable[[StageTimes], float]], ...] = (
    ("around the median", lambda stage: stage.median_us),
    ("the slowest 1 %", lambda stage: stage.slowest_us),
)
_Stages = list[tuple[str, float]]  # names and microseconds, in order


def _facts(result: ExplainResult) -> tuple[tuple[str, str, str], ...]:
    total = result.total_us
    values = [("p50", total.p50), ("p99", total.p99), ("longest", total.max)]
    period = f"in {result.duration_s:g} s"
    return (
        ("requests", count(result.requests), period),
        *((name, "unknown" if value is None else nanoseconds(value * 1e3), "") for name, value in values),
    )


def _mean(
    name: str, stages: Mapping[str, StageTimes], time_of: Callable[[StageTimes], float]
) -> tuple[str, str, _Stages]:
    times = [(stage, time_of(stages[stage])) for stage in STAGES]
    return nanoseconds(sum(time for _, time in times) * 1e3), name, times


def _one(entry: SlowRequest, *, several: bool) -> tuple[str, str, _Stages]:
    moments = list(entry.marks_us.values())
    times = [(stage, end - begin) for stage, (begin, end) in zip(STAGES, pairwise(moments), strict=True)]
    notes = [f"in a batch of {entry.batch_rows}", *([f"process {entry.process}"] if several else [])]
    met = dict.fromkeys(coincidence(kind) for kind in entry.coincided)
    return nanoseconds(moments[-1] * 1e3), "; ".join([*notes, *met]), times


def _bars(requests: Sequence[tuple[str, str, _Stages]]) -> StageBars:
    longest = max(sum(time for _, time in times) for _, _, times in requests)
    scale = linear(0.0, longest, "time", lambda value: nanoseconds(value * 1e3) if value else "0")
    marks = [(100 * scale.at(tick.value), tick.text) for tick in scale.ticks]
    ticks = tuple(
        Mark(round(at, 2), "" if number % 2 == 0 else "minor", text) for number, (at, text) in enumerate(marks)
    )
    return StageBars(
        tuple(_bar(scale, *request) for request in requests), tuple(tick for tick in ticks if tick.at < 97)
    )


def _bar(scale: Scale, name: str, note: str, times: _Stages) -> StageBar:
    whole, begin = sum(time for _, time in times), 0.0
    parts, figures = [], []
    for stage, time in times:
        words = nanoseconds(time * 1e3)
        at, end = 100 * scale.at(begin), 100 * scale.at(begin + time)
        if end - at >= _LEAST_WIDTH:
            parts.append(StagePart(STAGES[stage][1], round(at, 2), round(end - at, 2), f"{stage} {words}"))
        if whole and time / whole >= _NAMED_SHARE:
            figures.append((stage, words))
        begin += time
    return StageBar(name, note, tuple(figures), tuple(parts))


def _figures(entry: SlowRequest) -> tuple[str, ...]:
    """A row of the table below the bars: total and stages in microseconds, rows, bytes and process."""
    moments = list(entry.marks_us.values())
    times = [moments[-1], *(end - begin for begin, end in pairwise(moments))]
    counts = (count(value) for value in (entry.rows, entry.batch_rows, entry.body_bytes))
    return (*map(count, times), *counts, str(entry.process))
