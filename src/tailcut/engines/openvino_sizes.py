"""Sizes that OpenVINO is not to be asked for: it would compute them outside the memory of their tensors.

A graph may take sizes that do not fit one of its operators, such as an image that has become lower than the window that
a pool slides over it. Compiled with free sizes, OpenVINO 2026.4.1 raises nothing then: it returns the outputs of the
call before, or none at all, or reads memory that is not its own, which ends the process. Its own inference of sizes,
on a copy of the graph, finds what does not fit, and computes nothing.
"""

from typing import Any

import numpy as np
import openvino as ov

from tailcut.engines.base import Arrays, Engine
from tailcut.engines.error_line import short
from tailcut.engines.hints import Hinted, InputHints
from tailcut.errors import EngineError
from tailcut.spec import ModelSpec


class SizeInference:
    """The sizes of all tensors in a graph, from those of its inputs.

    Args:
        model: an `openvino.Model`, which stays as it is.
        spec: its signature, with its inputs in the model's order unless `by_name`.
        by_name: inputs are found by their names.
    """

    def __init__(self, model: Any, spec: ModelSpec, *, by_name: bool = False) -> None:
        self._model = model
        self._spec = spec
        self._by_name = by_name

    def infer(self, inputs: Arrays) -> None:
        """See that the sizes of a request fit all operators.

        Raises:
            EngineError: they do not.
        """
        copy = self._model.clone()
        ports = [copy.input(tensor.name) for tensor in self._spec.inputs] if self._by_name else copy.inputs
        shapes = [ov.PartialShape(list(inputs[tensor.name].shape)) for tensor in self._spec.inputs]
        try:
            copy.reshape(dict(zip(ports, shapes, strict=True)))
        except RuntimeError as error:
            raise EngineError(f"openvino refuses these sizes: {short(error)}") from None


class SizedReference:
    """Another engine on the same model, which refuses besides what OpenVINO finds not to fit.

    Args:
        engine: that answers; it belongs to the reference.
        sizes: of the model as OpenVINO has it.
        advice: what the user may do where only OpenVINO refuses.
    """

    def __init__(self, engine: Engine, sizes: SizeInference, advice: str) -> None:
        self.spec = engine.spec
        self.hints = engine.hints if isinstance(engine, Hinted) else InputHints()
        self._engine = engine
        self._sizes = sizes
        self._advice = advice

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """All outputs, in fresh arrays.

        Raises:
            EngineError: the engine or OpenVINO refuses the request.
        """
        answer = self._engine.run(inputs)
        try:
            self._sizes.infer(inputs)
        except EngineError as error:
            raise EngineError(f"{error}: {self._advice}") from None
        return answer

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
