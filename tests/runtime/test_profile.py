"""Profiles: what is written is what is read, and nothing half-written is ever seen."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from onnx import helper
from tests.engines.models import external_weights, save, value

from tailcut.engines.base import EngineOptions, U8Input
from tailcut.errors import ModelFileError, ProfileError
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile, copy_path, with_batching
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.spec import DType


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"some bytes")
    return path


def test_round_trip(model: Path, tmp_path: Path) -> None:
    """Every kind of setting survives the file; the model's path is stored relative to it."""
    settings = Settings(
        engine=EngineOptions(
            name="openvino", precision="bf16", threads=2, u8_input=U8Input(scale=(0.5,), offset=(1.0,))
        ),
        batching=BatchingSettings(max_batch_size=8),
        io=IoSettings(busy_poll_us=100),
    )
    profile = Profile.of_model(model, settings, "name")
    profile = msgspec.structs.replace(profile, machine={"cpu": "x", "cores": 2}, evidence={"p99_ms": 1.5})
    profile.save(tmp_path / "m.profile.toml")
    assert 'path = "m.onnx"' in (tmp_path / "m.profile.toml").read_text()
    assert Profile.load(tmp_path / "m.profile.toml") == profile


def test_a_folder_moved_as_a_whole_still_works(model: Path, tmp_path: Path) -> None:
    """The path is relative to the profile, not to where it was written."""
    Profile.of_model(model).save(tmp_path / "p.toml")
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("m.onnx", "p.toml"):
        (tmp_path / name).rename(other / name)
    Profile.load(other / "p.toml").verify_model()


def test_another_model_is_detected(model: Path, tmp_path: Path) -> None:
    """A model that changed after it was measured is refused."""
    Profile.of_model(model).save(tmp_path / "p.toml")
    model.write_bytes(b"other bytes")
    with pytest.raises(ProfileError, match=r"m\.onnx has another SHA-256 than its profile: tune it again"):
        Profile.load(tmp_path / "p.toml").verify_model()


def test_other_weights_are_detected(tmp_path: Path) -> None:
    """With a hash of its external weights a profile refuses the same graph with others; without one it takes them."""
    path = external_weights(tmp_path / "m.onnx")
    plain = Profile.of_model(path)
    plain.with_weights().save(tmp_path / "p.toml")
    profile = Profile.load(tmp_path / "p.toml")
    profile.verify_model()
    data = tmp_path / "m.onnx.data"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    plain.verify_model()
    with pytest.raises(ProfileError, match="has other weights than its profile"):
        profile.verify_model()


def test_a_quantised_copy_goes_with_its_profile(model: Path, tmp_path: Path) -> None:
    """It lies beside the profile, moves with it, and another file in its place is refused in one line."""
    copy = tmp_path / "m.int8.onnx"
    copy.write_bytes(b"a quantised graph")
    settings = Settings(engine=EngineOptions(precision="int8_static"))
    Profile.of_model(model, settings).with_copy(copy, settings).save(tmp_path / "m.profile.toml")
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("m.onnx", "m.int8.onnx", "m.profile.toml"):
        (tmp_path / name).rename(other / name)
    profile = Profile.load(other / "m.profile.toml")
    profile.verify_model()
    assert profile.engine_file == other / "m.int8.onnx"
    assert with_batching(profile, "off").engine_file == profile.engine_file
    (other / "m.int8.onnx").write_bytes(b"another graph")
    with pytest.raises(ProfileError, match=r"m\.int8\.onnx has another SHA-256 than its profile: tune it again"):
        profile.verify_model()
    (other / "m.int8.onnx").unlink()
    with pytest.raises(ModelFileError, match=r"m\.int8\.onnx: no such model file"):
        profile.verify_model()


def test_a_converted_copy_is_what_other_engines_run(model: Path, tmp_path: Path) -> None:
    """It goes with its profile like a quantised one; the program's own engine runs the program."""
    program, copy = tmp_path / "m.pt2", tmp_path / "m.pt2.onnx"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("m/models/model.json", "{}")
    copy.write_bytes(b"the program as ONNX")
    settings = Settings(engine=EngineOptions(name="openvino"))
    assert Profile.of_model(program, settings).settings.engine.name == "torch"
    Profile.of_model(program, settings).with_copy(copy, settings).save(tmp_path / "m.profile.toml")
    profile = Profile.load(tmp_path / "m.profile.toml")
    profile.verify_model()
    assert profile.settings.engine.name == "openvino"
    assert profile.engine_file == copy
    torch = msgspec.structs.replace(profile, settings=Settings(engine=EngineOptions(name="torch")))
    assert torch.engine_file == program
    copy.write_bytes(b"another graph")
    with pytest.raises(ProfileError, match=r"m\.pt2\.onnx has another SHA-256 than its profile: tune it again"):
        profile.verify_model()
    program.write_bytes(program.read_bytes() + b"more")
    with pytest.raises(ProfileError, match="runs a converted copy of another m"):
        profile.accept_model("m.profile.toml")


