"""A model's inputs and outputs: pure values, without an engine.

`None` in a shape is a free dimension. A model is *batched* when the first dimension of every input and output is free
and its rows are independent, so that rows of several requests can share one call.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from unicodedata import category

import ml_dtypes
import numpy as np

from tailcut.errors import UsageError

Shape = tuple[int | None, ...]
_NOT_IN_NAMES = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, surrogates, separators of lines, paragraphs


def check_model_name(name: str) -> None:
    """Check that a name can be used in URLs.

    Raises:
        UsageError: it is `.` or `..`, which clients remove from a URL, or has line breaks or control characters.
    """
    if name in {".", ".."} or not _NOT_IN_NAMES.isdisjoint(map(category, name)):
        raise UsageError(
            f"a model cannot be named {name!r}: . and .., line breaks, control characters and halves of surrogate "
            "pairs cannot be in its URL: give it another name"
        )


class DType(StrEnum):
    """Element types under the names that the Open Inference Protocol v2 gives them."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype; BYTES is `object` (each element a `bytes` or `str`)."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int | None:
        """Bytes of one element, or None where elements differ in length (BYTES)."""
        return None if self is DType.BYTES else _NUMPY[self].itemsize

    @classmethod
    def of(cls, dtype: np.dtype | type) -> "DType":
        """The name of a numpy dtype.

        Raises:
            KeyError: the protocol has no name for it.
        """
        dtype = np.dtype(dtype)
        return cls.BYTES if dtype.kind in "OSU" else _NAMES[dtype]


_NUMPY: dict[DType, np.dtype] = {
    DType.BOOL: np.dtype(np.bool_),
    DType.UINT8: np.dtype(np.uint8),
    DType.UINT16: np.dtype(np.uint16),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT64: np.dtype(np.uint64),
    DType.INT8: np.dtype(np.int8),
    DType.INT16: np.dtype(np.int16),
    DType.INT32: np.dtype(np.int32),
    DType.INT64: np.dtype(np.int64),
    DType.FP16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.FP32: np.dtype(np.float32),
    DType.FP64: np.dtype(np.float64),
    DType.BYTES: np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}


