"""The interface of a model of another format: it can be written as ONNX, and compute outputs as before."""

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
        """Write it as ONNX into an empty folder; the file, with external weights beside it where there are any.

        Raises:
            UnsupportedError: its library cannot convert it; says why.
        """

    def answer(self, inputs: Arrays, outputs: Arrays) -> list[np.ndarray]:
        """Its own answers to a request, in the order of the converted model's outputs, which are given."""


def need(module: str, install: str) -> Any:
    """A library that a conversion needs.

    Raises:
        UnsupportedError: it is not installed; says how it is.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"this conversion needs {module.partition('.')[0]}: pip install {install} ({error})"
        ) from None


def first_line(error: BaseException) -> str:
    """What a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
