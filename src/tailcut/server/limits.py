"""Every bound of the server, with its default. Nothing here is unlimited."""

from dataclasses import dataclass
from math import prod

from tailcut.runtime.entry import ServedEntry
from tailcut.spec import DType
from tailcut.wire.v2.call import BODY_BYTES

QUESTION_BYTES = 64 * 1024  # the body of a question about the server
_JSON_BYTES = 32  # of a number as JSON, with its comma and some white space
_AROUND_BYTES = 1 << 20  # names, shapes, parameters and indentation around the numbers, generously


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = BODY_BYTES
    buffered_bytes: int = 512 << 20  # bodies in buffers of their own, all connections together
    connections: int = 4096  # over it, the connection that has been idle longest makes room
    head_timeout_s: float = 10.0  # from the first byte to the empty line
    body_timeout_s: float = 30.0  # from the empty line to the last byte
    write_timeout_s: float = 30.0  # an answer that the client does not read, and what it needs at the rate below
    write_rate: int = 64 << 10  # bytes a second
    watchers: int = 16  # of the live page's figures, each process
    idle_timeout_s: float = 300.0  # between two requests
    deadline_s: float = 30.0  # from the complete request to its answer, where the request names none
    linger_s: float = 2.0  # how long a refused body is read away, so that the refusal arrives
    drain_s: float = 5.0  # on SIGTERM: accepting goes on this long with readiness off

    @property
    def deadline_ns(self) -> int:
        """For an answer to a request that names no time, in nanoseconds."""
        return int(self.deadline_s * 1e9)

    def write_s(self, size_bytes: int) -> float:
        """How long a client may take to read this much: in total, however its reading is spread."""
        return self.write_timeout_s + size_bytes / self.write_rate


def largest_body(entry: ServedEntry, most: int) -> int:
    """Bytes of the largest body that a model's requests can need, in any form; `most` where no shape bounds them."""
    spec = entry.spec
    numbers = 0
    for tensor in spec.inputs:
        shape = tensor.row_shape if spec.batched else tensor.shape
        if tensor.dtype is DType.BYTES or None in shape:
            return most
        numbers += prod(dim for dim in shape if dim is not None)
    return min(most, numbers * (entry.queue_rows if spec.batched else 1) * _JSON_BYTES + _AROUND_BYTES)


def too_large(entry: ServedEntry, limit: int, most: int) -> str:
    """What the client of a body over the largest one is told; `limit` and `most` are those of `largest_body`."""
    words = f"the body is over {limit} bytes, more than any request to this model needs"
    if limit == most or not entry.spec.batched:
        return words
    return f"{words}: its queue holds {entry.queue_rows} rows: send fewer at a time, or raise {entry.queue_setting}"
