"""What is converted, and what a mistake gets; nothing here needs a library that is not installed."""

import pickle
import sys
from pathlib import Path

import pytest

from tailcut.cli.main import main
from tailcut.converters import convert
from tailcut.errors import ModelFileError, UnsupportedError, UsageError


class Bomb:
    """Its pickle writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.anything"])
def test_a_pickle_is_not_read_unless_it_is_trusted(tmp_path: Path, name: str) -> None:
    """Told by its name and by its bytes."""
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelFileError, match="add --trust"):
        convert(tmp_path / name, tmp_path / "m.onnx")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "module", "words"),
    [
        (("m.joblib", b"\x80\x04"), "joblib", r"joblib: pip install 'tailcut\[convert\]'"),
        (("m.json", b"{}"), "xgboost", "xgboost: pip install xgboost"),
        (("m.txt", b"tree\nversion=v4\n"), "lightgbm", "lightgbm: pip install lightgbm"),
        (("m.pt2", b"PK\x03\x04"), "torch", r"torch: pip install 'tailcut\[torch\]'"),
    ],
)
def test_a_missing_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: tuple[str, bytes], module: str, words: str
) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    name, content = file
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedError, match=words):
        convert(tmp_path / name, tmp_path / "m.onnx", trust=True)


def test_mistakes(tmp_path: Path) -> None:
    """A missing file, another kind, a folder of something else, a target that is no ONNX file."""
    (tmp_path / "m.csv").write_text("1,2")
    (tmp_path / "folder").mkdir()
    target = tmp_path / "m.onnx"
    for source, error, words in [
        (tmp_path / "nowhere.pkl", ModelFileError, "no such model file"),
        (tmp_path / "m.csv", ModelFileError, "cannot be converted: .pt2"),
        (tmp_path / "folder", ModelFileError, "without a config.json"),
    ]:
        with pytest.raises(error, match=words):
            convert(source, target)
    with pytest.raises(UsageError, match=r"name it MODEL\.onnx"):
        convert(tmp_path / "m.csv", tmp_path / "m.tflite")
    with pytest.raises(UsageError, match="no such folder"):
        convert(tmp_path / "m.csv", tmp_path / "nowhere" / "m.onnx")


def test_the_command_ends_with_2_for_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line on stderr."""
    assert main(["convert", str(tmp_path / "nowhere.pkl"), str(tmp_path / "m.onnx")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
