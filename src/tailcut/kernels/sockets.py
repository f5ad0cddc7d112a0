"""One pass over many sockets in compiled code: whole messages of known heads into rows, and answers out of rows.

What Python would do once a request is done here for a whole pass, with the GIL released: receive, compare the head,
copy the body, send. Nothing is decided here: a message that is not exactly what its connection said last time is left
for the standard path. Linux only (epoll). Importing this module loads numba, and compiles or loads the code.

Tables are int64, so that their columns can be read and written from both sides:

- `state`, a row for each descriptor: its connection's `GENERATION` (never used twice; 0: none), the number of its
  `PLAN` (-1: none), whether an answer is `PENDING`, when it was last heard or answered (`SEEN`, monotonic ns), and the
  bytes of its last head where that is not the plan's own (`OWN_HEAD`; else 0), which stands in its row of `own_heads`.
- `plans`: a head's `START` in `heads` and its `HEAD_BYTES`, its `BODY_BYTES`, its `TARGET`, and where in `heads` the
  part of the head that matters stands: `PART`, `PART_BYTES`.
- `fields`, a row for each field that matters: the length of its name, then the name in lower case.
- `grammar`, of each byte: `NAME` where names of fields may have it, `VALUE` where values may.
- `targets`: the `ADDRESS` of the first row that may be filled (0: bodies are dropped), `ROW_BYTES`, the `ROOM` there,
  how many rows have been `TAKEN`, and how many are `WANTED`.
- `members`, for each target: the descriptor, generation, and moment of arrival of each row taken.
- `events`, as epoll_wait(2) writes them on x86-64: 12 bytes, mask and descriptor first. On others they are 16 bytes.
"""

import numpy as np
from numba import njit

from tailcut.kernels.cache import compiled
from tailcut.kernels.libc import (
    BYTES,
    CUBE,
    DONTWAIT,
    EVENT_DATA,
    EVENT_WORDS,
    LONGS,
    MONOTONIC,
    NOSIGNAL,
    TABLE,
    TEXTS,
    clock_gettime,
    epoll_wait,
    memcmp,
    memcpy,
    recv,
    send,
)

__all__ = ["EVENT_WORDS", "answer", "look", "take"]


GENERATION, PLAN, PENDING, SEEN, OWN_HEAD = range(5)
START, HEAD_BYTES, BODY_BYTES, TARGET, PART, PART_BYTES = range(6)
ADDRESS, ROW_BYTES, ROOM, TAKEN, WANTED = range(5)
STATES, PLANS, TARGETS = 5, 6, 5  # columns
NAME, VALUE = 1, 2
HEAD_MOST = 2048  # bytes of a head that is looked through field by field
_LINES_MOST = 102  # with 100 fields
_COLON, _CR, _LF = 58, 13, 10


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _is_listed(text: np.ndarray, start: int, end: int, fields: np.ndarray) -> bool:
    """Whether text[start:end] is the name of one of `fields`, in upper or lower case."""
    for i in range(fields.shape[0]):
        if fields[i, 0] != end - start:
            continue
        j = start
        while j < end:
            char = text[j]
            if 65 <= char <= 90:
                char += 32
            if char != fields[i, 1 + j - start]:
                break
            j += 1
        if j == end:
            return True
    return False


@njit(nogil=True)  # type: ignore[untyped-decorator]
def head_end(  # noqa: C901, PLR0913, PLR0917  one loop over the lines
    text: np.ndarray, size: int, known: np.ndarray, start: int, stop: int, fields: np.ndarray, grammar: np.ndarray
) -> int:
    """Where the head that text[:size] begins with ends, if what matters of it is known[start:stop]; else -1.

    That is the request line, the lines of `fields` in their order, and the empty line. What is no well-formed line of
    any other field does not pass.
    """
    size = min(size, HEAD_MOST)
    at = start
    i = lines = 0
    while i < size and lines < _LINES_MOST:
        length = 0
        while i + length < size and at + length < stop and text[i + length] == known[at + length]:
            length += 1
            if text[i + length - 1] == _LF:
                break
        if length and text[i + length - 1] == _LF:
            i += length
            at += length
            if at == stop:
                return i
        elif lines == 0:
            return -1
        else:
            begin = i
            while i < size and grammar[text[i]] & NAME:
                i += 1
            if begin == i or i >= size or text[i] != _COLON or _is_listed(text, begin, i, fields):
                return -1
            i += 1
            while i < size and grammar[text[i]] & VALUE:
                i += 1
            if i + 1 >= size or text[i] != _CR or text[i + 1] != _LF:
                return -1
            i += 2
        lines += 1
    return -1


