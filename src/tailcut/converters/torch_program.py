"""Exported PyTorch programs (.pt2) by torch.onnx.

`torch.export.load` falls back to unpickling parts of a file that its safe reader refuses. A variable that PyTorch reads
at every load forbids that (`TORCH_FORCE_WEIGHTS_ONLY_LOAD`).
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.converters.original import Original, first_line, need
from tailcut.engines.base import Arrays
from tailcut.errors import ModelFileError, UnsupportedError

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
            found = self._program.module()(*tensors)
        flat = self._torch.utils._pytree.tree_leaves(found)  # noqa: SLF001  no public name has it
        return [one.numpy() for one in flat]


def load_program(path: Path) -> Original:
    """The program in a file; nothing in it is unpickled.

    Raises:
        ModelFileError: it is none.
        UnsupportedError: torch is not installed.
    """
    torch = need("torch", _INSTALL)
    need("torch.onnx", _INSTALL)
    try:
        with _unpickling_nothing():
            return Program(torch, torch.export.load(path))
    except Exception as error:  # noqa: BLE001  as in write
        raise ModelFileError(f"{path}: not a program of torch.export: {first_line(error)}") from None


@contextlib.contextmanager
def _unpickling_nothing() -> Iterator[None]:
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