def test_static_int8_needs_a_copy(model: Path, tmp_path: Path) -> None:
    """A profile that names none is refused when it is read, and when it is made by hand."""
    profile = Profile.of_model(model, Settings(engine=EngineOptions(precision="int8_static")))
    with pytest.raises(ProfileError, match=r"needs \[model\.quantized\]"):
        _ = profile.engine_file
    profile.save(tmp_path / "p.toml")
    with pytest.raises(ProfileError, match=r"needs \[model\.quantized\]"):
        Profile.load(tmp_path / "p.toml")
    assert Profile.of_model(model).engine_file == model


def test_a_copy_is_written_over_no_file_of_the_users(model: Path, tmp_path: Path) -> None:
    """Its name comes from the profile's; another one is taken where a file has that name already, but its own."""
    path = tmp_path / "m.profile.toml"
    copy = copy_path(path, b"content", "int8_static")
    assert copy == tmp_path / "m.int8.onnx"
    copy.write_bytes(b"of the user")
    other = copy_path(path, b"content", "int8_static")
    assert other.name.startswith("m.int8-")
    assert copy_path(tmp_path / "second.toml", b"content", "int8_static") == tmp_path / "second.int8.onnx"
    settings = Settings(engine=EngineOptions(precision="int8_static"))
    Profile.of_model(model).with_copy(copy, settings).save(path)
    assert copy_path(path, b"content", "int8_static") == copy
    assert copy_path(path, b"content", "f32") == tmp_path / "m.pt2.onnx"


def test_a_model_that_is_a_link_stays_one(tmp_path: Path) -> None:
    """Its weights may lie beside the link only, so the profile names the link and not where it leads."""
    for folder in ("store", "models"):
        (tmp_path / folder).mkdir()
    path = external_weights(tmp_path / "models" / "m.onnx").rename(tmp_path / "store" / "hash")
    link = tmp_path / "models" / "m.onnx"
    link.symlink_to(path)
    Profile.of_model(link).save(tmp_path / "models" / "p.toml")
    profile = Profile.load(tmp_path / "models" / "p.toml")
    assert profile.model.path == str(link)
    assert profile.model.name == "m"
    profile.verify_model()


@pytest.mark.parametrize("content", [b"", None])
def test_models_that_cannot_be_hashed(tmp_path: Path, content: bytes | None) -> None:
    """Missing and empty files are named."""
    path = tmp_path / "gone.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"gone\.onnx"):
        Profile.of_model(path)


def test_paths_may_be_strings(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `Model.open` takes them, relative ones too."""
    monkeypatch.chdir(tmp_path)
    profile = Profile.of_model("m.onnx")
    assert profile == Profile.of_model(model)
    profile.save("m.profile.toml")
    assert Profile.load("m.profile.toml") == profile


@pytest.fixture
def two_outputs(tmp_path: Path) -> Path:
    """A model with the outputs b and a."""
    nodes = [helper.make_node("Relu", ["x"], ["b"]), helper.make_node("Abs", ["x"], ["a"])]
    tensors = [value(name, DType.FP32, (None, 4)) for name in ("x", "b", "a")]
    return save(tmp_path / "m.onnx", nodes, tensors[:1], tensors[1:])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda lines: lines[:1], "it also has output b FP32 [-1, 4], output a FP32 [-1, 4]"),
        (lambda lines: (*lines, "output d FP32 [-1]", "output c FP32"), "it lacks output d FP32 [-1], output c FP32"),
        (lambda lines: (*lines[:2], "output c FP32"), "it lacks output c FP32; it also has output a FP32 [-1, 4]"),
        (lambda lines: lines[::-1], "they are in another order"),
    ],
)
def test_differing_inputs_and_outputs_are_named_in_order(
    two_outputs: Path, change: Callable[[tuple[str, ...]], tuple[str, ...]], difference: str
) -> None:
    """What it lacks and what it has beside; another order only where nothing else is different."""
    profile = Profile.of_model(two_outputs).with_signature()
    model = msgspec.structs.replace(profile.model, signature=change(profile.model.signature))
    with Model.open(profile) as opened, pytest.raises(ProfileError) as error:
        msgspec.structs.replace(profile, model=model).check_signature(opened.spec)
    words = f"{two_outputs}: its inputs and outputs are not those of the profile: {difference}"
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("edited", "difference"),
    [
        ({"outputs": ("a",)}, "it lacks output b FP32 [-1, 4]"),
        ({"fixed_dims": ("batch=2",)}, "it lacks input x FP32 [-1, 4], output b FP32 [-1, 4], output a FP32 [-1, 4]; "),
    ],
)
def test_settings_that_leave_recorded_outputs_out_are_named(
    two_outputs: Path, edited: dict[str, tuple[str, ...]], difference: str
) -> None:
    """The file is the one that was measured: a profile that was edited says which settings do not fit."""
    profile = Profile.of_model(two_outputs).with_signature()
    engine = msgspec.structs.replace(profile.settings.engine, **edited)
    profile = msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, engine=engine))
    with Model.open(profile) as opened, pytest.raises(ProfileError) as error:
        profile.check_signature(opened.spec)
    words = f"{two_outputs}: outputs or fixed_dims in settings.engine do not fit model.signature: {difference}"
    assert str(error.value).startswith(words)
    assert str(error.value).endswith(": tune it with --outputs or --fix")
