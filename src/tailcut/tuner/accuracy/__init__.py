"""Whether a candidate's answers are still right, compared with the float32 reference. Pure.

`floats`, `labels` and `text` measure one output each; `verdict` combines the measures; `metric` is a measure that
the user supplies.
"""

from tailcut.tuner.accuracy.finding import RowFinding
from tailcut.tuner.accuracy.metric import Metric, load_metric
from tailcut.tuner.accuracy.verdict import EXACT, Accuracy, Outputs, compare, labelled, parse_bound

__all__ = ["EXACT", "Accuracy", "Metric", "Outputs", "RowFinding", "compare", "labelled", "load_metric", "parse_bound"]
