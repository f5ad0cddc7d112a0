"""The files that a model is read from, found without parsing its graph, to detect whether one has changed."""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tailcut.engines.files import FileKind, external_file, kind_of, parts_of
from tailcut.errors import ModelFileError

# The key and the value's tag of an entry of TensorProto.external_data (onnx.proto), in the order of their fields.
_LOCATION = b"\x0a\x08location\x12"
_STEP_BYTES = 1 << 20  # searched in one call, which holds the interpreter lock
_MORE = 0x80  # in the first byte of a length: there is a second one


def model_files(path: Path) -> list[Path]:
    """The file with a model's graph, and those with its weights.

    Raises:
        ModelFileError: it is missing, unreadable, empty, or of another kind.
    """
    kind = kind_of(path)
    graph, weights = parts_of(path, kind)
    if kind is FileKind.ONNX:
        for name in sorted(set(_external_names(path))):
            with suppress(ModelFileError):  # not a name but weights, or missing: the model is not loaded
                weights.append(external_file(path, name))
    return [graph, *weights]


def _external_names(path: Path) -> Iterator[str]:
    """Yield the names of external weights files in an ONNX file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _places(data, _LOCATION):
            start = match + len(_LOCATION)
            length = data[start] if start < len(data) else 0
            if length & _MORE and start + 1 < len(data):
                start += 1
                length = length & ~_MORE | data[start] << 7
            yield data[start + 1 : start + 1 + length].decode(errors="replace")


def _places(data: mmap.mmap, wanted: bytes) -> Iterator[int]:
    """Yield the offsets of `wanted`, searching in steps, between which other threads can run."""
    for begin in range(0, len(data), _STEP_BYTES):
        end = begin + _STEP_BYTES + len(wanted) - 1
        index = data.find(wanted, begin, end)
        while index >= 0:
            yield index
            index = data.find(wanted, index + 1, end)
