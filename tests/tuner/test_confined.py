"""`--cpus`: servers run on so many CPUs, what is kept has no more threads, and the result says what was used."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as with_fields
from tests.engines.models import perceptron
from tests.report.test_html import ASKED
from tests.tuner.results import printed

from tailcut.cli.tune_wanted import cpus_of
from tailcut.machine.quota import usable_cpus
from tailcut.report.tune_words import limits_words
from tailcut.tuner.claims import carry, prove
from tailcut.tuner.objective import Constraints
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.result import result
from tailcut.tuner.servers import confined_to
from tailcut.tuner.session import open_session
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.ways import USUAL


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or usable_cpus() < 2, reason="needs CPUs that a server is kept from"
)
def test_servers_run_on_the_cpus_that_are_allowed(tmp_path: Path) -> None:
    """Those of the baseline and of the winner; the baseline, which stays where all else fails, has one thread."""
    path = perceptron([16, 64, 4], tmp_path / "m.onnx")
    wanted = TuneRequest(path, rate=300.0, slo_ms=100.0, budget_s=5.0, constraints=Constraints(cpus=1))
    session = open_session(wanted, lambda event: None)
    session.outcome.settings = changed(session.with_wire("binary"), batching={"max_batch_size": 8})
    assert session.base.engine.threads == 1
    try:
        carry(session)
        pid = session.servers.of(session.outcome.settings).pid
        assert pid is not None
        assert len(os.sched_getaffinity(pid)) == 1
        prove(session)
    finally:
        session.servers.keep()
    assert len(os.sched_getaffinity(0)) == usable_cpus()
    outcome = session.outcome
    asked = with_fields(ASKED, slo_ms=None, cpus=1)
    match = result(
        outcome,
        model=printed(outcome).model,
        machine={},
        objective=asked,
        command="tailcut tune",
    )
    assert match.verification is not None
    assert 0 < match.verification.cpus_used <= 1.05
    assert match.verification.cpus_within is True
    assert limits_words(match).endswith("CPUs busy at its highest load: within the limit of 1")
    outcome.cpus_used = 1.5
    over = result(outcome, model=match.model, machine={}, objective=asked, command="tailcut tune")
    assert over.verification is not None
    assert over.verification.cpus_within is False


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or usable_cpus() < 2, reason="needs CPUs that a server is kept from"
)
def test_what_was_measured_on_fewer_cpus_is_not_taken_over(tmp_path: Path) -> None:
    """Stored ways in are those of a tune with as many CPUs."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    unconfined = TuneRequest(path, budget_s=5.0, journal=tmp_path / "m.trials.jsonl")
    confined = replace(unconfined, constraints=Constraints(cpus=1))
    open_session(confined, lambda event: None).journal.add_way(BASELINE, USUAL["inline"])
    stored = [open_session(wanted, lambda event: None).journal.way(BASELINE) for wanted in (confined, unconfined)]
    assert stored == [USUAL["inline"], None]


def test_no_more_cpus_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A line says so, and the tune is for those that there are; no server is kept from any of them."""
    assert cpus_of(None) is None
    assert cpus_of(usable_cpus()) == usable_cpus()
    assert not capsys.readouterr().err
    assert cpus_of(10_000) == usable_cpus()
    assert capsys.readouterr().err.startswith("tailcut: --cpus 10000: the ")
    assert Constraints(cpus=10_000).cpus_of(2) == 2
    assert confined_to(usable_cpus()) is None
