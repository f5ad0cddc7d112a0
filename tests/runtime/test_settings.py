"""Settings: each value has limits, and a summary names those that differ."""

from pathlib import Path

import pytest

from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.errors import ProfileError
from tailcut.runtime.pipeline_settings import PipelineSettings, StepModelSettings
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings


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
        ("engine.cuda", "slots = -1", r"engine\.cuda\.slots"),
        ("engine.cuda", "buckets = []", r"engine\.cuda\.buckets"),
        ("engine.cuda", "buckets = [8, 4]", r"engine\.cuda\.buckets"),
        ("engine.cuda", "buckets = [1, 99999999]", r"engine\.cuda\.buckets"),
        ("engine.cuda", 'buckets = "some"', r"engine\.cuda\.buckets"),
        ("engine.cuda", 'graph_memory = "none"', "graph_memory"),
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


def test_settings_of_a_device_are_named_one_by_one() -> None:
    """Not all of them, where one was turned; against other settings as against the defaults."""
    some = Settings(engine=EngineOptions(device="cuda", cuda=CudaOptions(graphs=False, buckets=(3, 6))))
    assert some.describe() == "engine.device=cuda engine.cuda.graphs=False engine.cuda.buckets=3,6"
    other = Settings(engine=EngineOptions(device="cuda", cuda=CudaOptions(graphs=False, slots=1)))
    assert other.describe(some) == "engine.cuda.buckets=auto engine.cuda.slots=1"


def test_settings_of_a_device_are_in_the_profile(model: Path, tmp_path: Path) -> None:
    """Each as it was written."""
    cuda = CudaOptions(
        index=1,
        graphs=False,
        buckets=(3, 6),
        slots=1,
        pinned=False,
        graph_memory="shared",
        caching=False,
        memory_limit_mb=512,
        conv_search="exhaustive",
    )
    settings = Settings(engine=EngineOptions(device="cuda", cuda=cuda))
    for item in (settings, Settings()):
        Profile.of_model(model, item).save(tmp_path / "p.toml")
        assert Profile.load(tmp_path / "p.toml").settings == item


def test_devices_by_other_indices() -> None:
    """Of all engines that are on one; the others stay as they are."""

    def engine(index: int, device: str = "cuda") -> EngineOptions:
        return EngineOptions(device=device, cuda=CudaOptions(index=index))

    def settings(*engines: EngineOptions) -> Settings:
        models = (StepModelSettings(file="a", sha256="x", engine=engines[2]), StepModelSettings(file="b", sha256="x"))
        batching = BatchingSettings(second=SecondEngine(engine=engines[1]))
        return Settings(engine=engines[0], batching=batching, pipeline=PipelineSettings(models=models))

    given = settings(engine(5), engine(2, "cpu"), engine(2))
    assert given.devices == {2, 5}
    assert given.among((2, 5)) == settings(engine(1), engine(2, "cpu"), engine(0))
    assert Settings().among(()) == Settings()
