"""The load generator's loop in compiled code: it sends what is due, receives answers, and records each request.

One call of `drive` serves many connections on one epoll instance, with the GIL released, until its time slice is over
or Python has to do something: open connections, close or replace broken ones, make room for records. Between sends it
sleeps on a timerfd, whose resolution is nanoseconds; the last `spin_ns` before a send may be polled instead, because a
sleeping thread wakes tens of microseconds late. Linux only. Importing this module loads numba, and compiles or loads
the code.

It reads what a load test needs from an answer: the status, where its body ends (Content-Length), and whether the
server closes behind it. An answer that is framed in another way (chunked, until the connection closes) ends the run
with `ODD_ANSWER`; the Python client of `lab/client.py` understands those. This is a second reader of heads beside
`wire/http1/answers.py`, because compiled code without the GIL cannot call Python; a test holds the two together.

Tables are int64 unless said otherwise, and their columns are named below:

- `connections`: a row for each slot. Sockets are non-blocking and registered edge-triggered for reading and writing.
- `slots`: the slot of each descriptor, -1 where there is none.
- `spans`: where each payload's bytes start in `requests` and how many they are, [payload, slot modulo variants, 2].
- `times`: planned nanoseconds after the start; empty for a closed loop, which sends until the end.
- `clock`: `START`, `END` (of a closed loop's sends), `UNTIL` (of this call) and `SPIN`, in monotonic nanoseconds.
- `cursor`: how many were `SENT` and `RECORDED`, how many slots are `FREE` (their numbers stand in `free`) and `BUSY`,
  and how many connections are `OPEN`.
- `expects`: the status that answers each payload, and the length of its input, which is only handed on.
- `outcomes`: a row for each request: planned, free (when a connection was there), sent, done, status (0: the connection
  broke), whether the status was the expected one, and the length.
"""

import numpy as np

from tailcut.kernels.cache import compiled
from tailcut.kernels.libc import (
    ABSTIME,
    BYTES,
    CUBE,
    DONTWAIT,
    EVENT_DATA,
    EVENT_WORDS,
    LONGS,
    MONOTONIC,
    NOSIGNAL,
    TABLE,
    clock_gettime,
    epoll_wait,
    memcpy,
    recv,
    send,
    timerfd_settime,
)

FD, STATE, PAYLOAD, GONE, LEFT, HELD, STATUS, CLOSES, PLANNED, FREE_SINCE, SENT_AT = range(11)
CONNECTIONS = 11  # columns
CLOSED, IDLE, WAITING = range(3)  # of STATE
START, END, UNTIL, SPIN = range(4)
SENT, RECORDED, FREE, BUSY, OPEN = range(5)
OUTCOMES = 7  # columns
HEAD_BYTES = 16 * 1024  # of an answer; a longer head is an error
OVER, SLICE, MORE_CONNECTIONS, FULL, BROKEN, ODD_ANSWER = range(6)  # what drive returns
PART, WHOLE, LOST, ODD = range(4)  # state of an answer that is being received

_IN_ERROR = 0x008 | 0x010  # EPOLLERR, EPOLLHUP
_LENGTH = np.frombuffer(b"content-length:", np.uint8)
_CODING = np.frombuffer(b"transfer-encoding:", np.uint8)
_CONNECTION = np.frombuffer(b"connection:", np.uint8)
_CLOSE = np.frombuffer(b"close", np.uint8)
_KEEP = np.frombuffer(b"keep-alive", np.uint8)
_HTTP = np.frombuffer(b"http/1.", np.uint8)

_plain = compiled()


@_plain
def _now(room: np.ndarray) -> int:
    clock_gettime(MONOTONIC, room.ctypes.data)
    return room[0] * 1_000_000_000 + room[1]  # type: ignore[no-any-return]


@_plain
def _begins(data: np.ndarray, at: int, end: int, word: np.ndarray) -> bool:
    """Whether data[at:end] begins with `word` (given in lower case), in upper or lower case."""
    if end - at < word.shape[0]:
        return False
    for i in range(word.shape[0]):
        letter = data[at + i]
        if 65 <= letter <= 90:
            letter += 32
        if letter != word[i]:
            return False
    return True


@_plain
def _whole_number(data: np.ndarray, at: int, end: int) -> int:
    while at < end and data[at] in (9, 32):
        at += 1
    number = 0
    while at < end and 48 <= data[at] <= 57:
        number = number * 10 + data[at] - 48
        at += 1
    return number


@_plain
def _says_close(data: np.ndarray, at: int, end: int, closes: bool) -> bool:  # noqa: FBT001  numba takes no keywords
    """Whether the connection closes after the options of a Connection field; `closes` if they do not say."""
    keeps = False
    while at < end and data[at] not in (10, 13):
        if _begins(data, at, end, _CLOSE):
            return True
        keeps = keeps or _begins(data, at, end, _KEEP)
        at += 1
    return closes and not keeps


