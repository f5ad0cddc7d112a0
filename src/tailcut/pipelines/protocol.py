"""The messages between a server and a stage's process: fixed records over a socket, arrays in shared regions. Pure."""

import struct
from enum import IntEnum

CALL = struct.Struct("<QQQ")  # bytes of the batch, of the region that holds it, and of the region for results
REPLY = struct.Struct("<BQQ")  # kind, bytes of the result or message, and of the region that holds it
REGION_BYTES = 1 << 20  # initial size of each region, which grows by doubling
PROGRESS_S = 0.01  # least time between two progress replies
MOST_BYTES = 2 << 30  # of one batch or its results


class ReplyKind(IntEnum):
    """The kind of a reply."""

    READY = 0  # the stage's file has been imported
    DONE = 1
    INVALID = 2  # the function refuses the input, with a message for the client
    FAILED = 3  # with a message
    NOT_LOADED = 4  # the stage's file cannot be imported; the process ends
    WORKING = 5  # progress: one of several calls has returned


def grown(size: int, needed: int) -> int:
    """The size, grown by doubling, of a region that has to hold this many bytes."""
    while size < needed:
        size *= 2
    return size
