"""Charts as values: scales, series and their places in SVG units; `templates/parts.html.j2` writes them down.

Every chart is drawn twice, for wide and for narrow pages, because text in a shrunken picture is too small to read; the
style sheet shows one of the two. Each point carries the words that hovering or the arrow keys show. A page of a new
kind builds its series here and calls the macro `chart`: see docs/guide/reports.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

TONES = ("c1", "c2", "c3", "c4", "c5", "c6")  # of the style sheet, for series without a colour of their own
NINES = ((0.5, "p50"), (0.9, "p90"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"))
_CURVE = (0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999)
_TICK_SPACE = 64  # between the middles of texts on a horizontal axis
_LETTER, _TEXT_GAP = 8.0, 10  # the widest digit of an axis's text in usual fonts, and from the text to the axis


@dataclass(frozen=True, slots=True)
class Tick:
    """A value on an axis that is written down."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """How an axis lays out its values: evenly, by ratios, or by nines (each step to the right is another nine)."""

    kind: Literal["linear", "log", "nines"]
    low: float
    high: float
    title: str
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """The place of a value, 0 to 1; what lies outside is at the edge."""
        low, high, here = (self._warp(bound) for bound in (self.low, self.high, value))
        return min(1.0, max(0.0, (here - low) / (high - low)))

    def _warp(self, value: float) -> float:
        if self.kind == "log":
            return math.log(max(value, 1e-300))
        return -math.log10(1 - min(value, 1 - 1e-12)) if self.kind == "nines" else value


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a chart by its values, what it is called, and what it says; `size` is a dot's radius."""

    x: float
    y: float
    key: str
    text: str
    size: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together, as a curve, as dots, or as an area down to its lowest point."""

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
    """Series on two axes; `rule` is a value of y that is marked, such as a deadline."""

    label: str
    x: Scale
    y: Scale
    series: tuple[Series, ...]
    rule: Tick | None = None
    hover: Literal["x", "point"] = "x"
    drawings: tuple[Drawing, ...] = field(init=False)

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Names and tones, each once: what a name is drawn as is seen."""
        return tuple({series.name: (series.name, series.tone) for series in self.series if series.name}.values())

    def __post_init__(self) -> None:
        sizes = (("wide", 960, 380, 68), ("narrow", 380, 300, 52))
        object.__setattr__(self, "drawings", tuple(_draw(self, *size) for size in sizes))


def linear(
    low: float, high: float, title: str, text: Callable[[float], str], *, ticks: Sequence[float] | None = None
) -> Scale:
    """An even scale with ticks at round values, or at those given."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    values = _even_values(low, high) if ticks is None else ticks
    return Scale("linear", low, high, title, tuple(Tick(value, text(value)) for value in values))


def logarithmic(low: float, high: float, title: str, text: Callable[[float], str]) -> Scale:
    """A scale of ratios with ticks at 1, 2 and 5 of every decade."""
    if high <= low:
        low, high = low / 1.5, high * 1.5
    return Scale("log", low, high, title, tuple(Tick(value, text(value)) for value in round_values(low, high)))


def by_nines(most: float, title: str) -> Scale:
    """Percentiles from the lowest quartile on, up to the given one."""
    return Scale("nines", 0.25, most, title, tuple(Tick(q, text) for q, text in NINES if q <= most + 1e-12))


def span(values: Sequence[float], title: str, text: Callable[[float], str]) -> Scale:
    """A scale that fits positive values: even where they are near each other, by ratios where they are not."""
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
    """Latency by percentile, both axes logarithmic; None where no curve has two points.

    Args:
        curves: name, tone, and pairs of a quantile (0 to 1) and its value, of each.
        text: says a value.
        label: for screen readers.
        tick: says a round value at the axis.
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
    """Quantiles of sorted values up to where a few points lie beyond."""
    n = len(sorted_values)
    quantiles = [q for q in _CURVE if (1 - q) * n >= 3]
    return [(q, float(sorted_values[max(0, math.ceil(q * n) - 1)])) for q in quantiles]


def density(values: np.ndarray, scale: Scale, points: int = 160) -> list[tuple[float, float]]:
    """The density of values along a scale, as shares of its highest place: a Gaussian kernel of Silverman's width."""
    places = np.sort([scale.at(value) for value in values])
    half = len(places) // 2
    # The shortest half knows the width of a hill where the standard deviation knows only how far hills are apart.
    reach = float((places[half:] - places[: len(places) - half]).min()) / 1.35
    width = max(0.9 * reach * len(places) ** -0.2, 0.004)
    grid = np.linspace(0, 1, points)
    heights = np.exp(-0.5 * ((grid[:, np.newaxis] - places) / width) ** 2).sum(axis=1)
    heights /= heights.max()
    low, high = scale.low, scale.high
    back = low * (high / low) ** grid if scale.kind == "log" else low + grid * (high - low)
    return list(zip(back.tolist(), heights.tolist(), strict=True))


def round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between the bounds; fewer where that is crowded."""
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
        places = [(x(point.x), y(point.y)) for point in series.points]
        if series.kind != "dots":
            path = "M" + " L".join(f"{px} {py}" for px, py in places)
            ground = max(py for _, py in places)  # a hill stands on its own foot
            fill = f"{path} L{places[-1][0]} {ground} L{places[0][0]} {ground} Z" if series.kind == "area" else None
            paths.append({"tone": series.tone, "kind": series.kind, "line": path, "fill": fill})
        if series.kind in {"line", "dots"}:
            dots += [
                {"tone": series.tone, "series": number, "kind": series.kind, "x": px, "y": py, "point": point}
                for (px, py), point in zip(places, series.points, strict=True)
            ]
    ticks_x = _apart([(x(tick.value), tick.text) for tick in chart.x.ticks])
    ticks_y = tuple((y(tick.value), tick.text) for tick in chart.y.ticks)
    rule = None if chart.rule is None else y(chart.rule.value)
    return Drawing(css, width, height, left, right, top, bottom, ticks_x, ticks_y, rule, tuple(paths), tuple(dots))


def _apart(ticks: list[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Leave out texts that would touch their neighbour, the rarest first: from the right."""
    kept: list[tuple[float, str]] = []
    for position, text in reversed(ticks):
        if not kept or kept[-1][0] - position >= max(_TICK_SPACE * 0.6, 4.2 * (len(text) + len(kept[-1][1]))):
            kept.append((position, text))
    return tuple(reversed(kept))
