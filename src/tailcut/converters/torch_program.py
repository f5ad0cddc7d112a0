"""Converts exported PyTorch programs (.pt2), by torch.onnx; they are read in the same way as by the engine."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tailcut.converters.original import Original, first_line, need
from tailcut.engines.base import Arrays, EngineOptions
from tailcut.errors import UnsupportedError

if TYPE_CHECKING:
    from tailcut.engines.torch.program import TorchProgram

_log = logging.getLogger("tailcut")
_INSTALL = "'tailcut[torch]'"


class ExportedProgram:
    """A program made by `torch.export`, with the inputs and outputs with which it is served."""

    what = "a PyTorch program"

    def __init__(self, torch: Any, program: "TorchProgram") -> None:
        from tailcut.engines.torch.passes import flat  # noqa: PLC0415  it imports torch

        self._torch = torch
        self._program = program
        self._compute = flat(program.exported, program.outputs)

    def write(self, folder: Path) -> Path:
        """See `Original.write`."""
        need("onnxscript", _INSTALL)
        path = folder / "model.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
            warnings.simplefilter("ignore")
            try:
                exported = self._with_tensors_alone()
                self._torch.onnx.export(exported, (), dynamo=True, verbose=False, output_names=self._names()).save(path)
            except Exception as error:  # noqa: BLE001  torch's errors share no base
                raise UnsupportedError(f"torch.onnx cannot convert the program: {first_line(error)}") from None
        return path

    def answer(self, inputs: Arrays, outputs: Arrays) -> list[np.ndarray]:
        """See `Original.answer`."""
        from tailcut.engines.torch.engine import as_array, as_tensor  # noqa: PLC0415  it imports torch

        tensors = [as_tensor(np.require(array, requirements=["C", "W"])) for array in inputs.values()]
        with self._torch.inference_mode():
            results = self._compute(*self._program.arguments.all(tensors))
        return [as_array(spec, result) for spec, result in zip(self._program.spec.outputs, results, strict=True)]

    def _with_tensors_alone(self) -> Any:
        """The program without outputs that are not tensors, which ONNX does not support and which are not served."""
        exported, kept = self._program.exported, self._program.outputs
        signature = exported.graph_signature
        if len(kept) == len(signature.output_specs):
            return exported
        pytree = self._torch.utils._pytree  # noqa: SLF001  no public name has it
        [end] = [node for node in exported.graph.nodes if node.op == "output"]
        end.args = (tuple(end.args[0][index] for index in kept),)
        signature.output_specs[:] = [signature.output_specs[index] for index in kept]
        exported.module_call_graph[0].signature.out_spec = pytree.tree_structure(tuple(kept))
        exported.graph.eliminate_dead_code()
        exported.graph_module.recompile()
        return exported

    def _names(self) -> list[str]:
        """The names of the outputs, changed where an input has the same name, which ONNX does not allow."""
        spec = self._program.spec
        taken, names = {*spec.input_names, *spec.output_names}, []
        for name in spec.output_names:
            own = name
            while own in spec.input_names or (own != name and own in taken):
                own += "_out"
            if own != name:
                _log.info("output %r is called %r in the ONNX file: an input has its name", name, own)
            names.append(own)
            taken.add(own)
        return names


def load_program(path: Path) -> Original:
    """Load the program in a file; nothing in it is unpickled or evaluated, unless the user trusts the file.

    Raises:
        ModelFileError: it is not a program.
        UnsupportedError: torch is not installed, or the program contains something that is not loaded.
    """
    torch = need("torch", _INSTALL)
    need("torch.onnx", _INSTALL)
    from tailcut.engines.torch.program import read_program  # noqa: PLC0415  it imports torch

    return ExportedProgram(torch, read_program(path, EngineOptions(name="torch")))


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Suppress a logger's warnings, such as one for each operator of packages that are not installed."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
