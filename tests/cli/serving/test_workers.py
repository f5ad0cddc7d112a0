"""How many worker processes a command line and its profiles ask for."""

from pathlib import Path

import pytest
from tests.engines.models import perceptron

from tailcut.cli.serving.sources import Source
from tailcut.cli.serving.workers import count, need_shareable
from tailcut.engines.base import EngineOptions
from tailcut.errors import UsageError
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import IoSettings, Settings


@pytest.fixture
def tuned(tmp_path: Path) -> Source:
    """A profile that was measured with more workers than there are CPUs, and with an engine that takes all of them."""
    cpus = usable_cpus()
    settings = Settings(engine=EngineOptions(threads=cpus), io=IoSettings(workers=cpus + 1))
    Profile.of_model(perceptron([4, 8, 3], tmp_path / "m.onnx"), settings).save(tmp_path / "m.toml")
    return Source(str(tmp_path / "m.toml"))


def test_the_number_of_workers(tuned: Source, caplog: pytest.LogCaptureFixture) -> None:
    """What is asked for; else the profile's, no more than the CPUs; auto divides the CPUs by an engine's threads."""
    assert count("3", tuned.settings()) == 3
    assert count("auto", tuned.settings()) == 1
    assert count("auto", Source("bare.onnx").settings()) == usable_cpus()
    assert count(None, Source("bare.onnx").settings()) == 1
    assert count(None, tuned.settings()) == usable_cpus()
    assert f"measured with {usable_cpus() + 1} workers" in caplog.text


@pytest.mark.parametrize("text", ["0", "1025", "-1", "many", "1.5", ""])
def test_a_number_out_of_bounds_is_refused(text: str) -> None:
    """The message names the bounds."""
    with pytest.raises(UsageError, match="from 1 to 1024 or auto"):
        count(text, [])


def test_workers_share_only_their_port() -> None:
    """An option that needs one process is refused beside several."""
    need_shareable(needs_one=False)
    with pytest.raises(UsageError, match="several workers share only their port"):
        need_shareable(needs_one=True)
