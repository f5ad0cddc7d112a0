"""Facts about a SavedModel that OpenVINO does not report: its signature, and whether it changes variables.

OpenVINO drops assignments to variables, merges signatures if none is the default, and uses names of the graph if those
of the signature do not fit. `saved_model.pb` is read field by field, without TensorFlow's message classes; see
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/saved_model.proto, meta_graph.proto, and
graph.proto, function.proto and attr_value.proto in tensorflow/core/framework. Weights in the graph are skipped.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tailcut.errors import ModelFileError, UnsupportedError

_DEFAULT = "serving_default"
_OWN = "__saved_model"  # prefix of TensorFlow's own signatures, such as the initialiser
_SERVE = "serve"  # the tag of the graph to serve
_WRITES = re.compile(  # operators that change a variable or a table, not those that return a changed copy
    r"Assign(Add|Sub)?(Variable(Op|XlaConcatND))?|CountUpTo|Scatter(Add|Div|Max|Min|Mul|Sub|Update)|"
    r"ScatterNd(Add|Max|Min|Sub|Update)|LookupTable(Insert|Remove)(V2)?|"
    r"Resource(Accumulator|Apply|CountUpTo|Scatter|Sparse|StridedSliceAssign)\w*"
)
_BYTES, _VARINT = 2, 0  # protobuf wire types
_FIXED_BYTES = {1: 8, 5: 4}


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature of a SavedModel.

    Args:
        inputs: the keys of the inputs.
        outputs: the keys of the outputs.
        writes: an operator that the signature runs and that changes a variable; "" if there is none.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    writes: str = ""


def read_signature(path: Path) -> Signature:
    """The signature to serve of the SavedModel in a directory.

    Raises:
        ModelFileError: its graph cannot be read.
        UnsupportedError: it has no signature, or it has several and none is the default.
    """
    try:
        graphs = _all(memoryview((path / "saved_model.pb").read_bytes()), 2)
        tags = [[_text(tag) for info in _all(graph, 1) for tag in _all(info, 4)] for graph in graphs]
        served = graphs[next((index for index, has in enumerate(tags) if _SERVE in has), 0)]
        signatures = {_text(_first(entry, 1)): _first(entry, 2) for entry in _all(served, 5)}
        name = _choose({name for name in signatures if not name.startswith(_OWN)}, path)
        inputs, outputs = (
            {_text(_first(entry, 1)): _text(_first(_first(entry, 2), 1)) for entry in _all(signatures[name], number)}
            for number in (1, 2)
        )
        return Signature(tuple(inputs), tuple(outputs), _written(_first(served, 2), outputs.values()))
    except UnsupportedError:
        raise
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelFileError(f"{path}: its saved_model.pb cannot be read: {error}") from None


def _choose(names: Collection[str], path: Path) -> str:
    if not names:
        raise UnsupportedError(f"{path}: the model has no signature: save it with signatures=...")
    if _DEFAULT not in names and len(names) > 1:
        listed = ", ".join(sorted(names))
        raise UnsupportedError(
            f"{path}: the model has the signatures {listed}, and none is {_DEFAULT}: save the one to serve by that name"
        )
    return _DEFAULT if _DEFAULT in names else next(iter(names))


def _written(graph: memoryview, tensors: Collection[str]) -> str:
    """An operator that changes a variable when these tensors are computed, also in called functions; "" without one."""
    functions = {
        _text(_first(_first(function, 1), 1)): function for library in _all(graph, 2) for function in _all(library, 1)
    }
    waiting = list(_needed(graph, tensors))
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        operator = _text(_first(node, 2))
        if _WRITES.fullmatch(operator):
            return operator
        called = {operator, *_functions_of(node)} & functions.keys() - seen
        seen |= called
        for name in called:
            waiting += _all(functions[name], 3)  # all nodes: those with effects run even if no output needs them
    return ""


def _needed(graph: memoryview, tensors: Collection[str]) -> Iterator[memoryview]:
    """Yield the nodes that these tensors depend on, which excludes those that initialise or restore variables."""
    nodes = {_text(_first(node, 1)): node for node in _all(graph, 1)}
    waiting = list(tensors)
    while waiting:
        name = waiting.pop().removeprefix("^").partition(":")[0]  # NODE, NODE:0, or ^NODE for a control dependency
        node = nodes.pop(name, None)
        if node is not None:
            yield node
            waiting += map(_text, _all(node, 3))


def _functions_of(node: memoryview) -> Iterator[str]:
    """Yield the names of functions among a node's attributes."""
    for attribute in _all(node, 5):
        value = _first(attribute, 2)
        listed = [function for items in _all(value, 1) for function in _all(items, 9)]
        for function in _all(value, 10) + listed:
            yield _text(_first(function, 1))


# Protobuf's wire format: https://protobuf.dev/programming-guides/encoding


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _first(message: memoryview, number: int) -> memoryview:
    """A field that occurs once in a message; empty if it is missing, as protobuf omits empty fields."""
    return next((value for result, value in _fields(message) if result == number), memoryview(b""))


def _all(message: memoryview, number: int) -> list[memoryview]:
    return [value for result, value in _fields(message) if result == number]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message that hold texts, bytes or messages, with their numbers."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("cut short")
            yield tag >> 3, message[at : at + size]
            at += size
        elif tag & 7 == _VARINT:
            _, at = _varint(message, at)
        else:
            at += _FIXED_BYTES[tag & 7]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at an offset, and the offset after it."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | message[at] << shift, at + 1
