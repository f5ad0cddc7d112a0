"""Distributions and ratios as bars: positions along a track, in per cent of its width.

A strip shows one run's latency from its fastest request to its tail: the middle half is solid, each step outwards
fainter. A bar shows the interval of a ratio on a logarithmic axis with 1 in the middle.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tailcut.lab.records import IntervalRecord
from tailcut.report.charts import Scale, Tick, logarithmic
from tailcut.report.words import milliseconds, round_milliseconds

# Pairs of a distance from the median, in quantiles, and the opacity of parts of a strip up to there.
_SOLIDITY = ((0.25, 1.0), (0.4, 0.55), (0.49, 0.3), (0.5, 0.14))
_LEAST_WIDTH = 0.25


@dataclass(frozen=True, slots=True)
class StripPart:
    """A part of a strip."""

    at: float
    width: float
    opacity: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a strip, or a tick with its text."""

    at: float
    css: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """One run's latency: parts, marks at the median and the p99, and the figures as text."""

    name: str
    tone: str
    note: str
    figures: tuple[tuple[str, str], ...]
    parts: tuple[StripPart, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ArmStrip:
    """One run to draw: pairs of a quantile and its milliseconds, and the figures to show."""

    name: str
    tone: str
    note: str
    curve: Sequence[tuple[float, float]]
    figures: Mapping[str, float | str | None]


@dataclass(frozen=True, slots=True)
class Bar:
    """The interval of a ratio, as positions on a track."""

    low: float
    high: float
    point: float


@dataclass(frozen=True, slots=True)
class Strips:
    """Strips on a common axis of milliseconds, with the deadline if there is one."""

    rows: tuple[Strip, ...]
    ticks: tuple[Mark, ...]
    rule: Mark | None


def strips(arms: Sequence[ArmStrip], deadline_ms: float | None = None) -> Strips | None:
    """Strips of several runs on a common logarithmic axis, with the deadline; None if no run has a curve."""
    arms = [arm for arm in arms if len(arm.curve) >= 2]
    if not arms:
        return None
    values = [value for arm in arms for _, value in arm.curve] + ([deadline_ms] if deadline_ms else [])
    scale = logarithmic(max(min(values), 1e-6) / 1.15, max(values) * 1.1, "ms", round_milliseconds)
    ticks = tuple(mark for mark in (_tick(scale, tick) for tick in scale.ticks) if 3 < mark.at < 97)
    rule = None if not deadline_ms else Mark(_percent(scale, deadline_ms), text=f"deadline of {deadline_ms:g} ms")
    return Strips(tuple(_strip(scale, arm) for arm in arms), ticks, rule)


def ratio_bar(ratio: IntervalRecord | None, reach: float = 4.0) -> Bar | None:
    """The interval of a ratio on a track from 1/reach to reach, clipped to it."""
    if ratio is None:
        return None

    def position(value: float) -> float:
        return round(100 * min(1.0, max(0.0, 0.5 + math.log(max(value, 1e-9), reach * reach))), 1)

    return Bar(position(ratio.low), position(ratio.high), position(ratio.point))


def reach_of(ratios: Sequence[IntervalRecord], least: float = 1.1) -> float:
    """A reach that contains the intervals of all these ratios, at most 20."""
    ends = [max(ratio.high, 1 / max(ratio.low, 1e-3)) for ratio in ratios]
    return min(20.0, max([least, *(math.pow(end, 1.15) for end in ends)]))


def _strip(scale: Scale, arm: ArmStrip) -> Strip:
    known = dict(arm.curve)
    parts: list[StripPart] = []
    for (low, left), (high, right) in pairwise(known.items()):
        opacity = next(solid for depth, solid in _SOLIDITY if abs((low + high) / 2 - 0.5) <= depth)
        start, end = _percent(scale, left), _percent(scale, right)
        if parts and parts[-1].opacity == opacity:
            start = parts.pop().at  # join it with the part before
        parts.append(StripPart(start, round(max(_LEAST_WIDTH, end - start), 2), opacity))
    marks = tuple(Mark(_percent(scale, known[q]), css) for q, css in ((0.5, "middle"), (0.99, "tail")) if q in known)
    words = tuple((term, _figure(value)) for term, value in arm.figures.items())
    return Strip(arm.name, arm.tone, arm.note, words, tuple(parts), marks)


def _figure(value: float | str | None) -> str:
    """A number of milliseconds as text, or the text in place of it."""
    if isinstance(value, str):
        return value
    return "unknown" if value is None else f"{milliseconds(value)} ms"


def _tick(scale: Scale, tick: Tick) -> Mark:
    """The mark of a tick; those between powers of ten are minor, and left out on narrow pages."""
    return Mark(_percent(scale, tick.value), "" if math.log10(tick.value).is_integer() else "minor", tick.text)


def _percent(scale: Scale, value: float) -> float:
    return round(100 * scale.at(value), 2)
