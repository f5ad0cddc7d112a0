"""A profile from another machine is fitted to this one, with warnings."""

from pathlib import Path

import msgspec
import pytest

from tailcut.engines.base import EngineOptions
from tailcut.runtime.fit import fit_to_machine
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import IoSettings, Settings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"some bytes")
    return path


def test_threads_are_clamped_to_the_cpus_there_are(model: Path) -> None:
    """A profile for 8 CPUs runs on 2, with a warning; one CPU does not spin."""
    settings = Settings(engine=EngineOptions(threads=4, instances=2), io=IoSettings(busy_poll_us=100))
    fitted, warnings = fit_to_machine(Profile.of_model(model, settings), {}, 2)
    assert (fitted.settings.engine.threads, fitted.settings.engine.instances) == (2, 1)
    assert len(warnings) == 1
    fitted, warnings = fit_to_machine(Profile.of_model(model, settings), {}, 1)
    assert fitted.settings.io.busy_poll_us == 0
    assert len(warnings) == 2


def test_another_machine_is_a_warning(model: Path) -> None:
    """It runs all the same."""
    profile = msgspec.structs.replace(Profile.of_model(model), machine={"cpu": "old"})
    fitted, warnings = fit_to_machine(profile, {"cpu": "new"}, 2)
    assert fitted == profile
    assert "another machine" in warnings[0]
