"""Every bound of the server, with its default. Nothing here is unlimited."""

from dataclasses import dataclass
from math import prod

from tailcut.runtime.entry import ServedEntry
from tailcut.spec import DType
from tailcut.wire.v2.call import BODY_BYTES

QUESTION_BYTES = 64 * 1024  # the body of a query about the server
_JSON_BYTES = 32  # a number as JSON, with its comma and some white space
_AROUND_BYTES = 1 << 20  # generous room for names, shapes, parameters and indentation around the numbers


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = BODY_BYTES
    buffered_bytes: int = 512 << 20  # bodies in buffers of their own, all connections together
    connections: int = 4096  # beyond it, the connection that has been idle longest is closed
    head_timeout_s: float = 10.0  # from the first byte to the empty line
    body_timeout_s: float = 30.0  # from the empty line to the last byte
    write_timeout_s: float = 30.0  # for reading an answer, beside the time needed at `write_rate`
    write_rate: int = 64 << 10  # bytes per second
    watchers: int = 16  # of the live page's figures, for each process
    idle_timeout_s: float = 300.0  # between two requests
    deadline_s: float = 30.0  # from the complete request to its answer, where the request names none
    linger_s: float = 2.0  # how long the body of a refused request is read and dropped, so that the refusal arrives
    drain_s: float = 5.0  # how long accepting goes on after SIGTERM, while the server answers that it is not ready

    @property
    def deadline_ns(self) -> int:
        """The timeout of a request that states none, in nanoseconds."""
        return int(self.deadline_s * 1e9)

    def write_s(self, size_bytes: int) -> float:
        """The total time in seconds in which a client must read this many bytes."""
        return self.write_timeout_s + size_bytes / self.write_rate


def largest_body(entry: ServedEntry, most: int) -> int:
    """The size in bytes of the largest body that a request to a model can have; `most` where shapes set no limit."""
    spec = entry.spec
    numbers = 0
    for tensor in spec.inputs:
        shape = tensor.row_shape if spec.batched else tensor.shape
        if tensor.dtype is DType.BYTES or None in shape:
            return most
        numbers += prod(dim for dim in shape if dim is not None)
    return min(most, numbers * (entry.queue_rows if spec.batched else 1) * _JSON_BYTES + _AROUND_BYTES)


def too_large(entry: ServedEntry, limit: int, most: int) -> str:
    """The message for a body that is too large; `limit` is the result of `largest_body`, `most` its argument."""
    words = f"the body is over {limit} bytes, more than any request to this model needs"
    if limit == most or not entry.spec.batched:
        return words
    return f"{words}: its queue holds {entry.queue_rows} rows: send fewer at a time, or raise {entry.queue_setting}"