@_plain
def read_head(data: np.ndarray, end: int, fields: np.ndarray) -> None:
    """Read an answer's head, data[:end] with its empty line: status, length, closes, odd into `fields`.

    The status is 0 if this is not HTTP/1. `odd` is set if the length of the body is not given by Content-Length.
    """
    fields[:] = 0
    if end < 16 or not _begins(data, 0, end, _HTTP):
        fields[2] = 1
        return
    status = 0
    for i in range(9, 12):
        if data[i] < 48 or data[i] > 57:
            fields[2] = 1
            return
        status = status * 10 + data[i] - 48
    fields[0] = status
    closes = data[7] == 48  # HTTP/1.0
    length = -1
    at = 12
    while at < end:
        if data[at] != 10:
            at += 1
            continue
        at += 1
        if _begins(data, at, end, _LENGTH):
            length = _whole_number(data, at + _LENGTH.shape[0], end)
        elif _begins(data, at, end, _CODING):
            fields[3] = 1
        elif _begins(data, at, end, _CONNECTION):
            closes = _says_close(data, at + _CONNECTION.shape[0], end, closes)
    fields[1] = max(length, 0)
    fields[2] = closes
    if length < 0 and status not in (204, 304):
        fields[3] = 1


@_plain
def _end_of_head(data: np.ndarray, size: int) -> int:
    """Where the bytes behind the first empty line start, or -1."""
    for i in range(3, size):
        if data[i] == 10 and data[i - 2] == 10 and data[i - 1] == 13 and data[i - 3] == 13:
            return i + 1
    return -1


@_plain
def _send_rest(own: np.ndarray, slot: int, spans: np.ndarray, requests: np.ndarray) -> None:
    """Send what is left of a request; the rest goes when the socket takes more, and its error shows as an event."""
    span = spans[own[PAYLOAD], slot % spans.shape[1]]
    while own[GONE] < span[1]:
        sent = send(own[FD], requests.ctypes.data + span[0] + own[GONE], span[1] - own[GONE], DONTWAIT | NOSIGNAL)
        if sent <= 0:
            return
        own[GONE] += sent


@_plain
def _record(own: np.ndarray, done: int, status: int, expects: np.ndarray, result: np.ndarray) -> None:
    result[0], result[1], result[2], result[3] = own[PLANNED], own[FREE_SINCE], own[SENT_AT], done
    result[4] = status
    result[5] = status == expects[own[PAYLOAD], 0]
    result[6] = expects[own[PAYLOAD], 1]


@_plain
def _receive(own: np.ndarray, slot: int, heads: np.ndarray, scratch: np.ndarray, fields: np.ndarray) -> int:  # noqa: C901, PLR0911, PLR0912  one loop over what a socket has
    """Receive what is available; returns the state of the answer, `PART` to `ODD`."""
    room = scratch.shape[0]
    while True:
        held = own[HELD]
        if held:
            memcpy(scratch.ctypes.data, heads[slot].ctypes.data, held)
        got = recv(own[FD], scratch.ctypes.data + held, room - held, DONTWAIT)
        if got < 0:
            return PART
        if got == 0:
            return LOST
        size = held + got
        if own[STATE] != WAITING:
            return LOST  # not asked for
        if own[LEFT] < 0:
            end = _end_of_head(scratch, size)
            if end < 0:
                if size > HEAD_BYTES:
                    return LOST
                memcpy(heads[slot].ctypes.data, scratch.ctypes.data, size)
                own[HELD] = size
            else:
                read_head(scratch, end, fields)
                if fields[3]:
                    return ODD
                own[HELD] = 0
                own[STATUS], own[CLOSES] = fields[0], fields[2]
                own[LEFT] = max(0, fields[1] - (size - end))
        else:
            own[LEFT] = max(0, own[LEFT] - got)
        if own[LEFT] == 0:
            return WHOLE
        if size < room:
            return PART


@_plain
def _sleep(poll: int, timer: int, due: int, now: int, clock: np.ndarray, events: np.ndarray, spec: np.ndarray) -> int:  # noqa: PLR0913, PLR0917  the tables of drive
    """Wait for events until a send is due; the last stretch before it is polled."""
    wake = min(due - clock[SPIN], clock[UNTIL])
    if wake <= now:
        return epoll_wait(poll, events.ctypes.data, events.shape[0], 0)  # type: ignore[no-any-return]
    spec[0] = spec[1] = 0
    spec[2] = wake // 1_000_000_000
    spec[3] = wake % 1_000_000_000
    timerfd_settime(timer, ABSTIME, spec.ctypes.data, 0)
    left_ms = (clock[UNTIL] - now) // 1_000_000 + 1
    return epoll_wait(poll, events.ctypes.data, events.shape[0], left_ms)  # type: ignore[no-any-return]


