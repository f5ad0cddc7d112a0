"""The inputs and outputs of OpenVINO's models, found for the tensors of a signature."""

from collections.abc import Sequence
from typing import Any

from tailcut.errors import UnsupportedError
from tailcut.spec import TensorSpec


def ports_in_order(ports: Sequence[Any], tensors: Sequence[TensorSpec], *, by_place: bool = False) -> list[Any]:
    """The port of each tensor, by its name.

    Where OpenVINO takes an operator out that joins an input and an output, such as Dropout, the input has the output's
    name: ports and tensors that are left over belong to each other in their order.

    Args:
        ports: of the model.
        tensors: of the signature.
        by_place: names are ours, and not the model's.

    Raises:
        UnsupportedError: the model has lost a tensor.
    """
    if by_place:
        return list(ports)
    found = [next((place for place, port in enumerate(ports) if t.name in port.names), None) for t in tensors]
    left = [place for place in range(len(ports)) if place not in found]
    missing = [tensor.name for tensor, place in zip(tensors, found, strict=True) if place is None]
    if missing and len(missing) != len(left):
        raise UnsupportedError(f"openvino lost tensor {missing[0]!r} while it compiled the model: use onnxruntime")
    return [ports[place] if place is not None else ports[left.pop(0)] for place in found]
