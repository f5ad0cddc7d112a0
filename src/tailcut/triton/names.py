"""Names of files in a model repository, and of tensor types."""

from typing import Any

from tailcut.errors import UnsupportedError

CONFIG_FILE = "config.pbtxt"


def type_of(tensor: Any) -> str:
    """The name of a tensor's data_type in a configuration, such as `TYPE_FP32`.

    Raises:
        UnsupportedError: the number is no known type.
    """
    known = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    if tensor.data_type not in known:
        raise UnsupportedError(f"tensor {tensor.name!r} has the unknown data_type {tensor.data_type}")
    return str(known[tensor.data_type].name)