@_plain
def _send_due(  # noqa: PLR0913, PLR0917  the tables of drive
    now: int,
    connections: np.ndarray,
    spans: np.ndarray,
    requests: np.ndarray,
    times: np.ndarray,
    clock: np.ndarray,
    cursor: np.ndarray,
    free: np.ndarray,
    room: np.ndarray,
) -> int:
    """Send what is due on free connections; returns when the next is due, or 0 if one has no connection."""
    opened = times.shape[0] > 0
    while True:
        number = cursor[SENT]
        planned = now
        if opened:
            if number == times.shape[0]:
                return clock[UNTIL]  # type: ignore[no-any-return]
            planned = clock[START] + times[number]
            if planned > now:
                return planned  # type: ignore[no-any-return]
        elif now >= clock[END]:
            return clock[UNTIL]  # type: ignore[no-any-return]
        if cursor[FREE] == 0:
            more = opened and cursor[OPEN] < connections.shape[0]
            return 0 if more else clock[UNTIL]
        cursor[FREE] -= 1
        slot = free[cursor[FREE]]
        own = connections[slot]
        if own[STATE] != IDLE:
            continue  # the server closed it while it was idle, which is no error
        now = _now(room)
        own[STATE] = WAITING
        own[PAYLOAD], own[GONE], own[LEFT], own[HELD] = number % spans.shape[0], 0, -1, 0
        own[PLANNED] = planned if opened else now
        if not opened:
            own[FREE_SINCE] = now
        own[SENT_AT] = now
        cursor[SENT] += 1
        cursor[BUSY] += 1
        _send_rest(own, slot, spans, requests)


@_plain
def _take(  # noqa: PLR0913, PLR0917  the tables of drive
    slot: int,
    mask: int,
    connections: np.ndarray,
    spans: np.ndarray,
    requests: np.ndarray,
    expects: np.ndarray,
    cursor: np.ndarray,
    free: np.ndarray,
    outcomes: np.ndarray,
    heads: np.ndarray,
    scratch: np.ndarray,
    room: np.ndarray,
    fields: np.ndarray,
) -> int:
    """Handle the events of one connection; `OVER` if there is nothing for Python to do."""
    own = connections[slot]
    if own[STATE] == CLOSED:
        return OVER
    waiting = own[STATE] == WAITING
    if waiting:
        _send_rest(own, slot, spans, requests)
    answer = _receive(own, slot, heads, scratch, fields)
    if answer == ODD:
        return ODD_ANSWER
    if answer == PART:
        if not mask & _IN_ERROR:
            return OVER
        answer = LOST
    if waiting:
        done = _now(room)
        _record(own, done, own[STATUS] if answer == WHOLE else 0, expects, outcomes[cursor[RECORDED]])
        cursor[RECORDED] += 1
        cursor[BUSY] -= 1
        sent = own[GONE] == spans[own[PAYLOAD], slot % spans.shape[1], 1]  # else answered too early
        if answer == WHOLE and sent and not own[CLOSES]:
            own[STATE] = IDLE
            own[FREE_SINCE] = done
            free[cursor[FREE]] = slot
            cursor[FREE] += 1
            return OVER
    own[STATE] = CLOSED
    cursor[OPEN] -= 1
    return BROKEN


@compiled(
    f"int64(int64,int64,{TABLE},{LONGS},{CUBE},{BYTES},{TABLE},{LONGS},{LONGS},{LONGS},{LONGS},{TABLE},uint8[:,::1],"
    f"{BYTES},int32[:,::1])"
)
def drive(  # noqa: C901, PLR0913, PLR0917  one call a time slice, and its tables
    poll: int,
    timer: int,
    connections: np.ndarray,
    slots: np.ndarray,
    spans: np.ndarray,
    requests: np.ndarray,
    expects: np.ndarray,
    times: np.ndarray,
    clock: np.ndarray,
    cursor: np.ndarray,
    free: np.ndarray,
    outcomes: np.ndarray,
    heads: np.ndarray,
    scratch: np.ndarray,
    events: np.ndarray,
) -> int:
    """Send what is due and count answers in; returns why it stopped, one of `OVER` to `ODD_ANSWER`."""
    room, spec, fields = np.empty(2, np.int64), np.empty(4, np.int64), np.empty(4, np.int64)
    while True:
        now = _now(room)
        if times.shape[0]:
            if cursor[RECORDED] == times.shape[0]:
                return OVER
        elif now >= clock[END] and cursor[BUSY] == 0:
            return OVER
        if now >= clock[UNTIL]:
            return SLICE
        if outcomes.shape[0] - cursor[RECORDED] < connections.shape[0]:
            return FULL
        due = _send_due(now, connections, spans, requests, times, clock, cursor, free, room)
        count = _sleep(poll, timer, due, now, clock, events, spec)
        reason = OVER
        for i in range(count):
            slot = slots[events[i, EVENT_DATA]]
            if slot < 0:
                continue  # the timer
            outcome = _take(
                slot,
                events[i, 0],
                connections,
                spans,
                requests,
                expects,
                cursor,
                free,
                outcomes,
                heads,
                scratch,
                room,
                fields,
            )
            reason = max(reason, outcome)
        if reason != OVER:
            return reason
        if due == 0 and cursor[FREE] == 0:
            return MORE_CONNECTIONS


__all__ = ["EVENT_WORDS", "drive", "read_head"]
