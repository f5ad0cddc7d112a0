"""Settings: each value has limits, and a summary names those that differ."""

from pathlib import Path

import pytest

from tailcut.engines.base import EngineOptions
from tailcut.errors import ProfileError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"some bytes")
    return path


@pytest.mark.parametrize(
    ("section", "text", "reason"),
    [
        ("engine", "threads = -1", "threads"),
        ("engine", 'name = "triton"', "name"),
        ("engine", "colour = 1", "colour"),
        ("batching", 'max_queue_delay_us = 5\ndispatch = "inline"', "max_queue_delay_us"),
        ("io", "busy_poll_us = 99999999", "busy_poll_us"),
    ],
)
def test_settings_out_of_bounds(model: Path, tmp_path: Path, section: str, text: str, reason: str) -> None:
    """An unknown or impossible setting is named."""
    path = tmp_path / "p.toml"
    Profile.of_model(model).save(path)
    lines = [line for line in path.read_text().splitlines() if line.split(" =")[0] not in text]
    at = lines.index(f"[settings.{section}]") + 1
    path.write_text("\n".join([*lines[:at], text, *lines[at:]]))
    with pytest.raises(ProfileError, match=reason):
        Profile.load(path)


def test_describe_names_what_differs() -> None:
    """Only what was turned is shown."""
    settings = Settings(engine=EngineOptions(threads=2), batching=BatchingSettings(max_batch_size=8))
    assert settings.describe() == "engine.threads=2 batching.max_batch_size=8"
