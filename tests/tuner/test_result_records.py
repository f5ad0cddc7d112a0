"""What a tune's result holds."""

import numpy as np
import pytest
from tests.tuner.results import INDEPENDENT, printed

from tailcut.lab.trial import FAILED_MS, ArmRuns
from tailcut.runtime.rows import RowDecision
from tailcut.runtime.settings import Settings
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows, TensorSpec
from tailcut.tuner.records import TuneOutcome
from tailcut.tuner.result import arm_record, evidence
from tailcut.tuner.result_records import Candidate, CandidateVerdict, RowsDecision, RowsEvidence

SIGNATURE = RowEvidence(Rows.INDEPENDENT, "free first axes")
PROOF = RowEvidence(Rows.UNKNOWN, "the proof's reason")


def test_a_decision_names_every_source() -> None:
    """What was not asked is left out."""
    result = RowsDecision.of(RowDecision(Rows.INDEPENDENT, "so it is", "auto", SIGNATURE, SIGNATURE, PROOF))
    assert (result.rows, result.batched, result.reason, result.setting) == ("independent", True, "so it is", "auto")
    assert list(result.evidence) == ["signature", "graph", "proof"]
    assert result.evidence["proof"] == RowsEvidence(Rows.UNKNOWN, "the proof's reason")
    assert list(RowsDecision.of(RowDecision(Rows.DEPENDENT, "", "auto", SIGNATURE)).evidence) == ["signature"]


def test_an_arm_has_the_cores_of_its_client() -> None:
    """The mean of its open blocks and of its closed ones; unknown where there were none."""
    figures = arm_record(ArmRuns(client_cpu=[0.1, 0.3], client_cpu_closed=[0.9]), 100.0)
    assert (figures.client_cpu, figures.client_cpu_closed) == (0.2, 0.9)
    assert arm_record(ArmRuns(), 100.0).client_cpu is None


def test_what_was_not_measured_is_unknown() -> None:
    """Blocks without a request, or an answer, have no rate of 0; where requests failed, 0 is what was answered."""
    silent = ArmRuns([np.empty(0)] * 3, [0.0, 0.0, 0.0], achieved=[0.0, 0.0, 0.0])
    figures = arm_record(silent, 0.5)
    assert (figures.samples, figures.throughput, figures.rate_achieved) == (0, None, None)
    failed = arm_record(ArmRuns([np.array([FAILED_MS])], [0.0], errors=2, achieved=[0.0]), 0.5)
    assert (failed.samples, failed.throughput, failed.rate_achieved) == (0, 0.0, 0.0)


@pytest.mark.parametrize("answered", [0, 3])
def test_nothing_measured_is_not_verified(answered: int) -> None:
    """The profile does not say so of a verification whose blocks had no answer."""
    outcome = TuneOutcome(
        ModelSpec("m", (TensorSpec("x", DType.FP32, (None, 4)),), ()), Settings(), 0.5, [], INDEPENDENT
    )
    outcome.arms = {name: ArmRuns([np.ones(answered)], achieved=[0.0]) for name in ("baseline", "tuned")}
    kept = evidence(printed(outcome))
    assert kept["verified"] is bool(answered)
    assert ("rate_achieved" in kept["tuned"]) is bool(answered)


def test_a_candidate_knows_what_is_named() -> None:
    """All else is unknown."""
    item = Candidate.of("engine.threads=2", "raced", "900 answers/s", throughput=900.0)
    assert item.verdict is CandidateVerdict.RACED
    assert (item.throughput, item.samples, item.p99_ms, item.tail_ratio, item.cost) == (900.0, 0, None, None, None)
