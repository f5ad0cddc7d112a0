"""OpenVINO's own answers, compiled so that none of the known faults of its new sizes can occur (decision 046).

It is what `shape_check.py` compares with where no other engine reads a model's file: float32, without the generated
code for attention (`SNIPPETS_MODE`), whose answers depend on the first size that it computed, and recompiled after
every request that it refuses. Sizes that do not fit the graph are found before they are computed (`openvino_sizes.py`).
It computes only the first request of each size, so its speed matters little.
"""

from typing import Any

import numpy as np

from tailcut.engines.base import Arrays
from tailcut.engines.error_line import short
from tailcut.engines.hints import InputHints
from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_instance import Instance
from tailcut.engines.openvino_sizes import SizeBounds, SizeInference
from tailcut.engines.openvino_values import ValueCheck
from tailcut.errors import EngineError
from tailcut.spec import ModelSpec


class OpenVinoReference:
    """One compiled model; for one thread at a time.

    Args:
        model: an `openvino.Model`.
        spec: its signature.
        threads: of a call, two at least; 0 leaves them to openvino.
        values: what the model demands of the values of its inputs.

    Raises:
        EngineError: it cannot be compiled.
    """

    def __init__(self, model: Any, spec: ModelSpec, threads: int, values: ValueCheck) -> None:
        self.spec = spec
        self.hints = InputHints(below=values.below)
        self._values = values
        self._model = model
        self._bounds = SizeBounds.of(model, spec)
        self._sizes = SizeInference(model, spec)
        self._properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "SNIPPETS_MODE": "DISABLE",
        }
        if threads:
            self._properties["INFERENCE_NUM_THREADS"] = max(2, threads)
        self._instance = Instance(self._compiled(), spec, by_place=True)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute all outputs into fresh arrays.

        Raises:
            InvalidInputError: the file does not allow the request's sizes, or an operator its values.
            EngineError: the model refuses the request.
        """
        shapes = tuple(inputs[tensor.name].shape for tensor in self.spec.inputs)
        self._bounds.check(shapes)
        self._sizes.infer(inputs)
        self._values.check(inputs, shapes)
        try:
            return self._instance.run(inputs)
        except EngineError:
            self._instance.take_over(self._compiled())
            raise

    def close(self) -> None:
        """Free the model."""
        del self._instance

    def _compiled(self) -> Any:
        try:
            return core().compile_model(self._model, "CPU", self._properties)
        except RuntimeError as error:
            raise EngineError(f"openvino cannot compile the model: {short(error)}") from None
