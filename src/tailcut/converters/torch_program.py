"""Exported PyTorch programs (.pt2) by torch.onnx; they are read as the engine reads them."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.converters.original import Original, first_line, need
from tailcut.engines.base import Arrays, EngineOptions
from tailcut.errors import UnsupportedError

_INSTALL = "'tailcut[torch]'"


class Program:
    """A program that `torch.export` made."""

    what = "a PyTorch program"

    def __init__(self, torch: Any, program: Any, outputs: Sequence[str]) -> None:
        """`outputs` are the names that it is served with; none where some of its outputs are not served."""
        self._torch = torch
        self._program = program
        self._outputs = outputs

    def write(self, folder: Path) -> Path:
        """See `Original.write`."""
        need("onnxscript", _INSTALL)
        path = folder / "model.onnx"
        names = list(self._outputs) or None
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
            warnings.simplefilter("ignore")
            try:
                self._torch.onnx.export(self._program, (), dynamo=True, verbose=False, output_names=names).save(path)
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
    from tailcut.engines.torch.program import read_program  # noqa: PLC0415  it imports torch

    program = read_program(path, EngineOptions(name="torch"))
    spec = program.exported.call_spec.out_spec
    whole = spec is None or len(program.outputs) == spec.num_leaves
    return Program(torch, program.exported, program.spec.output_names if whole else ())


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Without a logger's warnings, such as one for each operator of packages that are not installed."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)
