"""A tune's result as one self-contained HTML file: opens offline, light and dark, by keyboard and screen reader.

Charts are SVG drawn here, each with the table it was drawn from; the only script shows hover values, switches the theme
and saves the raw numbers. Everything in a result is text to the template, which escapes it: model names are
strangers' words.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 40
_ARMS = ("baseline", "reference", "tuned")
_ARM_WORDS = {
    "baseline": "Baseline: the engine's defaults, one call a request, JSON over HTTP",
    "reference": "Reference: the same engine defaults behind the binary wire",
    "tuned": "Tuned: the settings of the profile",
}
_NINES = ((0.5, "p50"), (0.9, "p90"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99"))


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a chart, and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One curve."""

    name: str
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """The SVG path."""
        return "M" + " L".join(f"{point.x:.1f} {point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves with their axes, in SVG units."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


@dataclass(frozen=True, slots=True)
class Bar:
    """One candidate's ratio in the ladder: where its interval lies on the ladder's log axis, per cent of the width."""

    low: float
    high: float
    point: float


def render_tune_html(result: Mapping[str, Any]) -> str:
    """The report of one tune.

    Args:
        result: what `tailcut tune --json` prints.
    """
    environment = Environment(
        loader=PackageLoader("tailcut.report"),
        autoescape=select_autoescape(["html.j2"], default=True),
        undefined=StrictUndefined,
    )
    environment.filters |= {"ms": _ms, "count": _count, "ratio": _ratio}
    return environment.get_template("tune.html.j2").render(
        result=result,
        arms=[(name, _ARM_WORDS[name]) for name in _ARMS],
        chart=percentile_chart(result["verification"]),
        bars={candidate_key(rung, number): bar(entry) for rung, number, entry in _candidates(result)},
        key=candidate_key,
        headline=headline(result),
        raw=json.dumps(result, allow_nan=False).replace("<", "\\u003c"),
    )


def headline(result: Mapping[str, Any]) -> tuple[str, str]:
    """What was gained, in a few large words and a sentence; nothing is claimed that its interval does not hold."""
    checked = result["verification"]
    if checked is None:
        return "Not verified", "The tune was interrupted. The profile holds the best settings found until then."
    ratio, samples = checked["p99_ratio"], checked["tuned"]["samples"]
    if ratio is None:
        return (
            "p99 unknown",
            f"{samples:,} samples cannot tell p99: it takes 459 in each arm. Raise the budget or the rate.",
        )
    bounds = f"99 % interval {_times(ratio['high'])} to {_times(ratio['low'])}, {samples:,} requests in each arm"
    if ratio["high"] < 1:
        return f"p99 {_times(ratio['point'])} shorter", f"than the baseline at the same offered rate ({bounds})."
    if ratio["low"] > 1:
        return (
            "p99 got longer",
            f"x{ratio['point']:.2f} of the baseline's ({bounds}). Do not use this profile; tune again.",
        )
    return "No proven gain", f"p99 is x{ratio['point']:.2f} of the baseline's ({bounds}): not to be told apart."


def percentile_chart(checked: Mapping[str, Any] | None) -> Chart | None:
    """Latency by percentile, both axes logarithmic: each step to the right is another nine."""
    if checked is None:
        return None
    curves = {name: [(q, value) for q, value in checked[name]["curve"] if q >= 0.25] for name in _ARMS}
    values = [value for curve in curves.values() for _, value in curve]
    if len(values) < 2:
        return None
    low, high = min(values) / 1.2, max(values) * 1.2
    most = max(_nines(q) for curve in curves.values() for q, _ in curve)
    inside_x, inside_y = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(q: float) -> float:
        return _LEFT + inside_x * _nines(q) / most

    def y(value: float) -> float:
        return _TOP + inside_y * (1 - math.log(value / low) / math.log(high / low))

    lines = tuple(
        Line(name, tuple(Point(x(q), y(value), f"{name} p{100 * q:g}: {_ms(value)} ms") for q, value in curve))
        for name, curve in curves.items()
        if curve
    )
    x_ticks = tuple(Tick(x(q), text) for q, text in _NINES if _nines(q) <= most + 1e-9)
    y_ticks = tuple(Tick(y(value), f"{value:g}") for value in _round_values(low, high))
    return Chart(lines, x_ticks, y_ticks)


def bar(entry: Mapping[str, Any]) -> Bar | None:
    """A candidate's interval on an axis from a quarter to four times; what lies beyond is cut at the edge."""
    ratio = entry["tail_ratio"]
    if ratio is None:
        return None

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, 0.5 + math.log(max(value, 1e-9), 16)))

    return Bar(place(ratio["low"]), place(ratio["high"]), place(ratio["point"]))


def candidate_key(rung: str, number: int) -> str:
    """How the template finds a candidate's bar."""
    return f"{rung}/{number}"


def _candidates(result: Mapping[str, Any]) -> Iterable[tuple[str, int, Mapping[str, Any]]]:
    for rung in result["rungs"]:
        for number, entry in enumerate(rung["candidates"]):
            yield rung["name"], number, entry


def _nines(q: float) -> float:
    return -math.log10(1 - q)


def _round_values(low: float, high: float) -> Sequence[float]:
    """1, 2 and 5 of every decade between the bounds; fewer where that is crowded."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 4 else (1, 2, 5)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def _times(ratio: float) -> str:
    return f"{1 / ratio:.2f} times" if ratio > 0 else "unboundedly"


def _ms(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:,.1f}"


def _count(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.4g}"


def _ratio(value: Mapping[str, float] | None) -> str:
    return "unknown" if value is None else f"x{value['point']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