class Rows(StrEnum):
    """Whether the rows of a request, along the first axis of its tensors, may be computed apart from each other."""

    INDEPENDENT = "independent"  # each row's answer is its own: requests may share a batch, and be split
    DEPENDENT = "dependent"  # a request runs whole: never merged with another, never split
    UNKNOWN = "unknown"  # nothing proves it either way: treated as dependent


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """What is known about a model's rows, and why: one line for the user, naming the tensor or the operator."""

    rows: Rows
    reason: str


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output; `shape` includes the batch dimension where the model has one.

    `classes` are the classes that the columns of an output stand for, where the file names them.
    """

    name: str
    dtype: DType
    shape: Shape
    classes: tuple[str | int, ...] = ()
    first_axis: str = field(default="", compare=False)  # what the model calls its first dimension; "" where unnamed
    declared: Shape | None = field(default=None, compare=False)  # what the file says, where that is not always so
    text: bool = True  # elements of BYTES are UTF-8 text and become `str`, as engines take them; else they stay bytes

    @cached_property
    def row_shape(self) -> Shape:
        """The shape without the first dimension."""
        return self.shape[1:]

    @cached_property
    def row_bytes(self) -> int | None:
        """Bytes of one row, or None where they are not fixed."""
        size = self.dtype.itemsize
        for dim in self.row_shape:
            if dim is None or size is None:
                return None
            size *= dim
        return size

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a concrete shape fits."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )

    def opened(self, shape: Shape) -> "TensorSpec":
        """A copy that accepts `shape`, too: dimensions that differ become free, all of them where the rank differs."""
        pairs = zip(self.shape, shape, strict=True) if len(self.shape) == len(shape) else [(None, 0)] * len(shape)
        dims = tuple(dim if dim == real else None for dim, real in pairs)
        return replace(self, shape=dims, declared=self.declared or self.shape)

    def describe(self) -> str:
        """The shape as a user reads it, with -1 for a free dimension: `FP32 [-1, 256]`."""
        return _described(self.dtype, self.shape)

    @property
    def written(self) -> str:
        """As `describe`, but with the shape that the file declares."""
        return _described(self.dtype, self.shape if self.declared is None else self.declared)


def _described(dtype: DType, shape: Shape) -> str:
    return f"{dtype} {[-1 if dim is None else dim for dim in shape]}"


@dataclass(frozen=True)
class ModelSpec:
    """A model's name and its inputs and outputs, in the model's own order.

    `rows` is what has been decided about its rows, or, before that, what the graph alone proves: where they are not
    independent, there is no batch, whatever the shapes are. `most_rows` is how many one call takes, where the model
    sets a limit.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: Rows = Rows.INDEPENDENT
    rows_reason: str = field(default="", compare=False)
    most_rows: int | None = field(default=None, compare=False)

    def within(self, rows: int) -> int:
        """`rows`, limited to as many as one call takes."""
        return rows if self.most_rows is None else min(rows, self.most_rows)

    @cached_property
    def batchable(self) -> bool:
        """Whether the first dimension of every tensor is free."""
        return all(len(tensor.shape) > 0 and tensor.shape[0] is None for tensor in self.inputs + self.outputs)

    @cached_property
    def batched(self) -> bool:
        """Whether rows of several requests may share a call, and a request may be split by its rows."""
        return self.batchable and self.rows is Rows.INDEPENDENT

    @cached_property
    def single(self) -> bool:
        """Whether the first dimension of every tensor is fixed at 1: one row per call, however many wait."""
        return all(tensor.shape[:1] == (1,) for tensor in self.inputs + self.outputs)

    @cached_property
    def fixed_sizes(self) -> bool:
        """Whether every row of every input and output has one fixed size."""
        sizes = [tensor.row_bytes for tensor in self.inputs + self.outputs]
        return (self.batched or self.single) and None not in sizes

    @cached_property
    def fixed_rows(self) -> bool:
        """Whether every row has one fixed size and can be bound to memory of ours, so that it can be in a slab."""
        return self.fixed_sizes and self.fixed_outputs

    @cached_property
    def separate_axes(self) -> bool:
        """Whether inputs of one request may differ in their number of rows: their first axes have different names."""
        names = [tensor.first_axis for tensor in self.inputs]
        return all(names) and len(set(names)) > 1

    def is_uneven(self, counts: Iterable[int]) -> bool:
        """Whether a request whose inputs have these numbers of rows is computed whole, because they differ."""
        return self.separate_axes and len(set(counts)) > 1

    def are_rows(self, counts: Sequence[int]) -> bool:
        """Whether inputs with these first dimensions, in order, fit together: axes of one name must be equal."""
        if len(set(counts)) == 1:
            return True
        if not self.separate_axes:
            return False
        sizes: dict[str, int] = {}
        pairs = zip(self.inputs, counts, strict=True)
        return all(sizes.setdefault(tensor.first_axis, count) == count for tensor, count in pairs)

    @cached_property
    def fixed_outputs(self) -> bool:
        """Whether every row of every output has one fixed size, and can be written to given memory.

        An output that is itself an input cannot: engines do not write to the memory bound to it.
        """
        return not self.passed_on and all(tensor.row_bytes is not None for tensor in self.outputs)

    @cached_property
    def passed_on(self) -> tuple[str, ...]:
        """The names of the outputs that are also inputs."""
        return tuple(name for name in self.output_names if name in self.input_names)

    @cached_property
    def signature(self) -> tuple[str, ...]:
        """Every input and output in a line, as the file declares it: `input x FP32 [-1, 256]`."""
        return tuple(
            f"{kind} {tensor.name} {tensor.written}"
            for kind, tensors in (("input", self.inputs), ("output", self.outputs))
            for tensor in tensors
        )

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(tensor.name for tensor in self.outputs)
