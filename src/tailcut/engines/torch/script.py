"""TorchScript (`torch.jit.save`), on the CPU, and only from files that the user trusts: it is a program of its own.

Such a file says neither the types nor the shapes of its inputs, so the settings do (`engine.signature`), or the
configuration of a model repository. The graph is PyTorch's own, and no rules read it: nothing is known of the rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailcut.engines.base import Arrays, Bound, Engine, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.declared import declared_spec
from tailcut.engines.files import FileKind, kind_of, model_name
from tailcut.engines.torch.engine import TorchEngine, as_array, as_tensor, copy_output, use_threads
from tailcut.engines.torch.program import short
from tailcut.engines.trust import is_trusted
from tailcut.errors import EngineError, ModelFileError, ReleasedError, TailcutError, UnsupportedError


def open_torch(path: Path, options: EngineOptions, name: str | None = None) -> Engine:
    """Load an exported program, or TorchScript.

    Raises:
        ModelFileError, UnsupportedError: as the engines.
    """
    return (ScriptEngine if kind_of(path) is FileKind.SCRIPT else TorchEngine)(path, options, name)


class ScriptEngine:
    """A scripted or traced module; calls may run at the same time."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        if not is_trusted(path):
            raise UnsupportedError(
                f"{path}: TorchScript is code of its own: export the model with torch.export.save (.pt2), or trust the "
                "file (--trust)"
            )
        if (options.precision, options.compiler, options.u8_input) != ("f32", "eager", None):
            raise UnsupportedError(f"{path}: TorchScript is computed as it is: use precision f32 and compiler eager")
        self.spec = declared_spec(options.signature, name or model_name(path))
        self.options = options
        use_threads(options.threads)
        try:
            self._module: Any = torch.jit.load(str(path), map_location="cpu").eval()
        except Exception as error:  # noqa: BLE001  PyTorch's errors share no base
            raise ModelFileError(f"{path}: PyTorch cannot load it: {short(error)}") from None

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        self._open()
        check_arrays(self.spec, inputs, outputs)
        ins = [as_tensor(inputs[name]) for name in self.spec.input_names]
        outs = [as_tensor(outputs[name]) for name in self.spec.output_names]
        keep = (dict(inputs), dict(outputs))

        def call(_keep: object = keep) -> None:
            for name, out, result in zip(self.spec.output_names, outs, self._compute(ins), strict=True):
                copy_output(name, out, result)

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        held = [np.require(inputs[name], requirements=["C", "W"]) for name in self.spec.input_names]
        results = self._compute(list(map(as_tensor, held)))
        found = {}
        for tensor, result in zip(self.spec.outputs, results, strict=True):
            found[tensor.name] = as_array(tensor, result)
            if not tensor.accepts(found[tensor.name].shape) or found[tensor.name].dtype != tensor.dtype.numpy:
                came = f"{found[tensor.name].dtype} {list(found[tensor.name].shape)}"
                raise EngineError(f"output {tensor.name!r} is {came}, but declared as {tensor.describe()}")
        return found

    def close(self) -> None:
        """See `Engine.close`."""
        self._module = None

    def _compute(self, ins: Sequence[Any]) -> Sequence[Any]:
        module = self._open()
        use_threads(self.options.threads)
        try:
            with torch.inference_mode():
                results = list(_tensors(module(*ins)))
        except TailcutError:
            raise
        except Exception as error:  # noqa: BLE001  as in __init__
            raise EngineError(f"PyTorch failed: {_told(error)}") from None
        if len(results) != len(self.spec.outputs):
            declared = ", ".join(self.spec.output_names)
            raise EngineError(f"the module returns {len(results)} tensors, but {declared} are declared")
        return results

    def _open(self) -> Any:
        if self._module is None:
            raise ReleasedError("the engine was closed")
        return self._module


def _tensors(result: Any) -> Sequence[Any]:
    """All tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _told(error: BaseException) -> str:
    """The last line of a traceback of TorchScript, which is the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
