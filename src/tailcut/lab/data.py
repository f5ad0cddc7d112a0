"""Makes a model's requests from the arrays of a data file. Pure, except for reading JSONL and logging conversions."""

import logging
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from tailcut.errors import MissingFileError, UsageError
from tailcut.spec import DType, ModelSpec, TensorSpec

ONLY_INPUT = ""  # the name of the array in an .npy file, which is for the model's only input
_LISTED = 12  # names in a message
_FLOATS = {DType.FP16, DType.BF16, DType.FP32, DType.FP64}
_GROUP = re.compile(r"/[0-9]+$")  # after an array's name: the group of requests with one length, or the line
_log = logging.getLogger("tailcut")
T = TypeVar("T")


def read_jsonl(path: Path) -> dict[str, np.ndarray]:
    """Read a file with one request per line, `{"INPUT": value}`, as arrays named INPUT/LINE in the order of the lines.

    Raises:
        UsageError: the file is missing, unreadable or empty, or a line is not such an object; the message names it.
    """
    arrays: dict[str, np.ndarray] = {}
    names: list[str] = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such data file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = _object(path, number, line)
        names = names or sorted(request)
        if sorted(request) != names:
            raise UsageError(f"{path}: line {number} has {_listed(request)}, the first line {_listed(names)}")
        for name, value in request.items():
            arrays[f"{name}/{number}"] = _array(path, number, name, value)
    if not arrays:
        raise UsageError(f"{path}: no requests: write one JSON object a line, with a value for each input")
    return arrays


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or not value:
        raise UsageError(f'{path}: line {number} is not a JSON object with the inputs of a request: {{"NAME": value}}')
    return value


def _array(path: Path, number: int, name: str, value: object) -> np.ndarray:
    try:
        array = np.array(value)
    except (ValueError, OverflowError):  # lists with different lengths, or an integer over 64 bits
        array = np.array(None)
    if array.dtype.kind not in "fiubU":
        raise UsageError(
            f"{path}: line {number}: {name!r} is not a number, a string, or a list of them with equal lengths"
        )
    return array


def arrays_of_inputs(spec: ModelSpec, data: Mapping[str, np.ndarray], *, say: bool = True) -> dict[str, np.ndarray]:
    """The arrays for the model's inputs, in the model's dtypes; other arrays are left out.

    A row without a batch axis gets one. Conversions are logged if `say`.

    Raises:
        UsageError: an input is missing, or its array cannot be converted to the model's dtype.
    """
    if ONLY_INPUT in data:
        if len(spec.inputs) != 1:
            names = ", ".join(spec.input_names)
            raise UsageError(
                f"an .npy file has one array, but the model has {len(spec.inputs)} inputs: save {names} as .npz"
            )
        data = {spec.inputs[0].name: data[ONLY_INPUT]}
    arrays = {}
    for tensor in spec.inputs:
        if tensor.name not in data:
            there = dict.fromkeys(_GROUP.sub("", name) for name in data)
            raise UsageError(f"the data file has no array {tensor.name!r}: it has {_listed(there)}")
        array = _converted(tensor, data[tensor.name], say=say)
        arrays[tensor.name] = array[np.newaxis] if _is_row(tensor, array) else array
    return arrays


def groups_of(spec: ModelSpec, data: Mapping[str, np.ndarray], name: str) -> list[str]:
    """The groups of one input's arrays."""
    lead = f"{name}/"
    others = tuple(f"{other}/" for other in spec.input_names if other.startswith(lead))
    return [array.removeprefix(lead) for array in data if array.startswith(lead) and not f"{array}/".startswith(others)]


