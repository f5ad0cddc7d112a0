"""Facts of a model file that decide how it is measured; for a PyTorch program, no engine is imported."""

import zipfile
from pathlib import Path

from tailcut.engines.files import FileKind, Traits, kind_of
from tailcut.engines.telemetry import import_openvino
from tailcut.errors import ModelFileError

_PROGRAM = "models/model.json"
_ENDLESS = b"torch.ops.higher_order.while_loop"


def read_traits(path: Path) -> Traits:
    """Traits of a model file; external weights are not read.

    Raises:
        ModelFileError: missing, empty, unreadable, or not a model.
    """
    kind = kind_of(path)
    if kind is FileKind.PROGRAM:
        return _of_program(path)
    if kind is FileKind.SCRIPT:
        return Traits(path.stat().st_size, "a loop of TorchScript")  # it may have one: its code is not analysed
    if kind is FileKind.ONNX:
        from tailcut.engines.graph import read_graph_traits  # noqa: PLC0415  onnx takes 0.2 s

        return read_graph_traits(path)
    import_openvino()
    from tailcut.engines.openvino_files import read_file_traits  # noqa: PLC0415  only it reads such files

    return read_file_traits(path, kind)


def _of_program(path: Path) -> Traits:
    try:
        with zipfile.ZipFile(path) as archive:
            graph = next(name for name in archive.namelist() if name.endswith(_PROGRAM))
            endless = _ENDLESS in archive.read(graph)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelFileError(f"{path}: cannot be read: {error}") from None
    return Traits(path.stat().st_size, "while_loop" if endless else "")
