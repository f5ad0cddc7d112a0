"""The ONNX copy of a PyTorch program, for the engines of ONNX models: written once, with the program's signature."""

from pathlib import Path

from tailcut.converters.conversion import convert
from tailcut.engines.base import EngineOptions
from tailcut.engines.none import read_signature
from tailcut.errors import UnsupportedError


def onnx_copy(model: Path, folder: Path, fixed_dims: tuple[str, ...]) -> Path:
    """Convert a PyTorch program to `converted.onnx` in a folder.

    Raises:
        TailcutError: a library is missing, or the program has no ONNX equivalent in one file with the same inputs,
            outputs and answers.
    """
    path = folder / "converted.onnx"
    conversion = convert(model, path)
    if not conversion.right:
        raise UnsupportedError(
            f"converted to ONNX, its answers differ by {conversion.distance:.2g}, over {conversion.comparison.limit:g}"
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
