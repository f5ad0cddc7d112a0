"""Write answers to many sockets in one call of compiled code: a head, then each member's own rows or lists.

The other half of `sockets.py`; it releases the GIL, too. Tables and their columns are those of
`socket_tables.py`. Importing this module loads numba, and compiles or loads the code.
"""

import numpy as np
from numba import njit, types

from tailcut.kernels.cache import compiled
from tailcut.kernels.libc import BYTES, DONTWAIT, LONGS, MONOTONIC, NOSIGNAL, TABLE, clock_gettime, memchr, memcpy, send
from tailcut.kernels.socket_tables import GENERATION, PENDING, SEEN

_END = ord("]")
_BLANK = 4  # bytes of the end of a head


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _deliver(  # noqa: PLR0913, PLR0917  as answer
    member: np.ndarray,
    own: np.ndarray,
    scratch: np.ndarray,
    size: int,
    ring: np.ndarray,
    stamp: int,
    written: int,
    trace: np.ndarray,
    now: np.ndarray,
) -> int:
    """Send scratch[:size] and write record `written` of this call; returns -1, or the bytes sent if not all were."""
    mask, last = ring.shape[0] - 1, ring.shape[1] - 1
    clock_gettime(MONOTONIC, now.ctypes.data)
    encoded = now[0] * 1_000_000_000 + now[1]
    _stamp(ring, stamp, written)
    own[PENDING] = 0
    sent = send(member[0], scratch.ctypes.data, size, DONTWAIT | NOSIGNAL)
    if sent != size:
        own[PENDING] = 1
        return int(max(sent, 0))
    clock_gettime(MONOTONIC, now.ctypes.data)
    own[SEEN] = now[0] * 1_000_000_000 + now[1]
    if mask >= 0:
        record = ring[(stamp + written) & mask]
        record[0] = member[2]
        for j in range(5):
            record[j + 1] = trace[j]
        record[6] = encoded
        record[7] = own[SEEN]
        for j in range(5, trace.shape[0]):
            record[j + 3] = trace[j]
        record[last - 2] = member[3]
    return -1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _stamp(ring: np.ndarray, stamp: int, written: int) -> None:
    """Store the stamp of the last record written in this call.

    Other processes may read the ring, so a record's stamp is stored after everything else: a call lies in between,
    across which no compiler moves a store, and x86 makes stores visible in their order.
    """
    if written and ring.shape[0]:
        newest = stamp + written - 1
        ring[newest & (ring.shape[0] - 1), ring.shape[1] - 1] = newest


@compiled(f"int64({TABLE},{TABLE},int64,{TABLE},{BYTES},{TABLE},int64,{LONGS},{TABLE})")
def answer(  # noqa: PLR0913, PLR0917  one call a batch, and its tables
    members: np.ndarray,
    state: np.ndarray,
    head_bytes: int,
    outputs: np.ndarray,
    scratch: np.ndarray,
    ring: np.ndarray,
    stamp: int,
    trace: np.ndarray,
    short: np.ndarray,
) -> int:
    """Send each member its answer: the head that `scratch` begins with, then its row of each output.

    `outputs` holds the address of the first member's row and the bytes of a row. Members that have left are skipped.
    One whose socket cannot take all of it now is written to `short`: the member's index and the bytes sent; its answer
    stays pending. For each answer that was sent, a record is written into `ring` (which may be empty), with the stamps
    from `stamp` on in the last column: arrival, the five moments that `trace` begins with, when it was encoded, when it
    was written, then what `trace` ends with, its last but one replaced by the body's length.
    Returns the number of rows in `short`, and in `trace[0]` the number of answers sent.
    """
    now = np.empty(2, np.int64)
    shorts = written = 0
    for i in range(members.shape[0]):
        own = state[members[i, 0]]
        if own[GENERATION] != members[i, 1]:
            continue
        size = head_bytes
        for j in range(outputs.shape[0]):
            length = outputs[j, 1]
            memcpy(scratch.ctypes.data + size, outputs[j, 0] + i * length, length)
            size += length
        sent = _deliver(members[i], own, scratch, size, ring, stamp, written, trace, now)
        if sent < 0:
            written += 1
        else:
            short[shorts, 0], short[shorts, 1] = i, sent
            shorts += 1
    clock_gettime(MONOTONIC, now.ctypes.data)
    _stamp(ring, stamp, written)
    trace[0] = written
    return shorts


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _write_number(scratch: np.ndarray, at: int, number: int) -> int:
    """Write a number in decimal from scratch[at] on; returns where it ends."""
    end = at + 1
    rest = number
    while rest > 9:
        rest //= 10
        end += 1
    for i in range(end - 1, at - 1, -1):
        scratch[i] = 48 + number % 10
        number //= 10
    return end


_BYTES_OF_PYTHON = types.Array(types.uint8, 1, "C", readonly=True)
_TABLE, _LONGS, _BYTES = types.int64[:, ::1], types.int64[::1], types.uint8[::1]


@compiled(
    types.int64(
        _TABLE,
        _TABLE,
        types.int64,
        _BYTES_OF_PYTHON,
        _LONGS,
        _BYTES_OF_PYTHON,
        _LONGS,
        _BYTES,
        _TABLE,
        types.int64,
        _LONGS,
        _TABLE,
    )
)
def answer_lists(  # noqa: PLR0913, PLR0917  one call a batch, and its tables
    members: np.ndarray,
    state: np.ndarray,
    head_bytes: int,
    lists: np.ndarray,
    places: np.ndarray,
    frame: np.ndarray,
    pieces: np.ndarray,
    scratch: np.ndarray,
    ring: np.ndarray,
    stamp: int,
    trace: np.ndarray,
    short: np.ndarray,
) -> int:
    """As `answer`, for JSON: the head, its Content-Length, then the `pieces` of `frame` with a list between any two.

    `lists` holds for each output the lists of all members, separated by commas; the first begins at `places[output]`,
    which this call advances. `pieces` are the lengths of the parts of `frame`; the first begins with the end of the
    head.
    """
    now = np.empty(2, np.int64)
    shorts = written = 0
    text, outputs = lists.ctypes.data, places.shape[0]
    sizes = np.empty(outputs, np.int64)
    for i in range(members.shape[0]):
        length = frame.shape[0] - _BLANK
        for j in range(outputs):
            begin = text + places[j]
            sizes[j] = np.int64(memchr(begin, _END, lists.shape[0] - places[j])) + 1 - begin
            length += sizes[j]
        own = state[members[i, 0]]
        here = own[GENERATION] == members[i, 1]
        if here:
            size = _write_number(scratch, head_bytes, length)
            at = 0
            for j in range(outputs + 1):
                memcpy(scratch.ctypes.data + size, frame.ctypes.data + at, pieces[j])
                size += pieces[j]
                at += pieces[j]
                if j < outputs:
                    memcpy(scratch.ctypes.data + size, text + places[j], sizes[j])
                    size += sizes[j]
        for j in range(outputs):
            places[j] += sizes[j] + 1
        if not here:
            continue
        sent = _deliver(members[i], own, scratch, size, ring, stamp, written, trace, now)
        if sent < 0:
            written += 1
        else:
            short[shorts, 0], short[shorts, 1] = i, sent
            shorts += 1
    clock_gettime(MONOTONIC, now.ctypes.data)
    _stamp(ring, stamp, written)
    trace[0] = written
    return shorts
