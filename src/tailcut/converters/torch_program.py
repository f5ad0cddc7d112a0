"""Exported PyTorch programs (.pt2) by torch.onnx; they are read as the engine reads them."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.converters.original import Original, first_line, need
from tailcut.engines.base import Arrays
from tailcut.errors import UnsupportedError

_INSTALL = "'tailcut[torch]'"


class Program:
    """A program that `torch.export` made."""

    what = "a PyTorch program"

    def __init__(self, torch: Any, program: Any) -> None:
        self._torch = torch
        self._program = program

    def write(self, folder: Path) -> Path:
        """See `Original.write`."""
        need("onnxscript", _INSTALL)
        path = folder / "model.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                self._torch.onnx.export(self._program, (), dynamo=True, verbose=False).save(path)
            except Exception as error:  # noqa: BLE001  torch's errors share no base
                raise UnsupportedError(f"torch.onnx cannot convert the program: {first_line(error)}") from None
        return path

    def answer(self, inputs: Arrays, outputs: Sequence[str]) -> list[np.ndarray]:
        """See `Original.answer`."""
        tensors = [self._torch.from_numpy(array) for array in inputs.values()]
        with self._torch.inference_mode():
            found = self._program.module(check_guards=False)(*tensors)  # guards are code
        flat = self._torch.utils._pytree.tree_leaves(found)  # noqa: SLF001  no public name has it
        return [one.numpy() for one in flat]


def load_program(path: Path) -> Original:
    """The program in a file; nothing in it is unpickled or evaluated, unless the user trusts the file.

    Raises:
        ModelFileError: it is none.
        UnsupportedError: torch is not installed, or the program contains what is not loaded.
    """
    torch = need("torch", _INSTALL)
    need("torch.onnx", _INSTALL)
    from tailcut.engines.torch.program import load_exported  # noqa: PLC0415  it imports torch

    return Program(torch, load_exported(path))
