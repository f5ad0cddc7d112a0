"""Hashes that identify a model: the SHA-256 of the file with its graph, and a hash of external weights."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tailcut.engines.files import FileKind, kind_of, parts_of
from tailcut.errors import ModelFileError


def model_hash(path: Path) -> str:
    """SHA-256 of a model file, in hexadecimal; for the directory of a SavedModel, of the file with its graph.

    Raises:
        ModelFileError: the file is missing, unreadable, empty, or of another kind.
    """
    return _hash([parts_of(path, kind_of(path))[0]])


def file_hash(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal.

    Raises:
        ModelFileError: it cannot be read.
    """
    return _hash([path])


def external_weights_hash(path: Path) -> str | None:
    """A hash of weights outside the file with the graph: of samples for ONNX, else of all bytes; None without any."""
    kind = kind_of(path)
    if kind is FileKind.ONNX:
        from tailcut.engines.graph import weights_hash  # noqa: PLC0415  onnx takes 0.2 s, and few have such files

        return weights_hash(path)
    weights = parts_of(path, kind)[1]
    return _hash(weights) if weights else None


def _hash(files: Iterable[Path]) -> str:
    """SHA-256 of one file, or of the joined hashes of several, in hexadecimal.

    Raises:
        ModelFileError: one cannot be read.
    """
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
