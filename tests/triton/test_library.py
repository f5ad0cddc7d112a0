"""What the command line says of all models of a repository holds for each, over its configuration and its profile."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from tests.engines.models import scaled_free
from tests.triton.repositories import add_model

from tailcut import Model
from tailcut.cli.choices import AlsoCpuChoice, BatchingChoice, DeviceChoice
from tailcut.cli.serving.model_repository import overrides_of
from tailcut.cli.serving.sources import SourceReader
from tailcut.engines.base import EngineOptions
from tailcut.engines.cuda.provider import missing_provider
from tailcut.errors import TooLargeError, UnsupportedError, UsageError
from tailcut.runtime.limits import Limits, within_memory
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.limits import too_large
from tailcut.triton import library as library_module
from tailcut.triton.library import Library, Overrides, newest_of

DATA = Path(__file__).parent.parent / "data" / "models"  # made by scripts/make_model_files.py
PROFILE = Profile(
    model=ModelRef(path="m.onnx", sha256="0" * 64, name="m"),
    settings=Settings(engine=EngineOptions(threads=2), batching=BatchingSettings(max_batch_size=8)),
)


@pytest.mark.parametrize(
    ("options", "section", "name", "value"),
    [
        ({}, "engine", "device", "cpu"),
        ({"device": "cuda"}, "engine", "device", "cuda"),
        ({"max_batch_size": 4}, "batching", "max_batch_size", 4),
        ({"max_batch_size": 16}, "batching", "max_batch_size", 8),
        ({"batching": "off"}, "batching", "rows", "dependent"),
    ],
)
def test_options_replace_what_profiles_say(options: dict[str, Any], section: str, name: str, value: object) -> None:
    """But no batch grows beyond what a configuration allows."""
    applied = Overrides(Limits(), **options).applied(PROFILE)
    assert getattr(getattr(applied.settings, section), name) == value


def test_the_cpu_beside_a_device() -> None:
    """The model once more on the CPU; without a device, one line says so."""
    second = Overrides(Limits(), device="cuda", also_cpu="fallback").applied(PROFILE).settings.batching.second
    assert second is not None
    assert (second.use, second.engine.device) == ("fallback", "cpu")
    with pytest.raises(UsageError, match="--also-cpu route: m is on the CPU already"):
        Overrides(Limits(), also_cpu="route").applied(PROFILE)


def test_every_flag_of_the_command_line_is_a_wish() -> None:
    """As it is of a SOURCE."""
    reader = SourceReader(
        None, 4, BatchingChoice.ON, DeviceChoice.CUDA, accept_model_change=False, also_cpu=AlsoCpuChoice.ROUTE
    )
    result = overrides_of(reader, Limits(), queue=64, measures=False)
    assert result == Overrides(
        Limits(), "on", measures=False, device="cuda", also_cpu="route", max_batch_size=4, queue_rows=64
    )


@pytest.mark.parametrize(
    ("queue", "rows", "setting"), [(None, 16, "max_queue_size in config.pbtxt"), (64, 64, "--queue")]
)
def test_the_queue_is_that_of_the_command_line_or_of_the_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, queue: int | None, rows: int, setting: str
) -> None:
    """What refuses a request that is too large is named, and what is not used."""
    add_model(tmp_path, "simple", more="dynamic_batching { default_queue_policy { max_queue_size: 2 } }")
    caplog.set_level("INFO")
    limits = Limits(queue_rows=queue or 1024)
    [item] = Library(tmp_path, Overrides(limits, measures=False, queue_rows=queue)).load("simple", 1)
    with item.model as model:
        assert model.entry.queue_rows == rows
        with pytest.raises(TooLargeError, match=f"holds {rows}: send fewer at a time, or raise {setting}$"):
            model.entry.admit(rows + 1)
        assert too_large(model.entry, 1, 2).endswith(f": send fewer at a time, or raise {setting}")
    messages = [message for message in caplog.messages if "max_queue_size" in message]
    assert len(messages) == 1
    assert ("max_queue_size is not used: --queue allows 64 rows to wait" in messages[0]) == bool(queue)


def test_models_are_opened_so(tmp_path: Path) -> None:
    """The largest batch in the model itself; a device that is not there is the reason why a model is not."""
    add_model(tmp_path, "simple")
    [item] = Library(tmp_path, Overrides(Limits(), measures=False, max_batch_size=2)).load("simple", 1)
    with item.model as model:
        assert model.entry.max_batch_size == 2
    if missing_provider(ort.__version__, ort.get_available_providers()):
        with pytest.raises(UnsupportedError, match="device cuda: onnxruntime"):
            Library(tmp_path, Overrides(Limits(), measures=False, device="cuda")).load("simple", 1)


def test_threads_spin_only_where_a_model_is_alone(tmp_path: Path) -> None:
    """Those of a configuration, too; and again once it is alone."""
    add_model(tmp_path, "simple", more="instance_group { count: 2 }")
    library = Library(tmp_path, Overrides(Limits()))
    for models in (1, 2):
        [item] = library.load("simple", models)
        with item.model as model:
            assert model.profile.settings.engine.spinning == (models == 1)
            assert model.profile.settings.engine.instances == 2
        assert item.alone is not None
        assert item.reload is not None
        with item.reload(1) as again:
            assert again.profile.settings.engine == item.alone


def test_measured_settings_follow_the_number_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from the one measurement of the load."""
    add_model(tmp_path, "simple")
    [item] = Library(tmp_path, Overrides(Limits())).load("simple", 2)
    monkeypatch.delattr(library_module, "measured_model")
    assert item.reload is not None
    with item.model as model, item.reload(1) as again:
        assert model.choice is not None
        assert not model.choice.alone
        assert again.choice == model.choice.among(1)
        assert again.choice.alone


