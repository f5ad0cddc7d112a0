"""The content of an inference request, for any transport: known tensors, shapes, positions, parameters. Pure.

Entries have the JSON form: objects with `name`, `datatype`, `shape` and `parameters`. The gRPC form is converted to it
first, so that errors have the same text for both.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from tailcut.durations import LONGEST_S
from tailcut.errors import InvalidInputError
from tailcut.memory.shared import RegionSlice
from tailcut.spec import ModelSpec, TensorSpec
from tailcut.wire.v2.tensors import shown

_MAX_ELEMENTS = 1 << 40  # more than any body has, and far from an overflow in numpy
_LARGEST = (1 << 63) - 1
LONGEST_US = LONGEST_S * 10**6
_LAST_PRIORITY = (1 << 32) - 1
_REGION = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


class WantedOutput(NamedTuple):
    """An output that a request asks for: as binary data, as JSON, or in shared memory."""

    name: str
    binary: bool
    region: RegionSlice | None = None


class Schedule(NamedTuple):
    """The timeout of a request, in nanoseconds (0: the server's default), and its priority.

    Priorities count from 1, the most urgent; 0 is the model's default.
    """

    timeout_ns: int = 0
    priority: int = 0


def schedule_of(parameters: Mapping[str, Any], default: Schedule = Schedule()) -> Schedule:  # noqa: B008  frozen
    """The schedule in the parameters `timeout` (microseconds) and `priority`; `default` has the values of missing ones.

    Raises:
        InvalidInputError: one of them is not a whole number in range.
    """
    if "timeout" not in parameters and "priority" not in parameters:
        return default
    timeout, priority = parameters.get("timeout", 0), parameters.get("priority", 0)
    if type(timeout) is not int or not 0 <= timeout <= LONGEST_US:
        raise InvalidInputError(f"parameter 'timeout' must be a whole number of microseconds, up to {LONGEST_US}")
    if type(priority) is not int or not 0 <= priority <= _LAST_PRIORITY:
        raise InvalidInputError(f"parameter 'priority' must be a whole number from 0 to {_LAST_PRIORITY}")
    return Schedule(timeout * 1000 or default.timeout_ns, priority or default.priority)


def known_entries(
    entries: object, known: Mapping[str, TensorSpec], what: str
) -> list[tuple[dict[str, Any], TensorSpec]]:
    """The entries of `inputs` or `outputs`, each with its tensor.

    Raises:
        InvalidInputError: they are not a list of objects, or a name is unknown or repeated.
    """
    if not isinstance(entries, list):
        raise InvalidInputError(f"{what}s must be a list of objects, got {kind_of(entries)}")
    checked: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInputError(f"{what}s must be a list of objects, got {kind_of(entry)} in it")
        name = entry.get("name")
        if not isinstance(name, str) or name not in known:
            raise InvalidInputError(f"unknown {what} {shown(name)}: the model has {', '.join(known)}")
        if name in checked:
            raise InvalidInputError(f"{what} {shown(name)} is repeated")
        checked[name] = entry
    return [(entry, known[name]) for name, entry in checked.items()]


def input_shape(spec: ModelSpec, tensor: TensorSpec, entry: dict[str, Any]) -> tuple[int, ...]:
    """The shape of an input, after checking its datatype and shape.

    Raises:
        InvalidInputError: one of them does not fit the model.
    """
    name, want = shown(tensor.name), tensor.describe()
    if entry.get("datatype") != tensor.dtype.value:
        raise InvalidInputError(f"input {name}: expected {want}, got datatype {shown(entry.get('datatype'))}")
    dims = entry.get("shape")
    if not isinstance(dims, list):
        raise InvalidInputError(f"input {name}: expected a shape for {want}, got {kind_of(dims)}")
    if len(dims) != len(tensor.shape):
        raise InvalidInputError(f"input {name}: expected {want}, got a shape of {len(dims)} dimensions")
    if any(type(dim) is not int for dim in dims):
        raise InvalidInputError(f"input {name}: expected {want}, got a shape that is not all integers")
    shape = tuple(dims)
    if not tensor.accepts(shape) or min(shape, default=0) < 0:
        raise InvalidInputError(f"input {name}: expected {want}, got {tensor.dtype} {list(shape)}")
    if prod(dim or 1 for dim in shape) > _MAX_ELEMENTS:
        raise InvalidInputError(f"input {name}: {list(shape)} is more than {_MAX_ELEMENTS} elements")
    if spec.batched and shape[0] == 0:
        raise InvalidInputError(f"input {name}: expected a batch of at least 1, got {list(shape)}")
    return shape


def check_present(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that no input is missing, and that all have the same batch size, where their axes do not differ by name.

    Raises:
        InvalidInputError: one is missing, or batch sizes differ.
    """
    for name in spec.input_names:
        if name not in shapes:
            raise InvalidInputError(f"input {shown(name)} is missing: the model takes {', '.join(spec.input_names)}")
    if spec.batched and not spec.are_rows([shapes[name][0] for name in spec.input_names]):
        raise InvalidInputError(f"inputs differ in their batch size: {[shape[0] for shape in shapes.values()]}")


def region_of(parameters: Mapping[str, Any], what: str) -> RegionSlice | None:
    """The slice of shared memory with a tensor; None where it is not in shared memory."""
    region, offset, size = (parameters.get(name) for name in _REGION)
    if region is None:
        return None
    if not isinstance(region, str):
        raise InvalidInputError(f"{what}: shared_memory_region must be a string, got {kind_of(region)}")
    offset = 0 if offset is None else offset
    for name, value in zip(_REGION[1:], (offset, size), strict=True):
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise InvalidInputError(f"{what}: {name} must be a number of bytes, got {kind_of(value)}")
    return RegionSlice(region, offset, size)  # type: ignore[arg-type]  # checked in the loop


def wanted_outputs(
    spec: ModelSpec, entries: object, parameters: Mapping[str, Any], *, binary: bool = False
) -> tuple[WantedOutput, ...]:
    """The requested outputs, in that order, or all; `binary` is the default of the transport."""
    asked = flag_of(parameters, "binary_data_output", "the request")
    default = binary if asked is None else asked
    if entries is None or entries == []:
        return tuple(WantedOutput(name, default) for name in spec.output_names)
    wanted: list[WantedOutput] = []
    for entry, tensor in known_entries(entries, {tensor.name: tensor for tensor in spec.outputs}, "output"):
        what = f"output {shown(tensor.name)}"
        own = parameters_of(entry, what)
        if own.get("classification"):
            raise InvalidInputError(f"{what}: classification is not supported: sort the scores yourself")
        flag = flag_of(own, "binary_data", what)
        wanted.append(WantedOutput(tensor.name, default if flag is None else flag, region_of(own, what)))
    return tuple(wanted)


def parameters_of(entry: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The `parameters` of a request, an input or an output; an empty dict where it has none."""
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInputError(f"the parameters of {what} must be an object, got {kind_of(parameters)}")
    return parameters


def flag_of(parameters: Mapping[str, Any], name: str, what: str) -> bool | None:
    """A parameter that is true or false, or None where it is absent."""
    flag = parameters.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise InvalidInputError(f"{name} of {what} must be true or false, got {kind_of(flag)}")
    return flag


def kind_of(value: object) -> str:
    """The kind of a JSON value, not the value."""
    return "a string" if isinstance(value, str) else shown(value)
