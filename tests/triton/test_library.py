"""What the command line says of all models of a repository holds for each, over its configuration and its profile."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from tests.triton.repositories import add_model

from tailcut.cli.choices import AlsoCpuChoice, BatchingChoice, DeviceChoice
from tailcut.cli.serving.model_repository import wishes_of
from tailcut.cli.serving.sources import SourceReader
from tailcut.engines.base import EngineOptions
from tailcut.engines.cuda.provider import missing_provider
from tailcut.errors import UnsupportedError, UsageError
from tailcut.runtime.limits import Limits
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.triton.library import Library, Wishes

PROFILE = Profile(
    model=ModelRef(path="m.onnx", sha256="0" * 64, name="m"),
    settings=Settings(engine=EngineOptions(threads=2), batching=BatchingSettings(max_batch_size=8)),
)


@pytest.mark.parametrize(
    ("wishes", "section", "name", "value"),
    [
        ({}, "engine", "device", "cpu"),
        ({"device": "cuda"}, "engine", "device", "cuda"),
        ({"max_batch_size": 4}, "batching", "max_batch_size", 4),
        ({"max_batch_size": 16}, "batching", "max_batch_size", 8),
        ({"batching": "off"}, "batching", "rows", "dependent"),
    ],
)
def test_wishes_replace_what_profiles_say(wishes: dict[str, Any], section: str, name: str, value: object) -> None:
    """But no batch grows beyond what a configuration allows."""
    applied = Wishes(Limits(), **wishes).applied(PROFILE)
    assert getattr(getattr(applied.settings, section), name) == value


def test_the_cpu_beside_a_device() -> None:
    """The model once more on the CPU; without a device, one line says so."""
    second = Wishes(Limits(), device="cuda", also_cpu="fallback").applied(PROFILE).settings.batching.second
    assert second is not None
    assert (second.use, second.engine.device) == ("fallback", "cpu")
    with pytest.raises(UsageError, match="--also-cpu route: m is on the CPU already"):
        Wishes(Limits(), also_cpu="route").applied(PROFILE)


def test_every_flag_of_the_command_line_is_a_wish() -> None:
    """As it is of a SOURCE."""
    reader = SourceReader(
        None, 4, BatchingChoice.ON, DeviceChoice.CUDA, accept_model_change=False, also_cpu=AlsoCpuChoice.ROUTE
    )
    found = wishes_of(reader, Limits(), measures=False)
    assert found == Wishes(Limits(), "on", measures=False, device="cuda", also_cpu="route", max_batch_size=4)


def test_models_are_opened_so(tmp_path: Path) -> None:
    """The largest batch in the model itself; a device that is not there is the reason why a model is not."""
    add_model(tmp_path, "simple")
    [one] = Library(tmp_path, Wishes(Limits(), measures=False, max_batch_size=2)).load("simple", 1)
    with one.model as model:
        assert model.entry.max_batch_size == 2
    if missing_provider(ort.__version__, ort.get_available_providers()):
        with pytest.raises(UnsupportedError, match="device cuda: onnxruntime"):
            Library(tmp_path, Wishes(Limits(), measures=False, device="cuda")).load("simple", 1)