def test_models_share_the_memory_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with those that are not loaded yet; one warning says how much that leaves."""
    monkeypatch.setattr(library_module, "memory_limit", lambda: 256 << 20)
    monkeypatch.setattr(library_module, "within_memory", lambda *given: seen.append(given) or within_memory(*given))
    seen: list[Any] = []
    for name in ("one", "two", "three", "four"):
        add_model(tmp_path, name)
    library = Library(tmp_path, Overrides(Limits(), measures=False))
    for models in (1, 4, 40):
        [item] = library.load("one", models)
        item.model.close()
    assert [models for _, _, models in seen] == [4, 4, 40]
    assert caplog.messages == [
        "the memory limit leaves only 16 MiB for the rows of each model",
        "the memory limit leaves only 1 MiB for the rows of each model",
    ]


@pytest.mark.parametrize(
    ("field", "name", "file"),
    [
        ("backend", "python", "model.py"),
        ("platform", "tensorrt_plan", "model.plan"),
        ("backend", "fil", "xgboost.json"),
    ],
)
def test_a_backend_that_is_not_served_is_named(tmp_path: Path, field: str, name: str, file: str) -> None:
    """Before any file is looked for: those of other backends have other names."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / file).touch()
    (tmp_path / "m" / "config.pbtxt").write_text(f'{field}: "{name}"')
    words = f"^{tmp_path}/m/config.pbtxt: {field} '{name}' is not served: the files of armnn_tflite, .* are$"
    with pytest.raises(UnsupportedError, match=words):
        Library(tmp_path, Overrides(Limits())).load("m", 1)
    with pytest.raises(UnsupportedError, match=words):
        newest_of(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'max_batch_size: 4 input { name: "x" dims: [ -1, 6 ] reshape { shape: [ -1, 2, 3 ] } }',
            "'x' is FP32 [-1, -1] in the model, but the configuration has reshape [-1, 2, 3] after the batch dimension",
        ),
        (
            'input { name: "x" dims: [ 2, 3 ] } output { name: "y" dims: [ 5, 5 ] }',
            "tensor 'y' is FP32 [2, 3] in the model, not [5, 5]",
        ),
        (
            'input { name: "x" dims: [ 7 ] reshape { shape: [ 2, 3 ] } }',
            "reshape: [7] and [2, 3] of tensor 'x' differ in size, or in the number of their free dimensions",
        ),
    ],
)
def test_the_error_names_the_configuration_that_does_not_match(tmp_path: Path, text: str, words: str) -> None:
    """With its path, in its own numbers, also where only the engine finds out; by itself and as a step."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    scaled_free(tmp_path / "m" / "1" / "model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    line = f"{tmp_path}/m/config.pbtxt: {words}"
    library = Library(tmp_path, Overrides(Limits(), measures=False))
    with pytest.raises(UnsupportedError, match=f"^{re.escape(line)}$"):
        library.load("m", 1)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "config.pbtxt").write_text(
        'platform: "ensemble" ensemble_scheduling { step { model_name: "m" input_map { key: "x" value: "x" } } }'
    )
    line = f"{tmp_path}/e/config.pbtxt: step 'm': {line}"
    with pytest.raises(UnsupportedError, match=f"^{re.escape(line)}$"):
        library.load("e", 1)


@pytest.mark.parametrize(("backend", "files"), [("paddle", ["pdmodel", "pdiparams"]), ("armnn_tflite", ["tflite"])])
def test_files_of_other_frameworks_with_their_own_backends(tmp_path: Path, backend: str, files: list[str]) -> None:
    """They are named in a repository that another server has read so far."""
    folder = tmp_path / "dense" / "1"
    folder.mkdir(parents=True)
    for kind in files:
        shutil.copy(DATA / f"dense.{kind}", folder / f"model.{kind}")
    (tmp_path / "dense" / "config.pbtxt").write_text(f'backend: "{backend}"')
    [loaded] = Library(tmp_path, Overrides(Limits(), measures=False)).load("dense", 1)
    with loaded.model as model, Model.open(DATA / f"dense.{files[0]}") as plain:
        [tensor] = model.spec.inputs
        given = {tensor.name: np.full([dim or 1 for dim in tensor.shape], 0.5, np.float32)}
        for name, answer in plain.infer_sync(given).items():
            assert np.array_equal(model.infer_sync(given)[name], answer)


def test_versions_without_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others of the policy are served."""
    policy = "version_policy { specific { versions: [ 1, 9, 7 ] } }"
    add_model(tmp_path, "m", versions=(1, 2), more=policy)
    caplog.set_level("INFO")
    [item] = Library(tmp_path, Overrides(Limits(), measures=False)).load("m", 1)
    item.model.close()
    words = "m: config.pbtxt: version_policy specific names versions without a folder, which are not served: 7, 9"
    assert caplog.messages.count(words) == 1
