"""The layout of a batch's arrays in a shared region: a header of numbers, then each tensor's bytes. Pure.

The header is int64: the number of parts, the number of requests, the rows of each request, and for each part and tensor
its shape and its offset in bytes. A part is either one request or the rows of all requests one after the other; in the
latter case, a function that takes all rows needs no copy. BYTES elements are stored as their lengths (int64), followed
by their bytes. Both sides know the dtypes and ranks, so the data names no types and nothing in it is executed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.errors import EngineError
from tailcut.spec import DType, TensorSpec

Parts = Sequence[Sequence[np.ndarray]]  # for each request, an array for each tensor
_ALIGN = 64
_HEAD_WORDS = 2
_MOST_KNOWN = 256  # headers of single requests that are remembered


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The contents of a region.

    Args:
        parts: for each request, an array for each tensor; or a single part with the rows of all requests.
        rows: the number of rows of each request.
    """

    parts: list[list[np.ndarray]]
    rows: list[int]


@dataclass(frozen=True, slots=True)
class _Known:
    """The layout of a single request with this many rows, when every row has a fixed size.

    Args:
        rows: number of rows of the request.
        head: uint8 [head bytes], the header.
        size: total size in bytes.
        offsets: where each tensor begins, in bytes.
        shapes: the shape of each tensor.
    """

    rows: int
    head: np.ndarray
    size: int
    offsets: list[int]
    shapes: list[tuple[int, ...]]


class TensorLayout:
    """Packs arrays of these tensors into bytes, and unpacks them.

    Most calls have one request. If all rows have a fixed size, its header depends only on the number of rows, and is
    made and parsed once for each number.
    """

    def __init__(self, tensors: Sequence[TensorSpec]) -> None:
        self._tensors = tuple(tensors)
        self._dtypes = [tensor.dtype.numpy for tensor in tensors]
        self._words = sum(len(tensor.shape) + 1 for tensor in tensors)  # of the header, per part
        self._fixed = all(tensor.row_bytes is not None for tensor in tensors)
        self._head_bytes = 8 * (_HEAD_WORDS + 1 + self._words)  # of a single request
        self._written: dict[int, _Known] = {}  # by the number of rows
        self._read: dict[bytes, _Known] = {}  # by the header

    def pack(self, parts: Parts) -> "Packed":
        """Lay out the arrays of requests, each as its own part. Their bytes are copied only by `Packed.write`."""
        if len(parts) == 1 and self._fixed and _have_common_rows(parts[0]):
            return self._pack_known(parts[0])
        return self._pack([[arrays] for arrays in parts], rows_of(parts))

    def pack_together(self, parts: Parts, rows: Sequence[int] = ()) -> "Packed":
        """Lay out the rows of all requests as one part, or each request as its own part if their row shapes differ.

        Args:
            parts: the arrays of each request; or of all requests together, with `rows` telling them apart.
            rows: the number of rows of each request; empty: those of the parts.
        """
        if len(parts) == 1 and self._fixed and len(rows) <= 1 and _have_common_rows(parts[0]):
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
            EngineError: the region does not contain such a layout.
        """
        if self._fixed:
            known = self._read.get(region[: self._head_bytes].tobytes())
            if known is not None and region.size >= known.size:
                items = zip(known.shapes, self._dtypes, known.offsets, strict=True)
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
            offsets = [array.ctypes.data - region.ctypes.data for array in parts[0]]
            start = region[: self._head_bytes].copy()
            self._read[start.tobytes()] = _Known(rows[0], start, region.size, offsets, shapes)
        return Unpacked(parts, rows)

    def together(self, parts: Parts) -> list[np.ndarray]:
        """The rows of all requests in one array for each tensor; copied if there are several requests."""
        if len(parts) == 1:
            return list(parts[0])
        return [np.concatenate([arrays[index] for arrays in parts]) for index in range(len(self._tensors))]

    def _pack_known(self, arrays: Sequence[np.ndarray]) -> "Packed":
        """Pack one request whose rows have a fixed size."""
        known = self._written.get(len(arrays[0])) or self._learn(arrays)
        blobs = [(at, _bytes(array)) for at, array in zip(known.offsets, arrays, strict=True)]
        return Packed(known.size, [(0, known.head), *blobs])

    def _learn(self, arrays: Sequence[np.ndarray]) -> _Known:
        rows = len(arrays[0])
        packed = self._pack([[arrays]], [rows])
        known = _Known(rows, packed.head, packed.size, packed.offsets, [array.shape for array in arrays])
        if len(self._written) < _MOST_KNOWN:
            self._written[rows] = known
        return known

    def _pack(self, groups: Sequence[Parts], rows: Sequence[int]) -> "Packed":
        """Lay out parts; each group holds the requests of one part."""
        start = _HEAD_WORDS + len(rows)
        at = _up(8 * (start + len(groups) * self._words))
        heads: list[list[int]] = [[] for _ in groups]
        blobs: list[tuple[int, np.ndarray]] = []
        for index, tensor in enumerate(self._tensors):
            for numbers, group in zip(heads, groups, strict=True):
                arrays = [part[index] for part in group]
                shape = arrays[0].shape if len(arrays) == 1 else (sum(map(len, arrays)), *arrays[0].shape[1:])
                numbers.extend((*shape, at))
                for blob in _strings(arrays) if tensor.dtype is DType.BYTES else map(_bytes, arrays):
                    blobs.append((at, blob))
                    at += blob.size
            at = _up(at)
        head = np.array([len(groups), len(rows), *rows, *(number for numbers in heads for number in numbers)], np.int64)
        return Packed(at, [(0, head.view(np.uint8)), *blobs])


class Packed:
    """Arrays with their offsets, ready to be written, and their total size in bytes."""

    __slots__ = ("_blobs", "size")

    def __init__(self, size: int, blobs: list[tuple[int, np.ndarray]]) -> None:
        self.size = size
        self._blobs = blobs

    @property
    def head(self) -> np.ndarray:
        """The header, as uint8."""
        return self._blobs[0][1]

    @property
    def offsets(self) -> list[int]:
        """Where each array begins, in bytes."""
        return [at for at, _ in self._blobs[1:]]

    def write(self, region: np.ndarray) -> None:
        """Copy everything into a region (uint8) of `size` bytes or more."""
        for at, blob in self._blobs:
            region[at : at + blob.size] = blob


def rows_of(parts: Parts) -> list[int]:
    """The number of rows of each request; 1 if its first array has no axes."""
    return [len(arrays[0]) if arrays[0].ndim else 1 for arrays in parts]


def _have_common_rows(arrays: Sequence[np.ndarray]) -> bool:
    """Whether all arrays have as many rows, so that their number says how large each is."""
    return len({array.shape[:1] for array in arrays}) == 1 and arrays[0].ndim > 0


def split_rows(arrays: Sequence[np.ndarray], rows: Sequence[int]) -> list[list[np.ndarray]]:
    """Split arrays of all rows into views for each request, with this many rows each."""
    parts: list[list[np.ndarray]] = []
    start = 0
    for count in rows:
        parts.append([array[start : start + count] for array in arrays])
        start += count
    return parts


def _numbers(region: np.ndarray, count: int) -> list[int]:
    """The first numbers of a region's header."""
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
        raise ValueError("a size or an offset is out of range")
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
