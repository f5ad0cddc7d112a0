"""OpenVINO as a reference for itself, compiled so that its known faults with new sizes cannot occur (decision 046).

`shape_check.py` compares with it if no other engine reads a model's file. It computes in float32 and without the
generated code for attention (`SNIPPETS_MODE`), whose answers depend on the first size that it computed, and it is
recompiled after every request that fails. Sizes that do not fit the graph are refused before they are computed
(`openvino_sizes.py`). It computes only the first request of each size, so its speed matters little.
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
        threads: threads per call, at least two; 0: openvino's choice.
        values: the model's check of input values.

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
            InvalidInputError: the file does not allow these sizes, or an operator does not allow these values.
            EngineError: the sizes do not fit the graph, or openvino failed.
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
