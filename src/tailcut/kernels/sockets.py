"""One pass over many sockets in compiled code: whole messages of known heads into rows, and answers out of rows.

What Python would do once a request is done here for a whole pass, with the GIL released: receive, compare the head,
copy the body, send. Nothing is decided here: a message that is not exactly what its connection said last time is left
for the standard path. Linux only (epoll). Importing this module loads numba, and compiles or loads the code.

Tables are int64, so that their columns can be read and written from both sides:

- `state`, a row for each descriptor: its connection's `GENERATION` (never used twice; 0: none), the number of its
  `PLAN` (-1: none), whether an answer is `PENDING`, when it was last heard or answered (`SEEN`, monotonic ns), and the
  bytes of its last head where that is not the plan's own (`OWN_HEAD`; else 0), which stands in its row of `own_heads`;
  or how many bytes stand there of a message that is not whole yet (`HELD`).
- `plans`: a head's `START` in `heads` and its `HEAD_BYTES`, its `BODY_BYTES`, its `TARGET`, and where in `heads` the
  part of the head that matters stands: `PART`, `PART_BYTES`. Of its body, where in `heads` the bytes before and behind
  the data stand (`BEFORE`, `BEFORE_BYTES`, `BEHIND`, `BEHIND_BYTES`), and the `FORM` of the data: raw `ROWS`, or a list
  of JSON, `LIST32` or `LIST64`. A list has `COUNT` numbers, flat or nested as the `LEVELS` dimensions from `DIMS` on
  say; Content-Length is then no part of what matters, and at most `BODY_MOST`. `TRACE` is that of the plan's own head.
- `fields` and `grammar`, as `heads.py` has them.
- `targets`: the `ADDRESS` of the first row that may be filled (0: bodies are dropped), `ROW_BYTES`, the `ROOM` there,
  how many rows have been `TAKEN`, and how many are `WANTED`. How many of those taken have a trace context that is
  `SAMPLED`, and how many have none (`ROOTS`).
- `members`, for each target: the descriptor, generation, moment of arrival, body's length and trace context of each row
  taken; the last is 1 where it is sampled, -1 where it is not, 0 where there is none that is well-formed.
- `events`, as epoll_wait(2) writes them on x86-64: 12 bytes, mask and descriptor first. On others they are 16 bytes.
"""

import numpy as np
from numba import njit, types

from tailcut.kernels.cache import compiled
from tailcut.kernels.heads import DIGIT, HEAD_MOST, NAME, VALUE, head_end
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
    memchr,
    memcmp,
    memcpy,
    recv,
    send,
)
from tailcut.kernels.numbers import MOST_DIMENSIONS, read

__all__ = ["DIGIT", "EVENT_WORDS", "HEAD_MOST", "NAME", "VALUE", "answer", "answer_lists", "head_end", "look", "take"]


GENERATION, PLAN, PENDING, SEEN, OWN_HEAD, HELD = range(6)
START, HEAD_BYTES, BODY_BYTES, TARGET, PART, PART_BYTES = range(6)
BEFORE, BEFORE_BYTES, BEHIND, BEHIND_BYTES, FORM, BODY_MOST, COUNT, LEVELS, TRACE, DIMS = range(6, 16)
ADDRESS, ROW_BYTES, ROOM, TAKEN, WANTED, SAMPLED, ROOTS = range(7)
ROWS, LIST32, LIST64 = range(3)
STATES, PLANS, TARGETS, MEMBERS = 6, DIMS + MOST_DIMENSIONS, 7, 5  # columns
_END = ord("]")
_TEXT_MOST = 256 * 1024  # bytes of lists read in a pass, a fraction of a millisecond: the others wait for the next one
_BLANK = 4  # bytes of the end of a head


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
    """Put the data of the body text[start:end] at the address `row`; False where it is not as its plan has it."""
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
    """Receive from those in `events`: each whole message of its plan into a row of its target, lists by `numbers`.

    A message whose head is known is held while its rest is missing, as many clients send the body by itself.
    A connection that sent anything else, closed, or sends before it has its answer is written to `odd`: descriptor and
    how many bytes of it are in `scratch`. Only the last one of a pass has any, so the rest of `events` waits for the
    next pass. Those that there was no room for move to the front of `events`, and their number into the last row of
    `odd`.
    Returns how many are odd.
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
    """Send scratch[:size] and write record number `written` of this call; -1, or how much went out where not all."""
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
    """Put its stamp to the last of the records written in this call.

    Other processes may read the ring, so a record has its stamp after everything else: a call lies between, over which
    no compiler moves a store, and x86 shows stores in their order.
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
    One that cannot take all of it now is written to `short`: the member's place and how many bytes went out; its answer
    stays pending. Of each answer that was sent, a record is written into `ring` (which may be empty), with the stamps
    from `stamp` on in the last column: arrival, the five moments that `trace` begins with, when it was encoded, when it
    was written, then what `trace` ends with, its last but one replaced by the body's length.
    Returns how many are short, and in `trace[0]` how many answers were sent.
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
    """Write a number in decimal from scratch[at] on; where it ends."""
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
    """As `answer`, of JSON: behind the head comes its length, then the `pieces` of `frame` with a list between any two.

    `lists` holds for each output the lists of all members, one behind the other with a comma between, the first at
    `places[output]`, which moves. `pieces` are the lengths of the parts of `frame`; the first begins with the end of
    the head.
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
