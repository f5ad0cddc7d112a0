"""Charts as values: scales, series and their positions in SVG units; `templates/parts.html.j2` renders them.

Every chart is drawn twice, for wide and for narrow pages, because text in a scaled-down picture is too small to read;
the style sheet shows one of the two. Each point has the text that hovering or the arrow keys show. A new kind of page
builds its series here and calls the macro `chart`: see docs/guide/reports.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

TONES = ("c1", "c2", "c3", "c4", "c5", "c6")  # names in the style sheet, for series without a colour of their own
NINES = ((0.5, "p50"), (0.9, "p90"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"))
_CURVE = (0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999)
_TICK_SPACE = 64  # between the centres of labels on a horizontal axis
_LETTER, _TEXT_GAP = 8.0, 10  # width of the widest digit in common fonts, and space between a label and the axis


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled value on an axis."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of an axis: linear, logarithmic, or by nines (each step to the right is another nine)."""

    kind: Literal["linear", "log", "nines"]
    low: float
    high: float
    title: str
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """The position of a value, from 0 to 1; values outside the scale are at its edge."""
        low, high, here = (self._warp(bound) for bound in (self.low, self.high, value))
        return min(1.0, max(0.0, (here - low) / (high - low)))

    def _warp(self, value: float) -> float:
        if self.kind == "log":
            return math.log(max(value, 1e-300))
        return -math.log10(1 - min(value, 1 - 1e-12)) if self.kind == "nines" else value


@dataclass(frozen=True, slots=True)
class Point:
    """A point in a chart: its values, its name, and the text that it shows; `size` is the radius of its dot."""

    x: float
    y: float
    key: str
    text: str
    size: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together, drawn as a line, as dots, or as an area down to its lowest point."""

    name: str
    tone: str
    points: tuple[Point, ...]
    kind: Literal["line", "dots", "area", "fit"] = "line"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart in SVG units at one size."""

    css: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    rule: float | None
    paths: tuple[dict[str, Any], ...]
    dots: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Series on two axes; `rule` is a marked value of y, such as a deadline."""

    label: str
    x: Scale
    y: Scale
    series: tuple[Series, ...]
    rule: Tick | None = None
    hover: Literal["x", "point"] = "x"
    drawings: tuple[Drawing, ...] = field(init=False)

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """The names of the series with their tones, each once."""
        return tuple({series.name: (series.name, series.tone) for series in self.series if series.name}.values())

    def __post_init__(self) -> None:
        sizes = (("wide", 960, 380, 68), ("narrow", 380, 300, 52))
        object.__setattr__(self, "drawings", tuple(_draw(self, *size) for size in sizes))


def linear(
    low: float, high: float, title: str, text: Callable[[float], str], *, ticks: Sequence[float] | None = None
) -> Scale:
    """A linear scale with ticks at round values, or at those given."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    values = _even_values(low, high) if ticks is None else ticks
    return Scale("linear", low, high, title, tuple(Tick(value, text(value)) for value in values))


def logarithmic(low: float, high: float, title: str, text: Callable[[float], str]) -> Scale:
    """A logarithmic scale with ticks at 1, 2 and 5 of every decade."""
    if high <= low:
        low, high = low / 1.5, high * 1.5
    return Scale("log", low, high, title, tuple(Tick(value, text(value)) for value in round_values(low, high)))


def by_nines(most: float, title: str) -> Scale:
    """A scale of percentiles from p25 to `most`, a quantile from 0 to 1."""
    return Scale("nines", 0.25, most, title, tuple(Tick(q, text) for q, text in NINES if q <= most + 1e-12))


def span(values: Sequence[float], title: str, text: Callable[[float], str]) -> Scale:
    """A scale that fits positive values: linear if the largest is up to three times the smallest, else logarithmic."""
    low, high = min(values), max(values)
    if high / low > 3:
        return logarithmic(low / 1.1, high * 1.1, title, text)
    margin = 0.06 * (high - low) or 0.05 * high
    return linear(max(0.0, low - margin), high + margin, title, text)


