"""What a tune's result holds."""

from tailcut.runtime.rows import RowDecision
from tailcut.spec import RowEvidence, Rows
from tailcut.tuner.result_records import Candidate, CandidateVerdict, RowsDecision, RowsEvidence

SIGNATURE = RowEvidence(Rows.INDEPENDENT, "free first axes")
PROOF = RowEvidence(Rows.UNKNOWN, "the proof's reason")


def test_a_decision_names_every_source() -> None:
    """What was not asked is left out."""
    found = RowsDecision.of(RowDecision(Rows.INDEPENDENT, "so it is", "auto", SIGNATURE, SIGNATURE, PROOF))
    assert (found.rows, found.batched, found.reason, found.setting) == ("independent", True, "so it is", "auto")
    assert list(found.evidence) == ["signature", "graph", "proof"]
    assert found.evidence["proof"] == RowsEvidence(Rows.UNKNOWN, "the proof's reason")
    assert list(RowsDecision.of(RowDecision(Rows.DEPENDENT, "", "auto", SIGNATURE)).evidence) == ["signature"]


def test_a_candidate_knows_what_is_named() -> None:
    """All else is unknown."""
    one = Candidate.of("engine.threads=2", "raced", "900 answers/s", throughput=900.0)
    assert one.verdict is CandidateVerdict.RACED
    assert (one.throughput, one.samples, one.p99_ms, one.tail_ratio, one.cost) == (900.0, 0, None, None, None)
