"""The inputs and outputs of OpenVINO's models, found for the tensors of a signature."""

from collections.abc import Sequence
from typing import Any

from openvino import opset16 as ops

from tailcut.errors import UnsupportedError
from tailcut.spec import ModelSpec, TensorSpec


def separate(model: Any, spec: ModelSpec, *, by_place: bool = False) -> None:
    """Insert an operator between each input and output that are the same tensor in OpenVINO, in place.

    A graph may return an input unchanged, and OpenVINO removes operators that change nothing, such as Dropout. The
    input then has the name of the output, and memory that is set for one is used for both.

    Args:
        model: an `openvino.Model`, whose inputs and outputs are in the order of the spec.
        spec: its signature.
        by_place: find tensors by index, because their names are Tailcut's, not the model's.
    """
    inputs, results = model.get_parameters(), model.get_results()
    if len(inputs) != len(spec.inputs) or len(results) != len(spec.outputs):
        return
    names = {parameter.get_name(): tensor.name for parameter, tensor in zip(inputs, spec.inputs, strict=True)}
    for result, tensor in zip(results, spec.outputs, strict=True):
        source = _source(result)
        name = names.get(source.get_node().get_name())
        if name is None or (name == tensor.name and not by_place):
            continue
        copy = ops.identity(source).output(0)
        result.input_value(0).get_tensor().set_names(set())
        if not by_place:
            source.get_tensor().set_names({name})
            copy.get_tensor().set_names({tensor.name})
        result.input(0).replace_source_output(copy)


def _source(result: Any) -> Any:
    """The port that an output returns, skipping casts to the same type, which OpenVINO removes later."""
    source = result.input_value(0)
    while source.get_node().get_type_name() == "Convert":
        before = source.get_node().input_value(0)
        if before.get_element_type() != source.get_element_type():
            break
        source = before
    return source


def ports_in_order(ports: Sequence[Any], tensors: Sequence[TensorSpec], *, by_place: bool = False) -> list[Any]:
    """The port of each tensor.

    Args:
        ports: the model's inputs or outputs.
        tensors: those of the signature.
        by_place: both are in the same order, and the names are Tailcut's, not the model's.

    Raises:
        UnsupportedError: the model has lost a tensor.
    """
    return list(ports) if by_place else [_by_name(ports, tensor.name) for tensor in tensors]


def _by_name(ports: Sequence[Any], name: str) -> Any:
    for port in ports:
        if name in port.names:
            return port
    raise UnsupportedError(f"openvino lost tensor {name!r} while it compiled the model: use onnxruntime")
