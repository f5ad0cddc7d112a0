"""Profiles: what is written is what is read, and nothing half-written is ever seen."""

from pathlib import Path

import msgspec
import pytest
from tests.engines.models import external_weights, perceptron

from tailcut.engines.base import EngineOptions, U8Input
from tailcut.errors import ModelFileError, ProfileError
from tailcut.runtime.fit import fit_to_machine
from tailcut.runtime.profile import (
    BatchingSettings,
    IoSettings,
    Profile,
    Settings,
    copy_path,
    with_batching,
    write_atomically,
)

OLD_NAMES = {
    "max_batch": "max_batch_size",
    "hold_us": "max_queue_delay_us",
    "spin_us": "busy_poll_us",
    "express": "fast_path",
}


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


def test_another_model_is_told_apart(model: Path, tmp_path: Path) -> None:
    """A model that changed after it was measured is refused."""
    Profile.of_model(model).save(tmp_path / "p.toml")
    model.write_bytes(b"other bytes")
    with pytest.raises(ProfileError, match=r"m\.onnx has another SHA-256 than its profile: tune it again"):
        Profile.load(tmp_path / "p.toml").verify_model()


def test_other_weights_are_told_apart(tmp_path: Path) -> None:
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
    Profile.of_model(model, settings).with_quantized(copy).save(tmp_path / "m.profile.toml")
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
    copy = copy_path(path, b"content")
    assert copy == tmp_path / "m.int8.onnx"
    copy.write_bytes(b"of the user")
    other = copy_path(path, b"content")
    assert other.name.startswith("m.int8-")
    assert copy_path(tmp_path / "second.toml", b"content") == tmp_path / "second.int8.onnx"
    Profile.of_model(model).with_quantized(copy).save(path)
    assert copy_path(path, b"content") == copy


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


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Whole or not at all: text that cannot be encoded changes nothing and leaves no litter."""
    path = tmp_path / "f"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_threads_are_clamped_to_the_cpus_there_are(model: Path) -> None:
    """A profile for 8 CPUs runs on 2, with a warning; one CPU does not spin."""
    settings = Settings(engine=EngineOptions(threads=4, instances=2), io=IoSettings(busy_poll_us=100))
    fitted, warnings = fit_to_machine(Profile.of_model(model, settings), {}, 2)
    assert (fitted.settings.engine.threads, fitted.settings.engine.instances) == (2, 1)
    assert len(warnings) == 1
    fitted, warnings = fit_to_machine(Profile.of_model(model, settings), {}, 1)
    assert fitted.settings.io.busy_poll_us == 0
    assert len(warnings) == 2


def test_another_machine_is_a_warning(model: Path) -> None:
    """It runs all the same."""
    profile = msgspec.structs.replace(Profile.of_model(model), machine={"cpu": "old"})
    fitted, warnings = fit_to_machine(profile, {"cpu": "new"}, 2)
    assert fitted == profile
    assert "another machine" in warnings[0]


def test_describe_names_what_differs() -> None:
    """Only what was turned is shown."""
    settings = Settings(engine=EngineOptions(threads=2), batching=BatchingSettings(max_batch_size=8))
    assert settings.describe() == "engine.threads=2 batching.max_batch_size=8"


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "{a=" * 100_000,
        "[evidence]\nx = " + "[" * 900 + "]" * 900,
        ".".join(["a"] * 300_000) + " = 1",
        "[" + " . ".join(["'a'"] * 300_000) + "]",
        "x = {" + ".".join(['"a"'] * 300_000) + " = 1}",
        "x = " + "1" * 100_000,
        "#" * (17 << 20),
    ],
    ids=["arrays", "tables", "evidence", "key", "header", "inline", "digits", "size"],
)
def test_a_file_made_to_break_parsers_is_one_line(tmp_path: Path, text: str) -> None:
    """Refused in a moment, with a short reason."""
    path = tmp_path / "deep.toml"
    path.write_text(f"schema = 2\n{text}\n")
    with pytest.raises(ProfileError, match=r"^[^\n]*deep\.toml: not a [^\n]{1,200}$"):
        Profile.load(path)


@pytest.mark.parametrize("number", ["9" * 4000, "0x" + "f" * 100_000, "-" + "9" * 30])
def test_a_number_of_any_size_is_one_line(tmp_path: Path, number: str) -> None:
    """As a setting and as the schema."""
    Profile.of_model(perceptron([4, 8, 3], tmp_path / "mlp.onnx")).save(tmp_path / "good.toml")
    good = (tmp_path / "good.toml").read_text()
    for name, before in (("max_batch_size", "max_batch_size = 1"), ("schema", "schema = 2")):
        assert before in good
        path = tmp_path / f"{name}.toml"
        path.write_text(good.replace(before, f"{name} = {number}"))
        with pytest.raises(ProfileError, match=r"^[^\n]{1,400}$"):
            Profile.load(path)


def test_schema_1_is_read_under_the_new_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And a line in the log says what is called otherwise now."""
    path = tmp_path / "old.toml"
    settings = Settings(
        batching=BatchingSettings(max_batch_size=8, max_queue_delay_us=300),
        io=IoSettings(busy_poll_us=50, fast_path=False),
    )
    Profile.of_model(perceptron([4, 8, 3], tmp_path / "mlp.onnx"), settings).save(path)
    text = path.read_text().replace("schema = 2", "schema = 1")
    for old, new in OLD_NAMES.items():
        assert f"{new} = " in text
        text = text.replace(f"{new} = ", f"{old} = ")
    path.write_text(text)
    with caplog.at_level("INFO", "tailcut"):
        profile = Profile.load(path)
    assert profile.settings == settings
    assert profile.schema == 2
    assert all(f"{old} is now {new}" in caplog.text for old, new in OLD_NAMES.items())


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_is_no_second_name(tmp_path: Path, schema: int, old: str, new: str) -> None:
    """Neither beside the new one nor in a file of schema 2; the error tells the new name."""
    path = tmp_path / "both.toml"
    Profile.of_model(perceptron([4, 8, 3], tmp_path / "mlp.onnx")).save(path)
    text = path.read_text().replace("schema = 2", f"schema = {schema}")
    line = next(line for line in text.splitlines() if line.startswith(f"{new} = "))
    both = "" if schema == 2 else f"{line}\n"
    path.write_text(text.replace(f"{line}\n", both + line.replace(new, old) + "\n"))
    with pytest.raises(ProfileError, match=f"{old} is called {new} in schema 2"):
        Profile.load(path)
