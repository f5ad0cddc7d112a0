"""How the settings of a pipeline's steps are told, and read from a profile."""

from pathlib import Path

import pytest

from tailcut.engines.base import EngineOptions
from tailcut.errors import ProfileError
from tailcut.runtime.pipeline_settings import PipelineSettings, StageSettings, StepModelSettings
from tailcut.runtime.profile import ModelRef, Profile, is_pipeline
from tailcut.runtime.settings import Settings

STAGE = StageSettings(name="tokenize", workers=2, cpus=(0, 1))
MODEL = StepModelSettings(file="m.onnx", sha256="0", engine=EngineOptions(threads=3), max_batch_size=4)


def test_differences_are_named_by_step() -> None:
    """From the defaults, or from other settings; a model without an engine of its own has nothing to tell."""
    settings = PipelineSettings(stages=(STAGE,), models=(MODEL,))
    assert settings.describe() == "tokenize.workers=2 tokenize.cpus=0,1 m.onnx.threads=3 m.onnx.max_batch_size=4"
    assert settings.describe(settings) == ""
    assert PipelineSettings(models=(StepModelSettings(file="m.toml", sha256="0"),)).describe() == ""
    assert Settings(pipeline=settings).describe(Settings(pipeline=PipelineSettings(models=(MODEL,)))) == (
        "tokenize.workers=2 tokenize.cpus=0,1"
    )


def test_a_number_out_of_range_is_refused(tmp_path: Path) -> None:
    """As in @stage, in one line."""
    stage = StageSettings(name="tokenize", workers=999)
    ref = ModelRef(path=str(tmp_path / "embed.py:pipeline"), sha256="0", name="embed")
    profile = Profile(model=ref, settings=Settings(pipeline=PipelineSettings(stages=(stage,))))
    assert profile.is_of_pipeline
    profile.save(tmp_path / "p.toml")
    with pytest.raises(ProfileError, match="pipeline: tokenize: workers is 999, must be 1 to 256"):
        Profile.load(tmp_path / "p.toml")


@pytest.mark.parametrize(
    ("source", "yes"), [("embed.py:pipeline", True), ("a/b.py", True), ("m.onnx", False), ("m.profile.toml", False)]
)
def test_what_names_a_pipeline(source: str, yes: bool) -> None:
    """A Python file, with the variable or without it, which is a mistake that pipelines tell."""
    assert is_pipeline(source) is yes
