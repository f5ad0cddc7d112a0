"""One pass over many sockets in compiled code: complete messages with known heads are received into rows.

What Python would do for each request is done here for a whole pass, with the GIL released: receive, compare the head,
copy the body. Nothing is decided here: a message whose head is not what its connection sent last time is left for the
standard path. Linux only (epoll). Importing this module loads numba, and compiles or loads the code.

Tables and their columns are those of `socket_tables.py`.
"""

import numpy as np
from numba import njit

from tailcut.kernels.cache import compiled
from tailcut.kernels.heads import head_end
from tailcut.kernels.libc import (
    BYTES,
    CUBE,
    DONTWAIT,
    EVENT_DATA,
    MONOTONIC,
    TABLE,
    TEXTS,
    clock_gettime,
    epoll_wait,
    memcmp,
    memcpy,
    recv,
)
from tailcut.kernels.numbers import read
from tailcut.kernels.socket_tables import (
    ADDRESS,
    BEFORE,
    BEFORE_BYTES,
    BEHIND,
    BEHIND_BYTES,
    BODY_BYTES,
    BODY_MOST,
    COUNT,
    DIMS,
    FORM,
    GENERATION,
    HEAD_BYTES,
    HEAD_MOST,
    HELD,
    LEVELS,
    LIST32,
    OWN_HEAD,
    PART,
    PART_BYTES,
    PENDING,
    PLAN,
    ROOM,
    ROOTS,
    ROW_BYTES,
    ROWS,
    SAMPLED,
    SEEN,
    START,
    TAKEN,
    TARGET,
    TRACE,
    WANTED,
)

_TEXT_MOST = 256 * 1024  # bytes of lists read in a pass, a fraction of a millisecond; more wait for the next pass


@compiled(f"int64(int64,int64,int32[:,::1],{TABLE},{TABLE},{TABLE},int64)")
def look(  # noqa: PLR0913, PLR0917  one call a pass, and its tables
    poll: int, left: int, events: np.ndarray, state: np.ndarray, plans: np.ndarray, targets: np.ndarray, until_ns: int
) -> int:
    """Fill `events` with the connections that can be read, and count the rows `WANTED` by target.

    Does not sleep, but polls until a connection has sent something or `until_ns` (monotonic) has passed.

    The first `left` events, those that had no room in the last pass, stay in front: the kernel's ready list keeps its
    order, so a connection at its head that sends again at once would be served over and over, and others never.
    """
    now = np.empty(2, np.int64)
    count = left or epoll_wait(poll, events.ctypes.data, events.shape[0], 0)
    while count == 0 and until_ns:
        clock_gettime(MONOTONIC, now.ctypes.data)
        if now[0] * 1_000_000_000 + now[1] >= until_ns:
            break
        count = epoll_wait(poll, events.ctypes.data, events.shape[0], 0)
    targets[:, ROOM:] = 0
    for i in range(count):
        own = state[events[i, EVENT_DATA]]
        if own[PLAN] >= 0 and not own[PENDING]:
            targets[plans[own[PLAN], TARGET], WANTED] += 1
    return int(count)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _fill(  # noqa: PLR0913, PLR0917  as take
    plan: np.ndarray,
    text: np.ndarray,
    start: int,
    end: int,
    heads: np.ndarray,
    numbers: np.ndarray,
    row: int,
    size: int,
) -> bool:
    """Write the data of the body text[start:end] to the address `row`; False if it does not match its plan."""
    before, behind = plan[BEFORE_BYTES], plan[BEHIND_BYTES]
    begin, stop = start + before, end - behind
    if stop < begin or (before and memcmp(text.ctypes.data + start, heads.ctypes.data + plan[BEFORE], before) != 0):
        return False
    if plan[FORM] == ROWS:
        memcpy(row, text.ctypes.data + begin, size)
        return True
    if memcmp(text.ctypes.data + stop, heads.ctypes.data + plan[BEHIND], behind) != 0:
        return False
    count, dims = plan[COUNT], plan[DIMS : DIMS + plan[LEVELS]]
    if plan[FORM] == LIST32:
        filled = read(text, begin, stop, dims, numbers.view(np.float32)[:count])
    else:
        filled = read(text, begin, stop, dims, numbers[:count])
    if filled != count:
        return False
    memcpy(row, numbers.ctypes.data, size)
    return True


