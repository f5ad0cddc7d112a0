"""What a tune's result holds."""

from tailcut.runtime.rows import RowDecision
from tailcut.spec import RowEvidence, Rows
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


def test_a_candidate_knows_what_is_named() -> None:
    """All else is unknown."""
    item = Candidate.of("engine.threads=2", "raced", "900 answers/s", throughput=900.0)
    assert item.verdict is CandidateVerdict.RACED
    assert (item.throughput, item.samples, item.p99_ms, item.tail_ratio, item.cost) == (900.0, 0, None, None, None)