@compiled(f"int64(int64,int64,int32[:,::1],{TABLE},{TABLE},{TABLE},int64)")
def look(  # noqa: PLR0913, PLR0917  one call a pass, and its tables
    poll: int, left: int, events: np.ndarray, state: np.ndarray, plans: np.ndarray, targets: np.ndarray, until_ns: int
) -> int:
    """Fill `events` with whom there is something to hear from, and count rows `WANTED` by target.

    Does not sleep, but polls until a connection has sent something or `until_ns` (monotonic) has passed.

    The `left` first ones that had no room in the last pass go before: the kernel's list keeps its order, so that who
    stands at its head and speaks again at once would be heard again and again, and others never.
    """
    now = np.empty(2, np.int64)
    count = left or epoll_wait(poll, events.ctypes.data, events.shape[0], 0)
    while count == 0 and until_ns:
        clock_gettime(MONOTONIC, now.ctypes.data)
        if now[0] * 1_000_000_000 + now[1] >= until_ns:
            break
        count = epoll_wait(poll, events.ctypes.data, events.shape[0], 0)
    targets[:, WANTED] = 0
    targets[:, ROOM] = 0
    targets[:, TAKEN] = 0
    for i in range(count):
        own = state[events[i, EVENT_DATA]]
        if own[PLAN] >= 0 and not own[PENDING]:
            targets[plans[own[PLAN], TARGET], WANTED] += 1
    return int(count)


@compiled(f"int64(int64,int32[:,::1],{TABLE},{TABLE},{BYTES},{TABLE},{CUBE},{BYTES},{TABLE},{TEXTS},{TEXTS},{BYTES})")
def take(  # noqa: PLR0913, PLR0917  one call a pass, and its tables
    count: int,
    events: np.ndarray,
    state: np.ndarray,
    plans: np.ndarray,
    heads: np.ndarray,
    targets: np.ndarray,
    members: np.ndarray,
    scratch: np.ndarray,
    odd: np.ndarray,
    own_heads: np.ndarray,
    fields: np.ndarray,
    grammar: np.ndarray,
) -> int:
    """Receive from those in `events`: each whole message of its plan into a row of its target.

    Who has said anything else, or left, or speaks before it has its answer is written to `odd`: descriptor and how many
    bytes of it are in `scratch`. Only the last one of a pass has any, so the rest of `events` waits for the next pass.
    Whom there was no room for moves to the front of `events`, and their number into the last row of `odd`.
    Returns how many are odd.
    """
    now = np.empty(2, np.int64)
    odds = left = 0
    over = False
    room = scratch.shape[0]
    for i in range(count):
        fd = events[i, EVENT_DATA]
        own = state[fd]
        number = own[PLAN]
        if number < 0:
            continue
        if own[PENDING]:
            odd[odds, 0], odd[odds, 1] = fd, 0
            odds += 1
            continue
        plan = plans[number]
        target = targets[plan[TARGET]]
        if over or target[TAKEN] == target[ROOM]:
            events[left, EVENT_DATA] = fd
            left += 1
            continue
        got = recv(fd, scratch.ctypes.data, room, DONTWAIT)
        head = plan[HEAD_BYTES]
        own[OWN_HEAD] = 0
        if got != head + plan[BODY_BYTES] or memcmp(scratch.ctypes.data, heads.ctypes.data + plan[START], head) != 0:
            part = plan[PART]
            head = head_end(scratch, got, heads, part, part + plan[PART_BYTES], fields, grammar) if got > 0 else -1
            if head > 0 and got == head + plan[BODY_BYTES]:
                own[OWN_HEAD] = head
                memcpy(own_heads.ctypes.data + fd * HEAD_MOST, scratch.ctypes.data, head)
            else:
                head = -1
        if head < 0:
            odd[odds, 0], odd[odds, 1] = fd, max(got, 0)
            odds += 1
            over = got > 0
            continue
        row = target[TAKEN]
        if target[ADDRESS]:
            size = target[ROW_BYTES]
            memcpy(target[ADDRESS] + row * size, scratch.ctypes.data + head, size)
        clock_gettime(MONOTONIC, now.ctypes.data)
        member = members[plan[TARGET], row]
        member[0], member[1], member[2] = fd, own[GENERATION], now[0] * 1_000_000_000 + now[1]
        own[PENDING] = 1
        own[SEEN] = member[2]
        target[TAKEN] = row + 1
    odd[odd.shape[0] - 1, 0] = left
    return odds


