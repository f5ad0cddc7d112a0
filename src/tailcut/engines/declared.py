"""A signature declared in the settings, for files without one: TorchScript. Pure."""

import json
import re

from tailcut.errors import UnsupportedError
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows, TensorSpec

_LINE = re.compile(r"(input|output) (\S+) ([A-Z0-9]+) (\[[-0-9, ]*\])\Z")


def declared_spec(lines: tuple[str, ...], name: str) -> ModelSpec:
    """The signature in lines of the form of `ModelSpec.signature`: `input x FP32 [-1, 256]`.

    Nothing is known about the rows, because there is no graph for the rules.

    Raises:
        UnsupportedError: a line is not of this form, or there is no input or output.
    """
    tensors: dict[str, list[TensorSpec]] = {"input": [], "output": []}
    for line in lines:
        match = _LINE.match(line)
        if match is None or match[3] not in {kind.value for kind in DType}:
            raise UnsupportedError(f"engine.signature: {line!r} is not of the form 'input x FP32 [-1, 256]'")
        shape = tuple(None if dim < 0 else int(dim) for dim in json.loads(match[4]))
        tensors[match[1]].append(TensorSpec(match[2], DType(match[3]), shape))
    if not all(tensors.values()):
        raise UnsupportedError(
            "a TorchScript file does not declare its inputs and outputs: tune it with --data, whose arrays "
            "define them, serve it from a model repository, whose config.pbtxt lists them, or set "
            "engine.signature in a profile"
        )
    spec = ModelSpec(name, tuple(tensors["input"]), tuple(tensors["output"]))
    rows = (
        RowEvidence(Rows.UNKNOWN, "the rows of TorchScript are not analysed")
        if spec.batchable
        else RowEvidence(Rows.DEPENDENT, "")
    )
    return ModelSpec(name, spec.inputs, spec.outputs, rows.rows, rows.reason)
