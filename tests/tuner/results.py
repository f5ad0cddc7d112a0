"""Outcomes as the command prints them."""

from tailcut.tuner.records import Outcome
from tailcut.tuner.result import result


def told(outcome: Outcome) -> dict:
    """The outcome as the command prints it."""
    objective = {"seed": 0, "slo_ms": None, "accuracy": "0.999", "metric": None, "data": None}
    found = result(outcome, model={"name": "m", "sha256": "0"}, machine={}, objective=objective, command="tailcut tune")
    return found | {"profile": "p", "report": "r"}
