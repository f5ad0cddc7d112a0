"""Where things lie in charts: scales, ticks, densities, and both sizes of a drawing."""

import numpy as np
import pytest

from tailcut.lab.records import IntervalRecord
from tailcut.report.charts import (
    Chart,
    Point,
    Series,
    Tick,
    by_nines,
    curve,
    density,
    linear,
    logarithmic,
    percentile_chart,
    span,
)
from tailcut.report.strips import ArmStrip, ratio_bar, strips
from tailcut.report.words import nanoseconds, round_milliseconds


def test_every_nine_is_a_step_of_the_same_width() -> None:
    """From p90 to p99 is as far as from p99 to p99.9."""
    scale = by_nines(0.999, "percentile")
    assert scale.at(0.99) - scale.at(0.9) == pytest.approx(scale.at(0.999) - scale.at(0.99))
    assert scale.at(0.25) == 0
    assert scale.at(0.999) == pytest.approx(1)
    assert [tick.text for tick in scale.ticks] == ["p50", "p90", "p95", "p99", "p99.9"]


def test_logarithmic_and_even_scales() -> None:
    """Equal ratios, and equal differences, are equal ways; what lies outside is at the edge."""
    scale = logarithmic(1, 100, "ms", str)
    assert scale.at(10) == pytest.approx(0.5)
    assert (scale.at(0.1), scale.at(1000)) == (0, 1)
    assert [tick.value for tick in scale.ticks] == [1, 2, 5, 10, 20, 50, 100]
    assert [tick.value for tick in linear(0, 10, "", str).ticks] == [0, 2, 4, 6, 8, 10]
    assert logarithmic(5, 5, "", str).at(5) == pytest.approx(0.5)


def test_a_span_is_even_only_where_values_are_near() -> None:
    """Values within a factor of three have an even scale, others one of ratios; all of them lie inside."""
    near, far = span([90, 100, 110], "", str), span([1, 100], "", str)
    assert (near.kind, far.kind) == ("linear", "log")
    assert all(0 < near.at(value) < 1 for value in (90, 100, 110))
    assert all(0 < far.at(value) < 1 for value in (1, 100))


def test_a_chart_is_drawn_wide_and_narrow() -> None:
    """Both drawings hold every point inside their frame, higher values higher up, and a marked value."""
    chart = percentile_chart(
        [("a", "c1", [(0.0, 1), (0.5, 2), (0.99, 8)])],
        str,
        "latency",
        tick=round_milliseconds,
        rule=Tick(5, "deadline"),
    )
    assert chart is not None
    assert [drawing.css for drawing in chart.drawings] == ["wide", "narrow"]
    for drawing in chart.drawings:
        assert [dot["point"].key for dot in drawing.dots] == ["p50", "p99"]
        low, high = drawing.dots
        assert drawing.left <= low["x"] < high["x"] <= drawing.right
        assert drawing.top <= high["y"] < drawing.rule < low["y"] <= drawing.bottom


def test_numbers_of_the_vertical_axis_have_room() -> None:
    """Cut off at the left, 150,000 would be 50,000; short ones do not take the room of the curve."""
    text = "{:,.0f}".format
    lefts = []
    for most in (8_000.0, 160_000.0, 1_600_000.0):
        line = Series("a", "c1", (Point(1, 0, "", ""), Point(2, most, "", "")))
        drawings = Chart("c", linear(1, 2, "", text), linear(0, most, "", text), (line,)).drawings
        longest = max(len(tick) for _, tick in drawings[0].y_ticks)
        assert all(drawing.left >= 7 * longest + 10 for drawing in drawings)
        lefts.append([drawing.left for drawing in drawings])
    assert lefts[0] == [68, 52]


def test_texts_on_the_axis_do_not_touch() -> None:
    """Of a hundred ticks only those stay that leave room for their text, and the last one stays."""
    x = linear(0, 99, "", lambda value: f"{value:.0f}", ticks=range(100))
    chart = Chart("", x, linear(0, 1, "", str), (Series("a", "c1", (Point(0, 0, "", ""), Point(99, 1, "", ""))),))
    for drawing in chart.drawings:
        places = [place for place, _ in drawing.x_ticks]
        assert min(np.diff(places)) > 30
        assert drawing.x_ticks[-1][1] == "99"


def test_too_little_for_a_curve_is_no_chart() -> None:
    """A run with a single quantile, and no run at all, give none."""
    assert percentile_chart([("a", "c1", [(0.5, 1.0)])], str, "", tick=str) is None
    assert percentile_chart([], str, "", tick=str) is None
    assert strips([]) is None


def test_a_curve_ends_where_its_sample_does() -> None:
    """Of a hundred points no quantile is shown beyond which fewer than three lie."""
    assert max(q for q, _ in curve(np.arange(100.0))) == 0.95
    assert max(q for q, _ in curve(np.arange(100_000.0))) == 0.9999


def test_a_density_has_its_hill_where_the_values_are() -> None:
    """Two clusters give two hills, with a valley between them."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(10, 0.1, 100), random.normal(20, 0.1, 50)])
    hill = dict(density(values, linear(5, 25, "", str)))
    peak = max(hill, key=hill.__getitem__)
    assert peak == pytest.approx(10, abs=0.3)
    assert max(height for x, height in hill.items() if x > 15) > 0.3
    assert max(height for x, height in hill.items() if 13 < x < 17) < 0.05


def test_a_strip_goes_from_the_fastest_to_the_tail() -> None:
    """Parts join without gaps, the median and the p99 are marked, and the deadline has its place."""
    points = [(0.0, 1.0), (0.1, 2.0), (0.25, 3.0), (0.5, 4.0), (0.75, 5.0), (0.9, 6.0), (0.99, 10.0), (0.999, 20.0)]
    drawn = strips([ArmStrip("a", "c1", "", points, {"p99": 10.0, "p99.9": None})], 15.0)
    assert drawn is not None
    assert drawn.rule is not None
    row = drawn.rows[0]
    for left, right in zip(row.parts, row.parts[1:], strict=False):
        assert left.at + left.width == pytest.approx(right.at, abs=0.05)
    assert row.marks[0].at < row.marks[1].at < drawn.rule.at < 100
    assert [part.opacity for part in row.parts] == [0.3, 0.55, 1.0, 0.55, 0.3, 0.14]
    assert row.figures == (("p99", "10.00 ms"), ("p99.9", "unknown"))


def test_a_ratio_has_one_in_the_middle() -> None:
    """Half and double lie as far from the middle; beyond the reach is the edge."""
    bar = ratio_bar(IntervalRecord(1.0, 0.5, 2.0))
    assert bar is not None
    assert (bar.point, bar.low, bar.high) == (50, 25, 75)
    cut = ratio_bar(IntervalRecord(1.0, 0.001, 99.0))
    assert cut is not None
    assert cut.high == 100
    assert ratio_bar(None) is None


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0 ns"), (12.34, "12.34 ns"), (1234.5, "1.234 us"), (5e6, "5 ms"), (2e9, "2 s")]
)
def test_times_have_the_unit_that_suits_them(value: float, words: str) -> None:
    """Four digits, from nanoseconds to seconds."""
    assert nanoseconds(value) == words
