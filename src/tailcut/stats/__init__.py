"""Numbers in, numbers out: no clock, no file."""

from tailcut.stats.bootstrap import paired_ratio_interval, ratio_interval
from tailcut.stats.sample import CONFIDENCE, Interval, Sample, percentile, percentile_interval, samples_needed
from tailcut.stats.verdict import Verdict, verdict

__all__ = [
    "CONFIDENCE",
    "Interval",
    "Sample",
    "Verdict",
    "paired_ratio_interval",
    "percentile",
    "percentile_interval",
    "ratio_interval",
    "samples_needed",
    "verdict",
]