@compiled(f"int64({TABLE},{TABLE},int64,{TABLE},{BYTES},{TABLE},int64,{LONGS},{TABLE})")
def answer(  # noqa: PLR0913, PLR0917  one call a batch, and its tables
    members: np.ndarray,
    state: np.ndarray,
    head_bytes: int,
    outputs: np.ndarray,
    scratch: np.ndarray,
    ring: np.ndarray,
    stamp: int,
    trail: np.ndarray,
    short: np.ndarray,
) -> int:
    """Send each member its answer: the head that `scratch` begins with, then its row of each output.

    `outputs` holds the address of the first member's row and the bytes of a row. Members that have left are skipped.
    One that cannot take all of it now is written to `short`: the member's place and how many bytes went out; its answer
    stays pending. Of each answer that was sent, a record is written into `ring` (which may be empty), with the stamps
    from `stamp` on in the last column: arrival, the five moments that `trail` begins with, when it was encoded, when it
    was written, then what `trail` ends with. Other processes may read the ring, so a record has its stamp after
    everything else: a call lies between, over which no compiler moves a store, and x86 shows stores in their order.
    Returns how many are short, and in `trail[0]` how many records were written.
    """
    now = np.empty(2, np.int64)
    shorts = 0
    mask = ring.shape[0] - 1
    written = 0
    last = ring.shape[1] - 1
    for i in range(members.shape[0]):
        fd = members[i, 0]
        own = state[fd]
        if own[GENERATION] != members[i, 1]:
            continue
        size = head_bytes
        for j in range(outputs.shape[0]):
            length = outputs[j, 1]
            memcpy(scratch.ctypes.data + size, outputs[j, 0] + i * length, length)
            size += length
        clock_gettime(MONOTONIC, now.ctypes.data)
        encoded = now[0] * 1_000_000_000 + now[1]
        if written:
            ring[(stamp + written - 1) & mask, last] = stamp + written - 1
        own[PENDING] = 0
        sent = send(fd, scratch.ctypes.data, size, DONTWAIT | NOSIGNAL)
        if sent != size:
            own[PENDING] = 1
            short[shorts, 0], short[shorts, 1] = i, max(sent, 0)
            shorts += 1
            continue
        clock_gettime(MONOTONIC, now.ctypes.data)
        own[SEEN] = now[0] * 1_000_000_000 + now[1]
        if mask >= 0:
            record = ring[(stamp + written) & mask]
            record[0] = members[i, 2]
            for j in range(5):
                record[j + 1] = trail[j]
            record[6] = encoded
            record[7] = own[SEEN]
            for j in range(5, trail.shape[0]):
                record[j + 3] = trail[j]
            written += 1
    if written:
        clock_gettime(MONOTONIC, now.ctypes.data)
        ring[(stamp + written - 1) & mask, last] = stamp + written - 1
    trail[0] = written
    return shorts
