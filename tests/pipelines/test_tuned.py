"""A pipeline with the settings of a profile: in place of those that it was written with."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tailcut import Model
from tailcut.engines.base import EngineOptions
from tailcut.errors import ProfileError
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.pipelines.model import PipelineModel, open_tuned, pipeline_profile, settings_of_all
from tailcut.pipelines.steps import StepOptions
from tailcut.pipelines.tuned import settings_of
from tailcut.runtime.pipeline_settings import PipelineSettings
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import IoSettings, MemorySettings, Settings
from tests.engines.models import perceptron
from tests.pipelines import samples


def written(folder: Path) -> PipelineSettings:
    path = parse_path(str(folder / "samples.py:pipeline"))
    return settings_of(load_pipeline(path), path)


def profile_of(folder: Path, settings: PipelineSettings) -> Profile:
    profile = pipeline_profile(str(folder / "samples.py:pipeline"))
    return msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, pipeline=settings))


def test_a_profile_sets_processes_batches_and_engines(folder: Path, tmp_path: Path) -> None:
    """Written, read again and opened: each step has what the profile says, and the answers are the same."""
    own = written(folder)
    tokenize, add_up = own.stages
    assert (tokenize.workers, tokenize.max_batch_size) == (1, 32)
    tokenize = msgspec.structs.replace(tokenize, workers=2, max_batch_size=4, max_queue_delay_us=300)
    (twice,) = own.models
    twice = msgspec.structs.replace(twice, engine=EngineOptions(threads=1), max_batch_size=8)
    file = folder / "texts.profile.toml"
    profile_of(folder, PipelineSettings(stages=(tokenize, add_up), models=(twice,))).save(file)
    assert 'path = "samples.py:pipeline"' in file.read_text()
    assert Profile.load(file).settings.describe(profile_of(folder, own).settings) == (
        "tokenize.workers=2 tokenize.max_batch_size=4 tokenize.max_queue_delay_us=300 "
        "twice.onnx.threads=1 twice.onnx.max_batch_size=8"
    )
    with Model.open(file) as model:
        assert isinstance(model, PipelineModel)
        first, second, _ = model.entry.steps
        assert first.engine is not None
        assert len(first.engine.pids) == 2
        batching = first.model.profile.settings.batching
        assert (batching.max_batch_size, batching.max_queue_delay_us) == (4, 300)
        assert second.model.profile.settings.engine.threads == 1
        assert second.model.profile.settings.batching.max_batch_size == 8
        answer = model.infer_sync({"text": np.array([b"ab", b"c"], object)})
    assert answer["sum"].tolist() == [samples.truth(b"ab"), samples.truth(b"c")]


def test_other_stages_or_models_are_one_line(folder: Path) -> None:
    """A profile is for the stages and the models that it was tuned with."""
    own = written(folder)
    fewer = msgspec.structs.replace(own, stages=own.stages[:1])
    with pytest.raises(ProfileError, match="its stages are tokenize, add_up, the profile has tokenize: tune it again"):
        open_tuned(profile_of(folder, fewer))
    other = msgspec.structs.replace(own, models=(msgspec.structs.replace(own.models[0], sha256="0"),))
    with pytest.raises(ProfileError, match=r"twice\.onnx has another SHA-256 than in the profile: tune it again"):
        open_tuned(profile_of(folder, other))


def test_cpus_that_there_are_not_are_not_pinned_to(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On another machine the profile still serves, and says what it leaves out."""
    own = written(folder)
    far = msgspec.structs.replace(own.stages[0], cpus=(4095,))
    with open_tuned(profile_of(folder, msgspec.structs.replace(own, stages=(far, own.stages[1])))) as model:
        assert model.infer_sync({"text": np.array([b"ab"], object)})["sum"].tolist() == [samples.truth(b"ab")]
    assert "stage 'tokenize': not pinned" in caplog.text


def test_what_the_profiles_of_steps_ask_of_the_process(tmp_path: Path) -> None:
    """A pipeline asks for what any of them does; what belongs to a model's own rows stays with it."""
    model = perceptron([4, 4], tmp_path / "m.onnx")
    first = Settings(
        engine=EngineOptions(threads=3),
        memory=MemorySettings(keep_freed=True, huge_pages=True),
        io=IoSettings(wire="raw", workers=2, direct_bytes=1000),
    )
    second = Settings(
        memory=MemorySettings(allocator="jemalloc", gc_freeze=True), io=IoSettings(fast_path=False, busy_poll_us=50)
    )
    for name, settings in (("first", first), ("second", second)):
        Profile.of_model(model, settings).save(tmp_path / f"{name}.toml")
    steps = "['first.toml', 'm.onnx', 'second.toml']"
    (tmp_path / "p.py").write_text(f"from tailcut import Pipeline\n\npipeline = Pipeline('p', {steps})\n")
    source = f"{tmp_path}/p.py:pipeline"
    profile = pipeline_profile(source)
    assert profile.settings.memory == MemorySettings(allocator="jemalloc", keep_freed=True, gc_freeze=True)
    assert profile.settings.io == IoSettings(wire="raw", workers=2, direct_bytes=1000, fast_path=False, busy_poll_us=50)
    assert settings_of_all(source) == [profile.settings, first, second]
    path = parse_path(source)
    own = settings_of(load_pipeline(path), path)
    tuned = msgspec.structs.replace(own.models[1], engine=EngineOptions(threads=2))
    own = msgspec.structs.replace(own, models=(own.models[0], tuned, own.models[2]))
    settings = msgspec.structs.replace(profile.settings, pipeline=own)
    result = settings_of_all(msgspec.structs.replace(profile, settings=settings))
    assert result == [settings, Settings(engine=EngineOptions(threads=2)), first, second]


def test_a_model_that_has_changed_is_accepted_where_its_tensors_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the settings of the profile and a warning; it is refused otherwise, and with other tensors always."""
    model = perceptron([4, 8, 3], tmp_path / "m.onnx")
    (tmp_path / "p.py").write_text("from tailcut import Pipeline\n\npipeline = Pipeline('p', ['m.onnx'])\n")
    source = f"{tmp_path}/p.py:pipeline"
    path = parse_path(source)
    (own,) = settings_of(load_pipeline(path), path).models
    own = msgspec.structs.replace(own, engine=EngineOptions(threads=1), max_batch_size=5)
    profile = pipeline_profile(source)
    settings = msgspec.structs.replace(profile.settings, pipeline=PipelineSettings(models=(own,)))
    msgspec.structs.replace(profile, settings=settings).save(tmp_path / "p.toml")
    profile, accepting = Profile.load(tmp_path / "p.toml"), StepOptions(accept_model_change=True)
    perceptron([4, 9, 3], model)
    with pytest.raises(ProfileError, match=r"another SHA-256 .* tune it again, or serve it with --accept-model-change"):
        open_tuned(profile)
    assert "not proven" not in caplog.text
    with open_tuned(profile, options=accepting) as opened:
        assert opened.entry.steps[0].model.profile.settings.batching.max_batch_size == 5
    assert "p: m.onnx is not the file that the profile was measured on" in caplog.text
    perceptron([4, 9, 2], model)
    with pytest.raises(ProfileError, match="its inputs and outputs are not those of the profile"):
        open_tuned(profile, options=accepting)
