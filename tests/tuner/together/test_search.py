"""What a joint tune says before it searches, and how long its race takes."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.tuner.test_verification import Clock

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.arrivals import Poisson
from tailcut.lab.load import as_rows, failed_result, summarise
from tailcut.stats import samples_needed
from tailcut.tuner import racing
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.race import QUANTILES
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.together import search as together_search
from tailcut.tuner.together.limits import limit_of, within_reach
from tailcut.tuner.together.records import JointWanted
from tailcut.tuner.together.search import JointSearch
from tailcut.tuner.together.selection import Combination, ExpectedCombination

TWO = changed(BASELINE, engine={"threads": 2})


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
    assert [line.split(":")[0] for line in text if "the baseline sustains" in line] == ["one", "two"]
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


@pytest.mark.parametrize(("rate", "heats"), [(0.1, 1), (5.0, 2)])
def test_a_race_with_a_seldom_asked_model_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, heats: int
) -> None:
    """Where a block with ten of its requests takes longer than the budget has, blocks still compare the other."""
    models = tuple(TuneRequest(tmp_path / f"{name}.onnx", budget_s=20.0, began=0.0) for name in ("one", "two"))
    wanted = JointWanted(models, (Poisson(100.0), Poisson(rate)), budget_s=20.0, began=0.0)
    search, clock, combinations = JointSearch(wanted, lambda _: None), Clock(6.0), [(BASELINE,) * 2, (TWO,) * 2]
    blocks: list[Any] = []

    def loaded(combination: Combination, seconds: float, seed: int) -> list[Any]:
        clock.spend(seconds)
        blocks.append(combination)
        ms = 1.0 if combination == combinations[1] else 2.0
        counts = [int(seconds * arrival.rate) for arrival in wanted.arrivals]
        return [SimpleNamespace(samples=n, errors={}, latencies_ns=np.full(n, ms * 1e6)) for n in counts]

    for module in (together_search, racing):
        monkeypatch.setattr(module, "time", clock)
    for name, stand_in in {
        "_enter": lambda _: combinations,
        "_store": lambda *_: None,
        "_candidate": lambda *_: None,
        "_servers": SimpleNamespace(start_s=0.5, loaded=loaded, has_ended=lambda _: False),
    }.items():
        monkeypatch.setattr(search, name, stand_in)
    sides: Any = [SimpleNamespace(name=name, limit_ms=10.0) for name in ("one", "two")]
    search._outcome.sides = sides
    search._race([])
    assert search._best == combinations[1]
    assert len(blocks) == 2 * heats
    assert clock.now <= search._plan.explain_until + 0.01


@pytest.mark.parametrize(("left_s", "enter"), [(100.0, True), (12.0, False)])
def test_the_defaults_race_where_more_than_two_combinations_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_s: float, enter: bool
) -> None:
    """They can win, as in a tune of one model; in a short race their place is that of a combination."""
    models = tuple(TuneRequest(tmp_path / f"{name}.onnx", slo_ms=50.0) for name in ("one", "two"))
    search = JointSearch(JointWanted(models, (Poisson(50.0),) * 2, budget_s=100.0), lambda _: None)
    surveys: list[Any] = [SimpleNamespace(baseline=BASELINE)] * 2
    search._surveys = surveys
    entered: list[Combination] = []

    def enter_all(chosen: list[Combination]) -> list[Combination]:
        entered.extend(chosen)
        return []

    monkeypatch.setattr(search, "_enter", enter_all)
    monkeypatch.setattr(search, "_servers", SimpleNamespace(start_s=0.5))
    search._plan.began = time.monotonic() - 100.0 + left_s
    options = [changed(TWO, batching={"dispatch": dispatch}) for dispatch in ("inline", "worker", "adaptive")]
    search._outcome.alone = (options[0],) * 2
    search._race([ExpectedCombination((own, TWO), (1.0, 1.0), 1.0) for own in options])
    assert (search._baseline in entered) == enter
    assert len(entered) >= 2


def test_a_rate_that_no_model_comes_near_to_is_refused() -> None:
    """As in a tune of one model: over twice what the best configuration is expected to sustain alone."""
    within_reach("mlp", 10_000.0, 5_000.0)
    with pytest.raises(UsageError, match=r"^mlp: no .* more than 5e\+03 req/s .* a lower rate than 10,001$"):
        within_reach("mlp", 10_001.0, 5_000.0)


def test_a_model_without_requests_has_the_limit_that_it_has_alone() -> None:
    """At a tenth of a request per second two seconds have none; that is no failure of the engine's defaults."""
    assert (
        limit_of(summarise(as_rows([]), mode="open", duration_s=2.0, rate_offered=0.1, concurrency=1), "m", 4.5) == 4.5
    )
    with pytest.raises(
        TailcutError, match=r"m: no request succeeded with the engine's default settings: \{'connection"
    ):
        limit_of(failed_result("open", 2.0, 1, 0.1), "m", 4.5)


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


def test_a_late_joint_tune_says_what_took_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a tune of one model does, with the phases that it has; one in time says nothing."""
    models = tuple(TuneRequest(tmp_path / f"{name}.onnx", slo_ms=50.0) for name in ("one", "two"))
    text: list[str] = []
    for budget_s in (40.0, 80.0):
        wanted = JointWanted(models, (Poisson(50.0),) * 2, budget_s=budget_s, began=time.monotonic() - 60.0)
        search = JointSearch(wanted, lambda event: text.append(getattr(event, "text", "")))
        for phase in ("_survey", "_measure_limits", "_simulate", "_verify", "_take_back"):
            monkeypatch.setattr(search, phase, lambda: None)
        monkeypatch.setattr(search, "_race", lambda _: None)
        search.run()
    (late,) = [line for line in text if line.startswith("the tune took")]
    assert re.fullmatch(r"the tune took 60 s with --budget 40s: longer than planned were the surveys .* \d+ s", late)
