"""What a tune's result holds."""

from tailcut.lab.trial import ArmRuns
from tailcut.runtime.rows import RowDecision
from tailcut.spec import RowEvidence, Rows
from tailcut.tuner.result import arm_record
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


def test_a_candidate_knows_what_is_named() -> None:
    """All else is unknown."""
    item = Candidate.of("engine.threads=2", "raced", "900 answers/s", throughput=900.0)
    assert item.verdict is CandidateVerdict.RACED
    assert (item.throughput, item.samples, item.p99_ms, item.tail_ratio, item.cost) == (900.0, 0, None, None, None)
