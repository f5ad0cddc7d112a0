"""What is to be tuned: a profile that is re-checked keeps to the model repository that its model lies in."""

from pathlib import Path
from typing import Any

import pytest
from tests.engines.models import perceptron
from tests.triton.repositories import add_model

from tailcut.cli.main import main
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.space import changed


def retuned(model: Path, monkeypatch: pytest.MonkeyPatch) -> TuneRequest:
    """What a tune is asked for that re-checks a profile of this model, whose batches have up to 32 rows."""
    asked: list[TuneRequest] = []

    def take(wanted: TuneRequest, *_: Any, **__: Any) -> None:
        asked.append(wanted)

    monkeypatch.setattr("tailcut.cli.tune.tune_one", take)
    monkeypatch.setattr("tailcut.lab.compiled.prepare_servers", lambda: None)
    profile = model.with_name("kept.profile.toml")
    Profile.of_model(model, changed(Settings(), batching={"max_batch_size": 32})).save(profile)
    assert main(["tune", "--retune", str(profile)]) == 0
    return asked[0]


@pytest.mark.parametrize("nested", [False, True])
def test_a_profile_of_a_repository_keeps_its_largest_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    """The search has the bound of `config.pbtxt`, and so have the settings that it is compared with."""
    model = add_model(tmp_path, "one") / "1" / "model.onnx"
    if nested:  # a folder for a model with external weights
        (model.parent / "files").mkdir()
        model = model.rename(model.parent / "files" / "model.onnx")
        model.parent.rename(model.parents[1] / "model.onnx")
        model = model.parents[1] / "model.onnx" / "model.onnx"
    wanted = retuned(model, monkeypatch)
    assert wanted.max_batch_size == 8
    assert wanted.previous_settings is not None
    assert wanted.previous_settings.batching.max_batch_size == 8


@pytest.mark.parametrize("more", ["", "max_batch_size: 0"])
def test_a_profile_elsewhere_has_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    """Without a configuration beside the versions, or where that says none."""
    (tmp_path / "1").mkdir()
    if more:
        (tmp_path / "config.pbtxt").write_text(more)
    wanted = retuned(perceptron([16, 4], tmp_path / "1" / "m.onnx"), monkeypatch)
    assert wanted.max_batch_size is None
    assert wanted.previous_settings is not None
    assert wanted.previous_settings.batching.max_batch_size == 32
