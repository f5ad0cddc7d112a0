"""The bundled model, handwritten digits, and the samples that its training never saw (scripts/train_digits.py)."""

from importlib.resources import files
from pathlib import Path


def digits_model() -> Path:
    """An ONNX file: `image` float32 [batch, 1, 8, 8], values 0 to 16, to `scores` float32 [batch, 10]."""
    return Path(str(files(__name__) / "digits.onnx"))


def digits_data() -> Path:
    """An .npz file: `image` float32 [360, 1, 8, 8] and `labels` int64 [360]."""
    return Path(str(files(__name__) / "digits.npz"))
