"""What the climb remembers from one candidate to the next."""

import pytest

from tailcut.lab.trial import ServeError
from tailcut.tuner.climb import Climb
from tailcut.tuner.rungs import Candidate, changed, starting_settings

BEST = starting_settings()


def candidate(**engine: object) -> Candidate:
    settings = changed(BEST, engine=engine)
    return Candidate(settings.describe(BEST), settings)


def test_an_engine_that_cannot_load_the_model_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other candidates are rejected for the same reason; engines that fail otherwise are started each time."""
    climb = Climb.__new__(Climb)  # without a model: nothing of it is reached
    climb._unloadable = {}
    climb._wanted = type("Wanted", (), {"wire": "any"})()
    started = []
    reasons = {"openvino": "m.onnx: openvino cannot load it: it has no operator X", "onnxruntime": "no memory"}

    def arm(settings, wire=None):
        if settings == BEST:
            return
        started.append(settings.engine.name)
        raise ServeError(reasons[settings.engine.name])

    monkeypatch.setattr(climb, "_arm", arm)
    for one in (
        candidate(name="openvino"),
        candidate(name="openvino", precision="bf16"),
        candidate(threads=1),
        candidate(threads=2),
    ):
        entry, keep = climb._try(BEST, one, 5.0)
        assert not keep
        assert entry["verdict"] == "rejected"
        assert entry["reason"] == reasons[one.settings.engine.name]
    assert started == ["openvino", "onnxruntime", "onnxruntime"]
