"""The copy of a PyTorch program that the engines of ONNX models run: written once, with the program's own signature."""

from pathlib import Path

from tailcut.converters.conversion import convert
from tailcut.engines.base import EngineOptions
from tailcut.engines.none import read_signature
from tailcut.errors import UnsupportedError


def onnx_copy(model: Path, folder: Path, fixed_dims: tuple[str, ...]) -> Path:
    """Convert a program into a folder.

    Raises:
        TailcutError: a library is missing, or there is no ONNX model with the same inputs, outputs and answers.
    """
    path = folder / "converted.onnx"
    conversion = convert(model, path)
    if not conversion.right:
        raise UnsupportedError(
            f"converted to ONNX, its answers are off by {conversion.distance:.2g}, not {conversion.comparison.limit:g}"
        )
    if list(folder.glob(f"{path.name}?*")):
        raise UnsupportedError("converted to ONNX, it has more weights than one file holds")
    mine, theirs = (
        read_signature(file, EngineOptions(fixed_dims=fixed_dims), None).signature for file in (model, path)
    )
    if mine != theirs:
        others = ", ".join(set(theirs) - set(mine)) or "the same in another order"
        raise UnsupportedError(f"converted to ONNX, it has other inputs and outputs: {others}")
    return path
