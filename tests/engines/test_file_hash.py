"""Hashes of model files."""

import hashlib
from pathlib import Path

import pytest
from tests.engines.models import perceptron

from tailcut.engines.file_hash import external_weights_hash, file_hash, model_hash
from tailcut.errors import ModelFileError


def test_a_model_is_known_by_its_bytes(tmp_path: Path) -> None:
    """SHA-256; a model without weights beside it has no hash of them."""
    path = perceptron([4, 3], tmp_path / "m.onnx")
    assert model_hash(path) == file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert external_weights_hash(path) is None


def test_weights_beside_the_graph_are_hashed_apart(tmp_path: Path) -> None:
    """Of OpenVINO's format, all their bytes: the graph's hash stays where they change."""
    (tmp_path / "m.xml").write_text('<?xml version="1.0"?><net name="m" version="11"></net>')
    (tmp_path / "m.bin").write_bytes(b"one")
    before = model_hash(tmp_path / "m.xml"), external_weights_hash(tmp_path / "m.xml")
    assert before[1] == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "m.bin").write_bytes(b"two")
    assert model_hash(tmp_path / "m.xml") == before[0]
    assert external_weights_hash(tmp_path / "m.xml") != before[1]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """One line with its name."""
    with pytest.raises(ModelFileError, match=r"gone: cannot be read: No such file"):
        file_hash(tmp_path / "gone")
