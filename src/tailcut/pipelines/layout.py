"""How the arrays of a batch's requests lie in a shared region: numbers, then each tensor's bytes. Pure.

The head is int64: the number of requests, and for each request and tensor its sizes and its place. Elements of BYTES
are their lengths, then their bytes. Both sides know dtypes and ranks, so none of it names a type, and none is executed.
"""

from collections.abc import Sequence

import numpy as np

from tailcut.errors import EngineError
from tailcut.spec import DType, TensorSpec

Parts = Sequence[Sequence[np.ndarray]]  # of each request, an array for each tensor
_ALIGN = 64


class Layout:
    """Packs the arrays of these tensors into bytes, and finds them there again."""

    def __init__(self, tensors: Sequence[TensorSpec]) -> None:
        self._tensors = tuple(tensors)
        self._words = sum(len(tensor.shape) + 1 for tensor in tensors)  # of one request

    def pack(self, parts: Parts) -> "Packed":
        """Lay the arrays out; their bytes are copied when they are written."""
        head = np.empty(1 + len(parts) * self._words, np.int64)
        head[0] = len(parts)
        at, word = _up(head.nbytes), 1
        blobs: list[tuple[int, np.ndarray]] = [(0, head.view(np.uint8))]
        # Tensor by tensor, so that the rows of all requests lie one behind the other.
        starts = [1 + number * self._words for number in range(len(parts))]
        for index, tensor in enumerate(self._tensors):
            rank = len(tensor.shape)
            for number, arrays in enumerate(parts):
                array = arrays[index]
                word = starts[number]
                head[word : word + rank] = array.shape
                head[word + rank] = at
                starts[number] += rank + 1
                for blob in _strings(array) if tensor.dtype is DType.BYTES else (_bytes(array),):
                    blobs.append((at, blob))
                    at += blob.size
            at = _up(at)
        return Packed(at, blobs)

    def unpack(self, region: np.ndarray) -> list[list[np.ndarray]]:
        """The arrays of each request: views of the region (BYTES: copies).

        Args:
            region: uint8 [size].

        Raises:
            EngineError: what is there is not such a layout.
        """
        try:
            count = int(region[:8].view(np.int64)[0])
            head = region[: 8 * (1 + count * self._words)].view(np.int64).tolist()
            word = 1
            parts: list[list[np.ndarray]] = []
            for _ in range(count):
                arrays: list[np.ndarray] = []
                for tensor in self._tensors:
                    rank = len(tensor.shape)
                    arrays.append(_array(tensor, region, head[word : word + rank], head[word + rank]))
                    word += rank + 1
                parts.append(arrays)
        except (ValueError, IndexError, TypeError) as error:
            raise EngineError(f"a stage's process wrote what cannot be read: {error}") from None
        return parts

    def together(self, parts: Parts) -> list[np.ndarray]:
        """The rows of all requests in one array for each tensor: copied where there are several."""
        if len(parts) == 1:
            return list(parts[0])
        return [np.concatenate([arrays[index] for arrays in parts]) for index in range(len(self._tensors))]


class Packed:
    """Arrays that are laid out, and how many bytes they take."""

    __slots__ = ("_blobs", "size")

    def __init__(self, size: int, blobs: list[tuple[int, np.ndarray]]) -> None:
        self.size = size
        self._blobs = blobs

    def write(self, region: np.ndarray) -> None:
        """Copy everything into a region (uint8) of `size` bytes or more."""
        for at, blob in self._blobs:
            region[at : at + blob.size] = blob


def split_rows(arrays: Sequence[np.ndarray], rows: Sequence[int]) -> list[list[np.ndarray]]:
    """The arrays of each request again, of so many rows each."""
    parts: list[list[np.ndarray]] = []
    start = 0
    for count in rows:
        parts.append([array[start : start + count] for array in arrays])
        start += count
    return parts


def _up(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _strings(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    items: list[bytes] = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    return lengths.view(np.uint8), np.frombuffer(b"".join(items), np.uint8)


def _array(tensor: TensorSpec, region: np.ndarray, shape: list[int], at: int) -> np.ndarray:
    count = 1
    for dim in shape:
        count *= dim
    size = tensor.dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= at <= region.size:
        raise ValueError("a size or a place is out of range")
    if size is not None:
        data = region[at : at + count * size]
        return data.view(tensor.dtype.numpy).reshape(shape)
    ends = np.cumsum(np.frombuffer(region[at : at + 8 * count].tobytes(), np.int64)).tolist()
    start = at + 8 * count
    data_bytes = region[start : start + (ends[-1] if ends else 0)].tobytes()
    items = np.empty(count, object)
    begin = 0
    for index, end in enumerate(ends):
        items[index] = data_bytes[begin:end]
        begin = end
    return items.reshape(shape)
