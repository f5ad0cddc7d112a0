"""Initialisers and Constant nodes as values: always the shape; the elements of small ones in the file itself."""

from collections.abc import Mapping
from math import isfinite, prod
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from tailcut.engines.rows.sizes import number
from tailcut.engines.rows.values import ITEMS, Unclear, Value, array, known

_WIDE = 4  # bytes


def initializer(tensor: TensorProto) -> Value:
    """The value of a weight; external or large data is not read."""
    shape = tuple(number(size) for size in tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL or prod(tensor.dims) > ITEMS:
        return Value(shape)
    return constant(numpy_helper.to_array(tensor))


def constant(elements: np.ndarray) -> Value:
    """The value of an array; its elements are known if they are few and finite."""
    narrow = elements.dtype.kind != "b" and elements.dtype.itemsize < _WIDE  # sums of these may overflow
    if elements.size > ITEMS or elements.dtype.kind not in "iufb" or narrow:
        return Value(tuple(number(size) for size in elements.shape))
    numbers = [element.item() for element in elements.reshape(-1)]
    if not all(isfinite(element) for element in numbers):
        return Value(tuple(number(size) for size in elements.shape))
    items = array([number(element) for element in numbers]).reshape(elements.shape)
    return known(items, real=elements.dtype.kind == "f")


def constant_node(attributes: Mapping[str, Any]) -> Value:
    """A Constant node in any of its forms.

    Raises:
        Unclear: it has no known form.
    """
    for name, value in attributes.items():
        if name == "value":
            return value if isinstance(value, Value) else constant(value)
        if name == "sparse_value":
            return Value(tuple(number(size) for size in value.dims))
        if name in ("value_int", "value_ints"):
            return constant(np.array(value, np.int64))
        if name in ("value_float", "value_floats"):
            return constant(np.array(value, np.float32))
        if name == "value_string":
            return Value(())
        if name == "value_strings":
            return Value((number(len(value)),))
    raise Unclear("has no value")
