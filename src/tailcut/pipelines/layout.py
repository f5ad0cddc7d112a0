"""How the arrays of a batch's requests lie in a shared region: numbers, then each tensor's bytes. Pure.

The head is int64: the number of parts and of requests, the rows of each request, and for each part and tensor its sizes
and its place. A part is a request, or the rows of all of them, one behind the other: then a function that takes all
rows needs no copy of them. Elements of BYTES are their lengths, then their bytes. Both sides know dtypes and ranks, so
none of it names a type, and none is executed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.errors import EngineError
from tailcut.spec import DType, TensorSpec

Parts = Sequence[Sequence[np.ndarray]]  # of each request, an array for each tensor
_ALIGN = 64
_HEAD_WORDS = 2
_MOST_KNOWN = 256  # heads of single requests that are remembered


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was found in a region.

    Args:
        parts: an array for each tensor, of each request; or of all requests together, as the only part.
        rows: of each request.
    """

    parts: list[list[np.ndarray]]
    rows: list[int]


@dataclass(frozen=True, slots=True)
class _Known:
    """How one request of this many rows lies there, where every row has a fixed size.

    Args:
        rows: of the request.
        head: uint8, as it begins the region.
        size: of everything, in bytes.
        places: where each tensor begins.
        shapes: of each tensor.
    """

    rows: int
    head: np.ndarray
    size: int
    places: list[int]
    shapes: list[tuple[int, ...]]


class TensorLayout:
    """Packs the arrays of these tensors into bytes, and finds them there again.

    Most calls carry one request, and its head depends on the number of rows alone where these have a fixed size: it is
    made and read once for each number.
    """

    def __init__(self, tensors: Sequence[TensorSpec]) -> None:
        self._tensors = tuple(tensors)
        self._dtypes = [tensor.dtype.numpy for tensor in tensors]
        self._words = sum(len(tensor.shape) + 1 for tensor in tensors)  # of one part
        self._fixed = all(tensor.row_bytes is not None for tensor in tensors)
        self._head_bytes = 8 * (_HEAD_WORDS + 1 + self._words)  # of one request
        self._written: dict[int, _Known] = {}  # by the number of rows
        self._read: dict[bytes, _Known] = {}  # by the head

    def pack(self, parts: Parts) -> "Packed":
        """Lay out the arrays of requests, each by itself; their bytes are copied when they are written."""
        if len(parts) == 1 and self._fixed:
            return self._pack_known(parts[0])
        return self._pack([[arrays] for arrays in parts], rows_of(parts))

    def pack_together(self, parts: Parts, rows: Sequence[int] = ()) -> "Packed":
        """Lay out the rows of requests as one part; each by itself where their sizes differ.

        Args:
            parts: the arrays of each request; or of all together, of which each request has `rows`.
            rows: left out, those of the parts.
        """
        if len(parts) == 1 and self._fixed and len(rows) <= 1:
            return self._pack_known(parts[0])
        rows = rows or rows_of(parts)
        first = [array.shape[1:] for array in parts[0]]
        if all([array.shape[1:] for array in arrays] == first for arrays in parts[1:]):
            return self._pack([parts], rows)
        return self._pack([[arrays] for arrays in parts], rows)

    def unpack(self, region: np.ndarray) -> Unpacked:
        """The arrays of each part: views of the region (BYTES: copies).

        Args:
            region: uint8 [size].

        Raises:
            EngineError: what is there is not such a layout.
        """
        if self._fixed:
            known = self._read.get(region[: self._head_bytes].tobytes())
            if known is not None and region.size >= known.size:
                items = zip(known.shapes, self._dtypes, known.places, strict=True)
                return Unpacked([[np.ndarray(shape, dtype, region, at) for shape, dtype, at in items]], [known.rows])
        try:
            count, requests = _numbers(region, _HEAD_WORDS)
            word = _HEAD_WORDS + requests
            head = _numbers(region, word + count * self._words)
            parts: list[list[np.ndarray]] = []
            for _ in range(count):
                arrays: list[np.ndarray] = []
                for tensor in self._tensors:
                    rank = len(tensor.shape)
                    shape = head[word : word + rank]
                    arrays.append(_array(tensor, region, shape, head[word + rank]))
                    word += rank + 1
                parts.append(arrays)
        except (ValueError, IndexError, TypeError) as error:
            raise EngineError(f"a stage's process wrote an unreadable message: {error}") from None
        rows = head[_HEAD_WORDS : _HEAD_WORDS + requests]
        if self._fixed and count == requests == 1 and len(self._read) < _MOST_KNOWN:
            shapes = [array.shape for array in parts[0]]
            places = [array.ctypes.data - region.ctypes.data for array in parts[0]]
            start = region[: self._head_bytes].copy()
            self._read[start.tobytes()] = _Known(rows[0], start, region.size, places, shapes)
        return Unpacked(parts, rows)

    def together(self, parts: Parts) -> list[np.ndarray]:
        """The rows of all requests in one array for each tensor: copied where there are several."""
        if len(parts) == 1:
            return list(parts[0])
        return [np.concatenate([arrays[index] for arrays in parts]) for index in range(len(self._tensors))]

    def _pack_known(self, arrays: Sequence[np.ndarray]) -> "Packed":
        """One request."""
        known = self._written.get(len(arrays[0])) or self._learn(arrays)
        blobs = [(at, _bytes(array)) for at, array in zip(known.places, arrays, strict=True)]
        return Packed(known.size, [(0, known.head), *blobs])

    def _learn(self, arrays: Sequence[np.ndarray]) -> _Known:
        rows = len(arrays[0])
        packed = self._pack([[arrays]], [rows])
        known = _Known(rows, packed.head, packed.size, packed.places, [array.shape for array in arrays])
        if len(self._written) < _MOST_KNOWN:
            self._written[rows] = known
        return known

    def _pack(self, groups: Sequence[Parts], rows: Sequence[int]) -> "Packed":
        """Each group is the requests of one part."""
        start = _HEAD_WORDS + len(rows)
        at = _up(8 * (start + len(groups) * self._words))
        heads: list[list[int]] = [[] for _ in groups]
        blobs: list[tuple[int, np.ndarray]] = []
        for index, tensor in enumerate(self._tensors):
            for numbers, group in zip(heads, groups, strict=True):
                arrays = [part[index] for part in group]
                count = len(arrays[0]) if len(arrays) == 1 else sum(map(len, arrays))
                numbers.extend((count, *arrays[0].shape[1:], at))
                for blob in _strings(arrays) if tensor.dtype is DType.BYTES else map(_bytes, arrays):
                    blobs.append((at, blob))
                    at += blob.size
            at = _up(at)
        head = np.array([len(groups), len(rows), *rows, *(number for numbers in heads for number in numbers)], np.int64)
        return Packed(at, [(0, head.view(np.uint8)), *blobs])


