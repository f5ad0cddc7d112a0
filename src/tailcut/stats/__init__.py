"""Statistics: numbers in, numbers out, without clocks or files."""

from tailcut.stats.bootstrap import (
    bootstrap_interval,
    median_interval,
    median_ratio_interval,
    paired_ratio_interval,
    ratio_interval,
)
from tailcut.stats.outliers import Outliers, outliers
from tailcut.stats.proportion import is_above
from tailcut.stats.regression import Line, fit_line
from tailcut.stats.sample import CONFIDENCE, Interval, Sample, percentile, percentile_interval, samples_needed
from tailcut.stats.trend import Trend, trend
from tailcut.stats.verdict import Verdict, verdict

__all__ = [
    "CONFIDENCE",
    "Interval",
    "Line",
    "Outliers",
    "Sample",
    "Trend",
    "Verdict",
    "bootstrap_interval",
    "fit_line",
    "is_above",
    "median_interval",
    "median_ratio_interval",
    "outliers",
    "paired_ratio_interval",
    "percentile",
    "percentile_interval",
    "ratio_interval",
    "samples_needed",
    "trend",
    "verdict",
]
