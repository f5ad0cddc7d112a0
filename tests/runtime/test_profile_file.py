"""The file of a profile: any content is read in bounded time, and older schemas under the new names."""

from pathlib import Path

import pytest
from tests.engines.models import perceptron

from tailcut.errors import ProfileError
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.profile_file import read_tables
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings

OLD_NAMES = {
    "max_batch": "max_batch_size",
    "hold_us": "max_queue_delay_us",
    "spin_us": "busy_poll_us",
    "express": "fast_path",
}


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


def test_a_model_instead_of_a_profile_is_explained() -> None:
    """In place of where its bytes stop being text."""
    with pytest.raises(ProfileError, match=r"digits\.onnx: not a profile, which is the \.toml file that `tailcut tune"):
        read_tables(digits_model())
