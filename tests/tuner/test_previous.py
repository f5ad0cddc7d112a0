"""Settings of a profile that is checked again, beside the limits of `--cpus` and `--memory`."""

from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.tuner.results import printed

from tailcut.machine.quota import usable_cpus
from tailcut.report.tune_words import retune_words
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.claims import arms_verified
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.objective import Constraints
from tailcut.tuner.previous import over_limits
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.selection import Selection
from tailcut.tuner.session import open_session
from tailcut.tuner.space import BASELINE, changed

ONE = changed(BASELINE, engine={"threads": 1})
TWO = changed(ONE, engine={"instances": 2})
KNOWN = [
    PredictedConfiguration(ONE, 1.0, 1.0, 1.0, 100_000_000),
    PredictedConfiguration(TWO, 1.0, 1.0, 1.0, 200_000_000),
]


@pytest.mark.parametrize(
    ("settings", "cpus", "memory_mb", "words"),
    [
        (ONE, 1, 150, ""),
        (TWO, 2, None, ""),
        (TWO, 1, None, "it uses 2 CPUs, and --cpus allows 1"),
        (changed(ONE, io={"workers": 4}), 2, None, "it uses 4 CPUs, and --cpus allows 2"),
        (changed(ONE, engine={"threads": 0}), 2, None, "it uses 8 CPUs, and --cpus allows 2"),
        (TWO, None, 150, "it needs about 200 MB, and --memory allows 150"),
        (changed(TWO, engine={"spinning": False}), None, 150, "it needs about 200 MB, and --memory allows 150"),
        (changed(ONE, engine={"static_buckets": True}), None, 150, "it holds the weights more than once"),
        (changed(ONE, engine={"name": "openvino"}), None, 50, ""),
    ],
)
def test_limits(settings: Settings, cpus: int | None, memory_mb: int | None, words: str) -> None:
    """Threads of all instances and processes, and the estimate of the engine; what is not known is no reason."""
    constraints = Constraints(None if memory_mb is None else memory_mb * 1_000_000, cpus)
    result = over_limits(settings, constraints, KNOWN, 8)
    assert result.startswith(words)
    assert bool(result) == bool(words)


def test_settings_over_the_limits_do_not_race(tmp_path: Path) -> None:
    """They are not verified either; the result and its words have the reason."""
    path = perceptron([4, 8], tmp_path / "m.onnx")
    before = changed(BASELINE, engine={"threads": usable_cpus() + 1}, batching={"bind": False})
    wanted = TuneRequest(path, slo_ms=50.0, previous=Profile.of_model(path, before), constraints=Constraints(cpus=1))
    session = open_session(wanted, lambda event: None)
    space = ModelSpace(session)
    space.close()
    allowed = session.allowed([PredictedConfiguration(ONE, 1.0, 1.0, 1.0, 0)])
    assert Selection(session, space).chosen(allowed) == [ONE]
    assert "previous" not in arms_verified(session)
    result = printed(session.outcome)
    assert result.retune is not None
    assert result.retune.unserved == f"it uses {usable_cpus() + 1} CPUs, and --cpus allows 1"
    assert retune_words(result).endswith(result.retune.unserved)