class Packed:
    """Arrays that are laid out, and how many bytes they take."""

    __slots__ = ("_blobs", "size")

    def __init__(self, size: int, blobs: list[tuple[int, np.ndarray]]) -> None:
        self.size = size
        self._blobs = blobs

    @property
    def head(self) -> np.ndarray:
        """The numbers that it begins with: uint8."""
        return self._blobs[0][1]

    @property
    def places(self) -> list[int]:
        """Where each array begins."""
        return [at for at, _ in self._blobs[1:]]

    def write(self, region: np.ndarray) -> None:
        """Copy everything into a region (uint8) of `size` bytes or more."""
        for at, blob in self._blobs:
            region[at : at + blob.size] = blob


def rows_of(parts: Parts) -> list[int]:
    """How many rows each request has."""
    return [len(arrays[0]) for arrays in parts]


def split_rows(arrays: Sequence[np.ndarray], rows: Sequence[int]) -> list[list[np.ndarray]]:
    """The arrays of each request again, of this many rows each."""
    parts: list[list[np.ndarray]] = []
    start = 0
    for count in rows:
        parts.append([array[start : start + count] for array in arrays])
        start += count
    return parts


def _numbers(region: np.ndarray, count: int) -> list[int]:
    """The numbers that a region begins with."""
    numbers: list[int] = region[: 8 * count].view(np.int64).tolist()
    if len(numbers) != count or min(numbers[:_HEAD_WORDS]) < 0:
        raise ValueError("a number of requests is out of range")
    return numbers


def _up(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _bytes(array: np.ndarray) -> np.ndarray:
    flat = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return flat.reshape(-1).view(np.uint8)


def _strings(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    items: list[bytes] = [
        item.encode() if isinstance(item, str) else item for array in arrays for item in array.reshape(-1).tolist()
    ]
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    return lengths.view(np.uint8), np.frombuffer(b"".join(items), np.uint8)


def _array(tensor: TensorSpec, region: np.ndarray, shape: list[int], at: int) -> np.ndarray:
    count = 1
    for dim in shape:
        count *= dim
    size = tensor.dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= at <= region.size:
        raise ValueError("a size or a place is out of range")
    if not tensor.accepts(tuple(shape)):
        raise ValueError(f"{tensor.name!r} is {shape}, not {tensor.describe()}")
    if size is not None:
        return np.ndarray(shape, tensor.dtype.numpy, region, at)
    ends = np.cumsum(np.frombuffer(region[at : at + 8 * count].tobytes(), np.int64)).tolist()
    start = at + 8 * count
    data_bytes = region[start : start + (ends[-1] if ends else 0)].tobytes()
    items = np.empty(count, object)
    begin = 0
    for index, end in enumerate(ends):
        items[index] = data_bytes[begin:end]
        begin = end
    return items.reshape(shape)
