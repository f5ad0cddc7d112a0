"""The interface of a model of another format: it can be written as ONNX, and computes reference outputs."""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tailcut.engines.base import Arrays
from tailcut.errors import UnsupportedError


class Original(Protocol):
    """A loaded model of another format."""

    what: str  # such as "a scikit-learn RandomForestClassifier"

    def write(self, folder: Path) -> Path:
        """Write it as ONNX into an empty folder; returns the file, which may have external weights beside it.

        Raises:
            UnsupportedError: its library cannot convert it; the message says why.
        """

    def answer(self, inputs: Arrays, outputs: Arrays) -> list[np.ndarray]:
        """Compute its own answers to a request, in the order of `outputs`, the answers of the converted model."""


def need(module: str, install: str) -> Any:
    """Import a library that a conversion needs.

    Raises:
        UnsupportedError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"this conversion needs {module.partition('.')[0]}: pip install {install} ({error})"
        ) from None


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
