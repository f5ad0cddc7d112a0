"""The layout of a model repository."""

from pathlib import Path

import pytest
from tests.triton.repositories import add_model, example_repository

from tailcut.cli.tune_files import tune_files
from tailcut.errors import MissingFileError, MissingModelFileError, UsageError
from tailcut.triton.folder import ModelFolder, is_model_folder, model_folders, state_of


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", [12]),
        ("version_policy { latest { num_versions: 2 } }", [3, 12]),
        ("version_policy { latest {} }", [12]),
        ("version_policy { all {} }", [1, 3, 12]),
        ("version_policy { specific { versions: [ 1, 7 ] } }", [1]),
    ],
)
def test_the_policy_says_which_versions_are_served(tmp_path: Path, policy: str, versions: list[int]) -> None:
    """By their numbers; what is not a number above 0 is no version."""
    path = add_model(tmp_path, "m", versions=(1, 3, 12), more=policy)
    for name in ("0", "007", "draft"):
        (path / name).mkdir()
    assert ModelFolder.read(path).versions() == versions


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ((), "m: has no version to serve: put the model into {path}/1"),
        ((1, 2), "m/config.pbtxt: version_policy specific [3] names none of the versions that exist: 1, 2"),
    ],
)
def test_no_version_to_serve(tmp_path: Path, versions: tuple[int, ...], words: str) -> None:
    """There is none, or none that the policy names."""
    path = add_model(tmp_path, "m", versions=(1,), more="version_policy { specific { versions: [ 3 ] } }")
    (path / "1").rename(tmp_path / "elsewhere")
    for version in versions:
        (path / str(version)).mkdir()
    folder = ModelFolder.read(path)
    assert folder.versions() == []
    assert str(folder.without_versions()) == f"{tmp_path}/{words.format(path=path)}"


def test_the_file_of_a_version(tmp_path: Path) -> None:
    """model.onnx, a folder model.onnx with one in it, or what the configuration names; never a path."""
    folder = ModelFolder.read(add_model(tmp_path, "m", versions=(1, 2, 3)))
    plain = tmp_path / "m" / "1" / "model.onnx"
    assert folder.file(1) == plain
    within = tmp_path / "m" / "2" / "model.onnx"
    content = within.read_bytes()
    within.unlink()
    within.mkdir()
    (within / "model.onnx").write_bytes(content)
    assert folder.file(2) == within / "model.onnx"
    (tmp_path / "m" / "3" / "model.onnx").unlink()
    with pytest.raises(MissingModelFileError, match=r"has no model file: model\.onnx or model\.xml"):
        folder.file(3)
    (tmp_path / "m" / "3" / "saved_model.pb").touch()
    with pytest.raises(MissingModelFileError, match=r"it is a SavedModel itself: name \S+/3, or move .*savedmodel$"):
        folder.file(3)
    named = ModelFolder.read(add_model(tmp_path, "n", more='default_model_filename: "../1/model.onnx"'))
    with pytest.raises(UsageError, match="not a file's name"):
        named.file(1)


def test_a_configuration_for_another_model_is_refused(tmp_path: Path) -> None:
    """Its name has to be that of the folder."""
    path = add_model(tmp_path, "m").rename(tmp_path / "other")
    with pytest.raises(UsageError, match="is for a model 'm', but its folder is called 'other'"):
        ModelFolder.read(path)


def test_a_folder_whose_name_no_url_can_have(tmp_path: Path) -> None:
    """Is refused by its name, and the other models are served."""
    path = add_model(tmp_path, "m").rename(tmp_path / "m\n2")
    (path / "config.pbtxt").unlink()
    with pytest.raises(UsageError, match=r"a model cannot be named 'm\\n2'"):
        ModelFolder.read(path)


def test_a_linked_folder_has_the_name_of_the_link(tmp_path: Path) -> None:
    """As the index has it, whatever the folder behind it is called; the folder itself may be named as `.`, too."""
    repository = tmp_path / "models"
    repository.mkdir()
    (repository / "m").symlink_to(add_model(tmp_path, "m").rename(tmp_path / "m-v3"))
    [(name, path)] = model_folders(repository).items()
    assert name == ModelFolder.read(path).name == "m"
    assert ModelFolder.read(add_model(tmp_path, "other") / "..").name == tmp_path.name
    (path / "config.pbtxt").unlink()
    assert ModelFolder.read(path).name == "m"


def test_a_repository_lists_its_folders(tmp_path: Path) -> None:
    """Files and hidden folders are no models."""
    example_repository(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "README").touch()
    assert list(model_folders(tmp_path)) == ["simple", "simple_int8", "simple_string"]
    assert is_model_folder(tmp_path / "simple")
    assert not is_model_folder(tmp_path)
    with pytest.raises(MissingFileError, match="no such model repository"):
        model_folders(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a model repository"):
        model_folders(tmp_path / "README")


def test_changes_behind_a_link_are_seen(tmp_path: Path) -> None:
    """Of a version's folder, too; a link to a folder above it is not followed for ever."""
    path = add_model(tmp_path, "m", versions=(1, 2))
    store = (path / "2").rename(tmp_path / "store")
    (path / "2").symlink_to(store)
    (path / "1" / "above").symlink_to(path)
    before = state_of(path)
    assert [name for name, *_ in before] == ["1/model.onnx", "2/model.onnx", "config.pbtxt"]
    with (store / "model.onnx").open("ab") as file:
        file.write(b"more")
    assert state_of(path) != before


def test_a_report_is_no_change(tmp_path: Path) -> None:
    """What `tailcut tune` writes beside a model is no reason to load it again, but for the profile."""
    path = add_model(tmp_path, "m")
    before = state_of(path)
    (path / "1" / "model.report.html").touch()
    (path / "1" / "model.trials.jsonl").touch()
    assert state_of(path) == before
    (path / "1" / "model.profile.toml").touch()
    assert state_of(path) != before


@pytest.mark.parametrize("name", ["model.onnx", "net.onnx", "model.savedmodel"])
def test_a_profile_is_found_where_a_tune_writes_it(tmp_path: Path, name: str) -> None:
    """Named after the model's file, whatever the configuration calls that."""
    path = add_model(tmp_path, "m", more=f'default_model_filename: "{name}"')
    (path / "1" / "model.onnx").rename(path / "1" / name)
    folder = ModelFolder.read(path)
    assert folder.profile(1) is None
    written = tune_files(folder.file(1), None, None).profile
    written.touch()
    assert folder.profile(1) == written
