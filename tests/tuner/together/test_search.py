"""What a joint tune says before it searches."""

import json
import re
from pathlib import Path

import pytest
from tests.engines.models import perceptron

from tailcut.lab.arrivals import Poisson
from tailcut.stats import samples_needed
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.race import QUANTILES
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.space import changed
from tailcut.tuner.together.records import JointWanted
from tailcut.tuner.together.search import JointSearch


def test_a_joint_tune_says_how_long_a_complete_search_takes(tmp_path: Path) -> None:
    """Once the baseline of each model was measured, and before any engine is."""
    text: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Phase):
            text.append(event.text)
            if event.text.startswith("a complete search"):
                raise KeyboardInterrupt

    models = tuple(TuneRequest(perceptron([16, 4], tmp_path / f"{name}.onnx"), budget_s=6.0) for name in ("one", "two"))
    wanted = JointWanted(models, (Poisson(200.0), Poisson(100.0)), budget_s=6.0)
    with pytest.raises(KeyboardInterrupt):
        JointSearch(wanted, tell).run()
    assert re.fullmatch(r"a complete search takes about \d+ s; --budget 6s tries less of it", text[-1])
    assert [line.split(":")[0] for line in text if "the baseline carries" in line] == ["one", "two"]
    assert not any("configurations" in line for line in text)


@pytest.mark.slow
def test_a_joint_tune_that_was_stopped_goes_on_with_its_estimates(tmp_path: Path) -> None:
    """Each model's journal has its estimates and the heats; the next tune of both takes the estimates over."""
    models = tuple(
        TuneRequest(
            perceptron([16, 8, 4], tmp_path / f"{name}.onnx"), slo_ms=50.0, journal=tmp_path / f"{name}.trials.jsonl"
        )
        for name in ("one", "two")
    )
    text: list[str] = []

    def tell(event: Event) -> None:
        text.append(getattr(event, "text", ""))
        if stop in text[-1]:
            raise KeyboardInterrupt

    wanted = JointWanted(models, (Poisson(200.0), Poisson(100.0)), budget_s=8.0)
    stop = "verifying"
    JointSearch(wanted, tell).run()
    for model in models:
        assert model.journal is not None
        lines = [json.loads(line) for line in model.journal.read_text().splitlines()]
        heats = [line for line in lines if line["kind"] == "joint_heat"]
        assert heats
        assert all(line["models"] == ["one", "two"] and line["score"] > 0 and line["settings"] for line in heats)
    assert not any("reusing" in line for line in text)
    stop = "combinations on"
    JointSearch(wanted, tell).run()
    assert {line.split(":")[0] for line in text if "reusing" in line and "estimate" in line} == {"one", "two"}


@pytest.mark.slow
def test_the_best_combination_whose_answers_are_right_is_kept(tmp_path: Path) -> None:
    """What answers wrongly once it is asked everything makes room for the next best, and ends no tune."""
    models = tuple(
        TuneRequest(perceptron([64, 32, 8], tmp_path / f"{name}.onnx"), budget_s=4.0, slo_ms=50.0, bound=None)
        for name in ("one", "two")
    )
    search = JointSearch(JointWanted(models, (Poisson(200.0), Poisson(100.0)), budget_s=4.0), lambda _: None)
    try:
        search._survey()
        item, two = search._baseline
        wrong, right = (changed(item, engine=engine) for engine in ({"precision": "int8"}, {"threads": 1}))
        search._order = [(wrong, two), (right, two)]
        search._settle()
        assert search._best == (right, two)
        assert [combination for combination, _ in search._outcome.rejected] == [(wrong, two)]
        assert not search._outcome.wrong
        search._order = [(wrong, two), (item, wrong)]
        search._settle()
        assert search._best == search._baseline
    finally:
        search._servers.keep()
        for surveyor in search._surveyors:
            surveyor.close()


@pytest.mark.parametrize(("rate", "tail"), [(1.0, "p50"), (5.0, "p95"), (50.0, "p99")])
def test_a_seldom_asked_model_is_verified_within_the_budget(tmp_path: Path, rate: float, tail: str) -> None:
    """By the percentile that there is time for, which a line names: a p99 at one request per second takes long."""
    text: list[str] = []
    models = tuple(TuneRequest(tmp_path / f"{name}.onnx", slo_ms=50.0) for name in ("one", "two"))
    wanted = JointWanted(models, (Poisson(200.0), Poisson(rate)), budget_s=120.0)
    search = JointSearch(wanted, lambda event: text.append(getattr(event, "text", "")))
    search._plan_verification()
    assert search._plan.expected_s <= 1.01 * 120.0
    assert search._verification.enough == samples_needed(QUANTILES[tail])
    assert text == [] if tail == "p99" else f"within 120 s the tune verifies its {tail} (--budget" in text[0]
