"""What a process that runs all steps gets from the server: the settings of a profile, and a check of the steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from tailcut import Model
from tailcut.engines.base import EngineOptions
from tailcut.errors import UsageError
from tailcut.pipelines.chain_loading import chain_source, open_chain
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.pipelines.model import pipeline_profile
from tailcut.pipelines.tuned import settings_of
from tailcut.runtime.limits import Limits
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tests.pipelines import samples
from tests.pipelines.test_loading import HEAD, STAGE


def test_a_profile_may_put_all_steps_into_processes(folder: Path, tmp_path: Path) -> None:
    """With the settings of its stages and models; the pipeline as written runs each step by itself."""
    source = f"{folder}/samples.py:pipeline"
    path = parse_path(source)
    own = settings_of(load_pipeline(path), path)
    models = (msgspec.structs.replace(own.models[0], engine=EngineOptions(threads=1), max_batch_size=8),)
    stages = (msgspec.structs.replace(own.stages[0], max_batch_size=4), own.stages[1])
    tuned = msgspec.structs.replace(own, processes=2, stages=stages, models=models)
    profile = pipeline_profile(source)
    profile = msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, pipeline=tuned))
    profile.save(tmp_path / "texts.profile.toml")
    assert "processes = 2" in (tmp_path / "texts.profile.toml").read_text()
    loaded = Profile.load(tmp_path / "texts.profile.toml")
    base = msgspec.structs.replace(profile.settings, pipeline=own)
    assert loaded.settings.describe(base).split()[0] == "processes=2"
    with Model.open(tmp_path / "texts.profile.toml") as model:
        (step,) = model.entry.steps  # type: ignore[attr-defined]
        assert step.describe() == "tokenize+twice+add_up (processes: 2, at most 4 requests)"
        assert len(step.engine.pids) == 2
        assert [neighbour.model.name for neighbour in model.entry.step_profiles()] == ["twice"]  # type: ignore[union-attr]
        answer = model.infer_sync({"text": np.array([b"ab", b"c"], object)})
    assert answer["sum"].tolist() == [samples.truth(b"ab"), samples.truth(b"c")]


def test_a_process_refuses_other_steps_than_the_server_loaded(tmp_path: Path) -> None:
    """The file has changed between the two; the message says what to do."""
    file = tmp_path / "p.py"
    file.write_text(HEAD + STAGE + "pipeline = Pipeline('p', [f], processes=1)\n")
    path = parse_path(f"{file}:pipeline")
    source, spec = chain_source(load_pipeline(path), path, [], Limits())
    assert spec.name == "p"
    assert open_chain(path, source.signature, source.models).stage.name == "f"
    file.write_text(HEAD + STAGE.replace('"y": "FP32"', '"y": "FP32[2]"') + "pipeline = Pipeline('p', [f])\n")
    with pytest.raises(UsageError, match="its steps have changed since it was loaded: reload it"):
        open_chain(path, source.signature, source.models)


def test_a_model_on_a_device_stays_in_the_server(folder: Path) -> None:
    """Each process would load it there again."""
    path = parse_path(f"{folder}/samples.py:pipeline")
    settings = Settings(engine=EngineOptions(name="torch", device="cuda"), batching=BatchingSettings(bind=False))
    profile = msgspec.structs.replace(pipeline_profile(str(path)), settings=settings)
    model: Any = SimpleNamespace(profile=profile, spec=SimpleNamespace(name="twice"))
    with pytest.raises(UsageError, match="model 'twice' runs on a device, which processes do not share"):
        chain_source(load_pipeline(path), path, [model], Limits())
