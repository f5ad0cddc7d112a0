"""The messages between a server and a stage's process: fixed records over a socket, arrays in shared regions. Pure."""

import struct
from enum import IntEnum

CALL = struct.Struct("<QQQ")  # bytes of the batch, bytes of the region it is in, bytes of the region for results
REPLY = struct.Struct("<BQQ")  # kind, bytes of the result or of the message, bytes of the region it is in
REGION_BYTES = 1 << 20  # of each region at the start; it grows by doubling
PROGRESS_S = 0.01  # between two replies that one of several calls has ended, at least
MOST_BYTES = 2 << 30  # of one batch or its results


class ReplyKind(IntEnum):
    """What a reply says."""

    READY = 0  # the stage's file has been imported
    DONE = 1
    INVALID = 2  # the function refuses the input, with a message for the client
    FAILED = 3  # with a message
    NOT_LOADED = 4  # the stage's file cannot be imported; the process ends
    WORKING = 5  # one of several calls has ended; more is to come


def grown(size: int, needed: int) -> int:
    """The bytes of a region that is to hold this many."""
    while size < needed:
        size *= 2
    return size
