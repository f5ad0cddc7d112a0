"""What HTTP and gRPC share of an inference: how large its request may be, and what is said of its errors."""

from math import prod

from tailcut.errors import Code, TailcutError
from tailcut.runtime.model import Model
from tailcut.spec import DType

_JSON_BYTES = 32  # of a number as JSON, with its comma and some white space
_AROUND_BYTES = 1 << 20  # names, shapes, parameters and indentation around the numbers, generously


def largest_body(model: Model, most: int) -> int:
    """Bytes of the largest body that a model's requests can need, in any form; `most` where no shape bounds them."""
    spec = model.spec
    numbers = 0
    for tensor in spec.inputs:
        shape = tensor.row_shape if spec.batched else tensor.shape
        if tensor.dtype is DType.BYTES or None in shape:
            return most
        numbers += prod(dim for dim in shape if dim is not None)
    return min(most, numbers * (model.queue_rows if spec.batched else 1) * _JSON_BYTES + _AROUND_BYTES)


def public_message(error: TailcutError) -> str:
    """What a client is told: the engine's own words stay in the log."""
    return "the model failed on this input" if error.code is Code.INTERNAL else str(error)