@compiled(
    f"int64(int64,int32[:,::1],{TABLE},{TABLE},{BYTES},{TABLE},{CUBE},{BYTES},{TABLE},{TEXTS},{TEXTS},{BYTES},float64[::1])"
)
def take(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917  one call a pass, and its tables
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
    numbers: np.ndarray,
) -> int:
    """Receive from those in `events`: each complete message that matches its plan into a row of its target.

    JSON lists are parsed by `numbers`. An incomplete message with a known head is held, because many clients send the
    body separately.
    A connection that sent anything else, closed, or sends before it has its answer is written to `odd`: descriptor and
    how many of its bytes are in `scratch`. Only the last one of a pass has any, so the rest of `events` waits for the
    next pass. Connections for which there was no room move to the front of `events`; their number is written to the
    last row of `odd`.
    Returns the number of odd connections.
    """
    now = np.empty(2, np.int64)
    length = np.empty(2, np.int64)
    odds = left = read_bytes = 0
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
        held = own[HELD]
        if held:
            memcpy(scratch.ctypes.data, own_heads.ctypes.data + fd * HEAD_MOST, held)
        more = recv(fd, scratch.ctypes.data + held, room - held, DONTWAIT)
        got = held + max(more, 0)
        head, body, trace = plan[HEAD_BYTES], plan[BODY_BYTES], plan[TRACE]
        own[OWN_HEAD] = own[HELD] = 0
        if got != head + body or memcmp(scratch.ctypes.data, heads.ctypes.data + plan[START], head) != 0:
            part = plan[PART]
            length[0] = body if plan[FORM] == ROWS else 0
            length[1] = 0
            head = -1
            if got > 0:
                head = head_end(scratch, got, heads, part, part + plan[PART_BYTES], fields, grammar, length)
            body, trace = length[0], length[1]
            if head > 0 and more > 0 and got < head + body <= room and got <= HEAD_MOST:
                memcpy(own_heads.ctypes.data + fd * HEAD_MOST, scratch.ctypes.data, got)
                clock_gettime(MONOTONIC, now.ctypes.data)
                own[HELD], own[SEEN] = got, now[0] * 1_000_000_000 + now[1]
                continue
            if head > 0 and got == head + body and (plan[FORM] == ROWS or body <= plan[BODY_MOST]):
                own[OWN_HEAD] = head
                memcpy(own_heads.ctypes.data + fd * HEAD_MOST, scratch.ctypes.data, head)
            else:
                head = -1
        row = target[TAKEN]
        if head >= 0 and target[ADDRESS]:
            size = target[ROW_BYTES]
            if not _fill(plan, scratch, head, got, heads, numbers, target[ADDRESS] + row * size, size):
                head = -1
        if head < 0:
            odd[odds, 0], odd[odds, 1] = fd, got
            odds += 1
            over = got > 0
            continue
        if plan[FORM] != ROWS:
            read_bytes += body
            over = read_bytes > _TEXT_MOST
        clock_gettime(MONOTONIC, now.ctypes.data)
        member = members[plan[TARGET], row]
        member[0], member[1], member[2] = fd, own[GENERATION], now[0] * 1_000_000_000 + now[1]
        member[3], member[4] = body, trace
        target[SAMPLED] += trace > 0
        target[ROOTS] += trace == 0
        own[PENDING] = 1
        own[SEEN] = member[2]
        target[TAKEN] = row + 1
    odd[odd.shape[0] - 1, 0] = left
    return odds
