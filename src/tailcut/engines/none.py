"""An engine that computes nothing and returns zeros, so that a measurement shows the cost of the server alone.

`tailcut tune` serves it to measure what each protocol and transport costs; the profile that it writes never names it.
"""

from pathlib import Path

import numpy as np

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.declared import declared_spec
from tailcut.engines.files import FileKind, kind_of, model_name
from tailcut.engines.telemetry import import_openvino
from tailcut.errors import ReleasedError
from tailcut.spec import DType, ModelSpec


class NoneEngine:
    """A model's signature without its computation."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        self.options = options
        self.spec = read_signature(path, options, name)
        self._closed = False

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        self._check_open()
        check_arrays(self.spec, inputs, outputs)
        for array in outputs.values():
            array[...] = 0

        def call(_keep: object = (dict(inputs), dict(outputs))) -> None:
            self._check_open()

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`: as many rows of zeros as the request has; other free dimensions have size 1."""
        self._check_open()
        rows = next((array.shape[0] for array in inputs.values() if array.ndim), 1) if self.spec.batched else 1
        outputs = {}
        for tensor in self.spec.outputs:
            shape = [1 if dim is None else dim for dim in tensor.shape]
            if self.spec.batched:
                shape[0] = rows
            text = tensor.dtype is DType.BYTES
            outputs[tensor.name] = np.full(shape, "", object) if text else np.zeros(shape, tensor.dtype.numpy)
        return outputs

    def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ReleasedError("the engine was closed")


def read_signature(path: Path, options: EngineOptions, name: str | None) -> ModelSpec:
    """The signature that an engine with these options has, without loading that engine.

    Raises:
        ModelFileError: the file is missing or corrupt.
        UnsupportedError: an option does not fit the model.
    """
    kind = kind_of(path)
    if kind is FileKind.ONNX:
        from tailcut.engines.edits import prepare  # noqa: PLC0415  onnx, which not every model needs
        from tailcut.engines.graph import read_spec  # noqa: PLC0415  likewise

        return read_spec(prepare(path, options).graph, path, name)
    if kind is FileKind.PROGRAM:
        from tailcut.engines.torch.program import read_program  # noqa: PLC0415  PyTorch, likewise

        return read_program(path, options, name).spec
    if kind is FileKind.SCRIPT:
        return declared_spec(options.signature, name or model_name(path))
    import_openvino()
    from tailcut.engines.openvino_files import read_file, spec_of  # noqa: PLC0415  only it reads such files

    return spec_of(read_file(path, kind, options), path, kind, name)