def percentile_chart(
    curves: Sequence[tuple[str, str, Sequence[Sequence[float]]]],
    text: Callable[[float], str],
    label: str,
    *,
    tick: Callable[[float], str],
    rule: Tick | None = None,
) -> Chart | None:
    """Latency by percentile, both axes logarithmic; None if no curve has two points.

    Args:
        curves: for each, its name, its tone, and pairs of a quantile (0 to 1) and its value.
        text: formats a value.
        label: for screen readers.
        tick: formats a round value for the axis.
        rule: a value to mark, such as a deadline.
    """
    kept = [(name, tone, [(q, value) for q, value in points if q >= 0.25]) for name, tone, points in curves]
    kept = [entry for entry in kept if len(entry[2]) >= 2]
    if not kept:
        return None
    values = [value for _, _, points in kept for _, value in points] + ([rule.value] if rule else [])
    most = max(q for _, _, points in kept for q, _ in points)
    series = tuple(
        Series(name, tone, tuple(Point(q, value, f"p{100 * q:g}", text(value)) for q, value in points))
        for name, tone, points in kept
    )
    y = logarithmic(min(values) / 1.25, max(values) * 1.25, "latency", tick)
    return Chart(label, by_nines(most, "percentile of requests"), y, series, rule)


def curve(sorted_values: np.ndarray) -> list[tuple[float, float]]:
    """Pairs of a quantile and its value, from float64 [values], ascending, as far as three values are beyond it."""
    n = len(sorted_values)
    quantiles = [q for q in _CURVE if (1 - q) * n >= 3]
    return [(q, float(sorted_values[max(0, math.ceil(q * n) - 1)])) for q in quantiles]


def density(values: np.ndarray, scale: Scale, points: int = 160) -> list[tuple[float, float]]:
    """The density of values along a scale, relative to its maximum, by a Gaussian kernel of Silverman's bandwidth.

    Args:
        values: float64 [values].
        scale: of the axis.
        points: number of points to compute.

    Returns:
        Pairs of a value and the density there.
    """
    positions = np.sort([scale.at(value) for value in values])
    half = len(positions) // 2
    # With several modes, the shortest half measures the width of one; the standard deviation, their distance.
    reach = float((positions[half:] - positions[: len(positions) - half]).min()) / 1.35
    width = max(0.9 * reach * len(positions) ** -0.2, 0.004)
    grid = np.linspace(0, 1, points)
    heights = np.exp(-0.5 * ((grid[:, np.newaxis] - positions) / width) ** 2).sum(axis=1)
    heights /= heights.max()
    low, high = scale.low, scale.high
    back = low * (high / low) ** grid if scale.kind == "log" else low + grid * (high - low)
    return list(zip(back.tolist(), heights.tolist(), strict=True))


def round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between the bounds; only powers of ten if there are many decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 4 else (1, 2, 5)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def _even_values(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _draw(chart: Chart, css: str, width: int, height: int, left: int) -> Drawing:
    right, top, bottom = width - 18, 14, height - 46
    left = max(left, _TEXT_GAP + math.ceil(_LETTER * max((len(tick.text) for tick in chart.y.ticks), default=0)))

    def x(value: float) -> float:
        return round(left + (right - left) * chart.x.at(value), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * chart.y.at(value), 1)

    paths, dots = [], []
    for number, series in enumerate(chart.series):
        positions = [(x(point.x), y(point.y)) for point in series.points]
        if series.kind != "dots":
            path = "M" + " L".join(f"{px} {py}" for px, py in positions)
            ground = max(py for _, py in positions)  # the base of an area is its own lowest point
            fill = (
                f"{path} L{positions[-1][0]} {ground} L{positions[0][0]} {ground} Z" if series.kind == "area" else None
            )
            paths.append({"tone": series.tone, "kind": series.kind, "line": path, "fill": fill})
        if series.kind in {"line", "dots"}:
            dots += [
                {"tone": series.tone, "series": number, "kind": series.kind, "x": px, "y": py, "point": point}
                for (px, py), point in zip(positions, series.points, strict=True)
            ]
    ticks_x = _apart([(x(tick.value), tick.text) for tick in chart.x.ticks])
    ticks_y = tuple((y(tick.value), tick.text) for tick in chart.y.ticks)
    rule = None if chart.rule is None else y(chart.rule.value)
    return Drawing(css, width, height, left, right, top, bottom, ticks_x, ticks_y, rule, tuple(paths), tuple(dots))


def _apart(ticks: list[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Leave out labels that would touch their neighbour; the rightmost one stays."""
    kept: list[tuple[float, str]] = []
    for position, text in reversed(ticks):
        if not kept or kept[-1][0] - position >= max(_TICK_SPACE * 0.6, 4.2 * (len(text) + len(kept[-1][1]))):
            kept.append((position, text))
    return tuple(reversed(kept))
