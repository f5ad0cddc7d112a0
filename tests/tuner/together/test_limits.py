"""A combination that the verification proves worse than the engines' defaults is not kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tests.engines.models import perceptron
from tests.report.test_together_page import result as made_up
from tests.tuner.results import INDEPENDENT
from tests.tuner.test_worse import runs

from tailcut.lab.arrivals import Poisson
from tailcut.report.html import render_together_html
from tailcut.report.together_page import headline, together_summary
from tailcut.runtime.profile import Profile
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.together.limits import proven_worse
from tailcut.tuner.together.records import JointOutcome, JointSide, JointWanted
from tailcut.tuner.together.result import joint_evidence, joint_result
from tailcut.tuner.together.result_records import JointRequest
from tailcut.tuner.together.search import JointSearch

TUNED = changed(BASELINE, engine={"threads": 1})


def side(name: str, tail: float, limit_ms: float = 100.0, *, profile: Any = None) -> JointSide:
    """Of a model whose p99 with the defaults is about 2.6 ms, with such a ratio to it."""
    item = JointSide(name, Poisson(100.0), limit_ms, limit_ms, ["x"], ["y"], INDEPENDENT, BASELINE, profile)
    item.runs = {"baseline": runs(1.0, 100.0, 1), "tuned": runs(tail, 100.0, 2)}
    return item


@pytest.mark.parametrize(
    ("sides", "reason"),
    [
        ([side("a", 2.0), side("b", 2.0)], "a p99 x"),
        ([side("a", 2.0), side("b", 0.5)], ""),
        ([side("a", 2.0), side("b", 1.0)], ""),
        ([side("a", 2.0, 4.0), side("b", 0.5)], "the p99 of a is over its limit of 4 ms, which the defaults meet"),
        ([side("a", 2.0, 1.0), side("b", 0.5)], ""),
    ],
)
def test_what_is_proven_worse(sides: list[JointSide], reason: str) -> None:
    """A longer tail for every model, or a limit that is missed and was met; a longer tail for one is a price."""
    result = proven_worse(sides, 0)
    assert result.startswith(reason)
    assert bool(result) == bool(reason)
    assert not reason.startswith("a p99") or "; b p99 x" in result


@pytest.mark.slow
@pytest.mark.parametrize("tail", [2.0, 0.5])
def test_the_profiles_hold_the_defaults_instead(tmp_path: Path, tail: float) -> None:
    """The tune, the result, the evidence, the terminal and the page say so."""
    text: list[str] = []
    paths = [perceptron([4, 8], tmp_path / f"{name}.onnx") for name in "ab"]
    models = tuple(TuneRequest(path, slo_ms=100.0) for path in paths)
    search = JointSearch(
        JointWanted(models, (Poisson(100.0), Poisson(100.0))), lambda event: text.append(getattr(event, "text", ""))
    )
    sides = [side(path.stem, tail, profile=Profile.of_model(path, TUNED)) for path in paths]
    servers: Any = SimpleNamespace(
        profile=lambda settings: Profile.of_model(paths[0], settings), copy_of=lambda engine: None
    )
    search._surveys = [SimpleNamespace(baseline=BASELINE, servers=servers) for _ in paths]  # type: ignore[misc]
    search._outcome = JointOutcome(sides)
    search._best = (TUNED, TUNED)
    search._take_back()
    search._take_profiles()
    kept = tail < 1
    assert [item.unchanged for item in sides] == [not kept] * 2
    asked = made_up().objective
    objective = {name: getattr(asked, name) for name in JointRequest.__struct_fields__}
    result = joint_result(search._outcome, machine={}, objective=JointRequest(**objective), command="tailcut tune")
    evidence = joint_evidence(result, 0)
    console = Console(width=300, record=True)
    console.print(together_summary(result))
    shown = console.export_text()
    page = render_together_html(result)
    if kept:
        assert (text, result.not_kept, result.models[0].not_kept) == ([], None, None)
        assert evidence["tuned"] != evidence["baseline"]
        assert "p99_ratio" in evidence
        assert "not kept" not in shown + page
        return
    assert len(text) == 1
    assert "is not kept: a p99 x" in text[0]
    assert result.not_kept is not None
    assert (result.not_kept.kept, result.models[1].not_kept) == ("baseline", "engine.threads=1")
    assert evidence["tuned"] == evidence["baseline"]
    assert "p99_ratio" not in evidence
    assert headline(result)[0] == "Not kept"
    assert "The settings found are proven worse: a p99 x" in shown
    assert "b: not kept: engine.threads=1" in shown
    assert "The settings found are proven worse: a p99 x" in page
