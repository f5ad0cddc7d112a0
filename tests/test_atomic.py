"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from tailcut.atomic import write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Whole or not at all: text that cannot be encoded changes nothing and leaves no litter."""
    path = tmp_path / "f"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_an_error_names_the_file_asked_for(tmp_path: Path) -> None:
    """And not the temporary one beside it, which could not be made."""
    path = tmp_path / "missing" / "f"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, "text")
    assert caught.value.filename == str(path)
