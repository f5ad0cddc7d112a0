"""Tune outcomes in the form that the command prints."""

from msgspec.structs import replace
from tests.report.test_html import ASKED

from tailcut.spec import Rows
from tailcut.tuner.records import TuneOutcome
from tailcut.tuner.result import result
from tailcut.tuner.result_records import RowsDecision, TunedModel, TuneResult

INDEPENDENT = RowsDecision(Rows.INDEPENDENT, batched=True, reason="", setting="auto", evidence={})


def printed(outcome: TuneOutcome) -> TuneResult:
    """The outcome as the command prints it."""
    model, asked = TunedModel.of(outcome.spec, "m", "m.onnx", "0"), replace(ASKED, slo_ms=None)
    match = result(outcome, model=model, machine={}, objective=asked, command="tailcut tune")
    return replace(match, profile="p", report="r")