def arrays_of_group(spec: ModelSpec, data: Mapping[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    """The arrays of one group, by input; inputs without an array in any group are left out.

    Raises:
        UsageError: an input has arrays, but none in this group.
    """
    arrays = {}
    for name in spec.input_names:
        key = f"{name}/{group}"
        if key in data:
            arrays[name] = data[key]
            continue
        there = [*([name] if name in data else []), *(f"{name}/{other}" for other in groups_of(spec, data, name))]
        if there:
            raise UsageError(
                f"the data file has no array {key!r}: it has {_listed(there)}; a group has one array for each input"
            )
    return arrays


def spread(groups: Sequence[Sequence[T]], limit: int) -> list[T]:
    """The requests of several groups in one sequence with each group spread evenly over it, up to a limit.

    So any beginning of the sequence has about the same share of each group. Groups of equal size take turns, and those
    of one request each keep their order. Beyond the limit, each group loses its share of requests, or some groups,
    drawn from all of them, are left out.
    """
    kept = min(1.0, limit / max(1, sum(map(len, groups))))
    parts = [evenly(group, max(1, round(kept * len(group)))) for group in groups]
    places = [((number + 0.5) / len(part), request) for part in parts for number, request in enumerate(part)]
    places.sort(key=lambda item: item[0])  # stable
    return [request for _, request in evenly(places, limit)]


def joined(groups: Sequence[Sequence[Mapping[str, np.ndarray]]], rows: int) -> list[list[dict[str, np.ndarray]]]:
    """Join rows of equal length to requests of `rows` rows, for each length; logs how many rows are left over.

    Raises:
        UsageError: no length has this many rows.
    """
    lengths: dict[tuple[tuple[int, ...], ...], list[Mapping[str, np.ndarray]]] = {}
    for request in (request for group in groups for request in group):
        length = tuple(array.shape[1:] for array in request.values())
        count = min(map(len, request.values()))
        lengths.setdefault(length, []).extend(
            {name: array[row : row + 1] for name, array in request.items()} for row in range(count)
        )
    enough = [members for members in lengths.values() if len(members) >= rows]
    if not enough:
        most = max(map(len, lengths.values()), default=0)
        raise UsageError(f"a request needs {rows} rows of one length, and the data file has at most {most} of one")
    left_out = sum(len(members) for members in lengths.values() if len(members) < rows)
    if left_out:
        total = left_out + sum(map(len, enough))
        _log.warning("%d of %d rows are left out: their lengths have fewer than %d", left_out, total, rows)
    return [
        [_stacked(members[start : start + rows]) for start in range(0, len(members) - rows + 1, rows)]
        for members in enough
    ]


def _stacked(requests: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items in their order: one from each of as many equal parts, the same in every call.

    The item of each part is drawn at random: a fixed step could take only one of two alternating kinds.
    """
    count = min(most, len(items))
    if count == len(items):
        return list(items)
    drawn = random.Random(0)  # noqa: S311  a sample, not a secret
    ends = [number * len(items) // count for number in range(count + 1)]
    return [items[drawn.randrange(start, end)] for start, end in pairwise(ends)]


def has_request_axis(spec: ModelSpec, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether all arrays have one more axis than the model's inputs, with one request per element."""
    return all(_has_request_axis(tensor, arrays[tensor.name]) for tensor in spec.inputs)


def whole_requests(spec: ModelSpec, arrays: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    """Up to `limit` requests for a model whose requests are not split into rows.

    An array may be the input of one request, which all requests then share; have an additional first axis, with one
    request per element; or have several requests along a fixed first axis: eight rows for an input of [1, ...] are
    eight requests. An array with one request is shared, too.

    Raises:
        UsageError: an array is none of these, has no request, or not as many as the others.
    """
    pieces = {tensor.name: _pieces(tensor, arrays[tensor.name]) for tensor in spec.inputs}
    shared = {name: parts for name, parts in pieces.items() if parts is arrays[name]}
    count = common_length({name: parts for name, parts in pieces.items() if name not in shared}, "requests")
    shared |= {name: parts[0] for name, parts in pieces.items() if name not in shared and len(parts) < count}
    return [
        {name: shared[name] if name in shared else parts[number] for name, parts in pieces.items()}
        for number in evenly(range(count), limit)
    ]


def common_length(arrays: Mapping[str, Sequence[Any] | np.ndarray], of: str) -> int:
    """The common length of arrays; those with one item, which all requests share, count only where all have one.

    Raises:
        UsageError: two arrays differ in length, or they are empty; the message names both.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    longest = max(lengths, key=lambda name: lengths[name], default="")
    for name, length in lengths.items():
        if not length:
            raise UsageError("the data file has no rows")
        if length not in {1, lengths[longest]}:
            raise UsageError(
                f"array {longest!r} of the data file has {lengths[longest]} {of}, and {name!r} has {length}: "
                "all inputs need as many, or one that all share"
            )
    return lengths.get(longest, 1)


def misfit(tensor: TensorSpec, array: np.ndarray) -> UsageError:
    """The error for an array that does not fit an input."""
    return UsageError(
        f"array {tensor.name!r} of the data file is {array.dtype} {list(array.shape)}, "
        f"the model takes {tensor.describe()}"
    )


def _is_row(tensor: TensorSpec, array: np.ndarray) -> bool:
    return len(tensor.shape) > 0 and tensor.shape[0] in {None, 1} and tensor.accepts((1, *array.shape))


def _listed(names: Iterable[str]) -> str:
    """The first names, for a message."""
    every = list(names)
    more = f" and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more if every else "none"


def _has_request_axis(tensor: TensorSpec, array: np.ndarray) -> bool:
    return array.ndim == len(tensor.shape) + 1 and tensor.accepts(array.shape[1:])


def _pieces(tensor: TensorSpec, array: np.ndarray) -> np.ndarray | Sequence[np.ndarray]:
    """The parts of an array for each request; the array itself where it is for one request."""
    if tensor.accepts(array.shape):
        return array
    if _has_request_axis(tensor, array):
        return [array[number, ...] for number in range(len(array))]  # of a scalar: an array of no axes
    rows = tensor.shape[0] if tensor.shape else None
    if rows and array.ndim and len(array) % rows == 0 and tensor.accepts((rows, *array.shape[1:])):
        return [array[start : start + rows] for start in range(0, len(array), rows)]
    raise misfit(tensor, array)


def _decoded(tensor: TensorSpec, array: np.ndarray) -> np.ndarray:
    try:
        return np.char.decode(array, "utf-8").astype(object)
    except UnicodeDecodeError:
        raise UsageError(
            f"array {tensor.name!r} of the data file has bytes that are not UTF-8, the model takes text"
        ) from None


def _negative(array: np.ndarray) -> np.ndarray:
    return np.zeros(array.shape, bool) if array.dtype.kind == "b" else array < 0


def _converted(tensor: TensorSpec, array: np.ndarray, *, say: bool) -> np.ndarray:
    """The array in the model's dtype, where no value changes beyond the precision of floats."""
    if tensor.dtype is DType.BYTES:
        if array.dtype.kind not in "SUO":
            raise misfit(tensor, array)
        if array.dtype.kind == "S" and tensor.text:
            return _decoded(tensor, array)
        return array.astype(object) if array.dtype.kind in "SU" else array
    wanted = tensor.dtype.numpy
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in "fiub":
        raise misfit(tensor, array)
    with np.errstate(over="ignore", invalid="ignore"):
        new = array.astype(wanted)
        if array.dtype.kind == "f" and tensor.dtype in _FLOATS:
            kept = bool((np.isfinite(new) == np.isfinite(array)).all())
        else:  # a wrapped integer converts back to the same value, except for its sign
            kept = np.array_equal(new.astype(array.dtype), array) and np.array_equal(_negative(new), _negative(array))
    if not kept:
        raise UsageError(
            f"array {tensor.name!r} of the data file is {array.dtype} with values that {wanted} cannot represent, "
            f"the model takes {tensor.describe()}: convert it yourself"
        )
    if say:
        _log.warning("array %r of the data file is %s: converted to the model's %s", tensor.name, array.dtype, wanted)
    return new
