"""Many servers behind a load balancer as queues, event by event, in compiled code: the latency of each request.

Each server is that of `queueing.py`: a loop, instances, the rule for batches, threads that share the server's cores.
What many servers need beyond it is that nothing happens before its time: a request is routed by what the servers have
in flight at its arrival, so the loop takes one step (a pass, one request received, one batch answered) at a time.
Clients run elsewhere, and deadlines are not modelled.

- *Routing*: at random, in turn, to the server with the fewest requests in flight, or to the better of two drawn at
  random (M. Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 12(10), 2001). The balancer
  knows exactly what is in flight.
- *Hedging*: a request without an answer after a while is sent to a second server; the first answer counts, and both
  servers compute.

A simulation goes on where it stopped: `advance` runs until a time, and servers may join and leave in between.
"""

from typing import NamedTuple

import numpy as np

from tailcut.kernels.cache import compiled
from tailcut.kernels.queueing import (
    ANSWER,
    BATCH,
    DELAY,
    HERE,
    INLINE,
    OUTSIDE,
    PASS,
    RECEIVE,
    REFUSED,
    WAKE,
    WORKER,
    batch_rows,
    held_until,
    service,
    shared,
)

RANDOM, ROUND_ROBIN, LEAST_LOADED, TWO_CHOICES = range(4)
FAR = 1 << 62
_FEW = 2.5  # as in queueing.py
_ROWS_WEIGHT, _GAP_WEIGHT = 0.1, 0.05
_IDLE, _RECEIVING, _ANSWERING, _COMPUTING = range(4)  # what the loop does until `FREE`
DISPATCH, INSTANCES, THREADS, QUEUE, ROUTING, HEDGE = range(6)  # of `Tables.shape`
SHAPES = 6
_NOW, _ROUTED, _TIMER, _TURN, _ACTIVE, _HEDGED = range(6)  # of `State.clock`
# Of a server: what its loop does, until when; answers that leave then; batches that compute; until when a batch is held
# back; when the last request came; and lists of requests and of batches that are done, by their first request.
_PHASE, _FREE, _LEAVING, _RUNNING, _HELD, _LAST = range(6)
_INBOX, _INBOX_END, _WAITING, _WAITING_END, _WAITS, _DONE, _DONE_END = range(6, 13)
_FIELDS = 13
_JOB, _ROWS, _END, _SINCE = range(4)  # of an instance: its batch, when that ends, and since when it is idle
LOOP_NS, ENGINE_NS, BATCHES = range(3)  # of `State.totals`

# Nothing here allocates, and counting references to this many arrays at each call took four fifths of the time.
_plain = compiled(_nrt=False)


class Tables(NamedTuple):
    """What all servers are alike in.

    costs: int64 [COSTS] of `queueing.py`; shape: int64 [SHAPES]: dispatch, instances, threads of a batch, requests that
    may wait, routing, ns until a request is hedged (0: never); the rest as in `queueing.run`, with the cores of one
    server.
    """

    costs: np.ndarray
    shape: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    best: np.ndarray
    estimate: np.ndarray
    cores: float


class State(NamedTuple):
    """A simulation at a time; made by `new_state`. Copies of requests are numbered: hedges behind all requests."""

    clock: np.ndarray  # int64
    order: np.ndarray  # int64 [servers]: those that take requests come first
    events: np.ndarray  # int64: a tree of minima over the servers' next events
    loads: np.ndarray  # int64: likewise over their requests in flight; FAR for those that take none
    flying: np.ndarray  # int64 [servers]: requests in flight
    servers: np.ndarray  # int64 [servers, fields]
    means: np.ndarray  # float64 [servers, 2]: rows of a usual batch, gap between requests
    slots: np.ndarray  # int64 [servers, instances, 4]
    following: np.ndarray  # int64 [copies]: the next one of the same list
    after: np.ndarray  # int64 [copies]: of a batch's first copy: the next batch that is done
    rows: np.ndarray  # int64 [copies]: of a batch's first copy
    finished: np.ndarray  # int64 [copies]: likewise, when it was computed
    came: np.ndarray  # int64 [copies]: when it came to its server
    ready: np.ndarray  # int64 [copies]: when it was received
    server: np.ndarray  # int64 [copies]
    answered: np.ndarray  # int64 [requests]: when the first answer was there; FAR: not yet, REFUSED: never
    totals: np.ndarray  # float64 [servers, 3]: CPU ns of the loop, of the engine, and batches


def new_state(requests: int, servers: int, active: int, instances: int, *, hedged: bool) -> State:
    """Before the first arrival: `active` of the servers take requests."""
    wide = 1
    while wide < servers:
        wide *= 2
    copies = requests * (2 if hedged else 1)
    state = State(
        np.zeros(6, np.int64),
        np.arange(servers),
        np.full(2 * wide, FAR, np.int64),
        np.full(2 * wide, FAR, np.int64),
        np.zeros(servers, np.int64),
        np.zeros((servers, _FIELDS), np.int64),
        np.tile(np.array([1.0, 0.0]), (servers, 1)),
        np.full((servers, instances, 4), -1, np.int64),
        *_columns(copies),
        np.full(requests, FAR, np.int64),
        np.zeros((servers, 3)),
    )
    for column in (_INBOX, _INBOX_END, _WAITING, _WAITING_END, _DONE, _DONE_END):
        state.servers[:, column] = -1
    for server in range(active):
        activate(state, server)
    return state


def _columns(copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each copy, from `following` to `server`; nothing is known."""
    a, b, c, d, e, f, g = np.full((7, copies), -1, np.int64)
    return a, b, c, d, e, f, g


@_plain
def seed_draws(seed: int) -> None:
    """Seed numba's generator, which is this thread's."""
    np.random.seed(seed)  # noqa: NPY002


@_plain
def put(tree: np.ndarray, place: int, value: int) -> None:
    """Set a leaf of a tree of minima."""
    at = tree.shape[0] // 2 + place
    tree[at] = value
    at //= 2
    while at >= 1:
        least = min(tree[2 * at], tree[2 * at + 1])
        if tree[at] == least:
            break
        tree[at] = least
        at //= 2


@_plain
def least_of(tree: np.ndarray, fair: int) -> int:
    """The place of the minimum; of several the first, or where `fair` is 1 one at random."""
    at, wide = 1, tree.shape[0] // 2
    while at < wide:
        left, right = tree[2 * at], tree[2 * at + 1]
        to_right = right < left or (fair == 1 and right == left and np.random.random() < 0.5)  # noqa: NPY002  numba's
        at = 2 * at + (1 if to_right else 0)
    return at - wide  # type: ignore[no-any-return]


@_plain
def activate(state: State, server: int) -> None:
    """Have a server take requests."""
    order, active = state.order, state.clock[_ACTIVE]
    for place in range(active, order.shape[0]):
        if order[place] == server:
            order[place], order[active] = order[active], order[place]
            state.clock[_ACTIVE] += 1
            put(state.loads, server, state.flying[server])
            return


@_plain
def drain(state: State, server: int) -> None:
    """Have a server take no more requests; it answers those that it has."""
    order, last = state.order, state.clock[_ACTIVE] - 1
    for place in range(last + 1):
        if order[place] == server:
            order[place], order[last] = order[last], order[place]
            state.clock[_ACTIVE] -= 1
            put(state.loads, server, FAR)
            return


@_plain
def drawn(state: State, other_than: int) -> int:
    """A server at random, another than this one where there is another."""
    active = state.clock[_ACTIVE]
    server = state.order[np.random.randint(active)] if active > 1 else state.order[0]  # noqa: NPY002  numba's
    while server == other_than and active > 1:
        server = state.order[np.random.randint(active)]  # noqa: NPY002  as above
    return server  # type: ignore[no-any-return]


@_plain
def routed(state: State, routing: int, other_than: int) -> int:
    """The server of a request: of a hedge, another than the first copy's."""
    active = state.clock[_ACTIVE]
    if active == 1:
        return state.order[0]  # type: ignore[no-any-return]
    if routing == ROUND_ROBIN:
        state.clock[_TURN] += 1
        if state.order[state.clock[_TURN] % active] == other_than:
            state.clock[_TURN] += 1
        return state.order[state.clock[_TURN] % active]  # type: ignore[no-any-return]
    if routing == LEAST_LOADED:
        if other_than >= 0 and state.loads[state.loads.shape[0] // 2 + other_than] < FAR:
            put(state.loads, other_than, FAR)
            server = least_of(state.loads, 1)
            put(state.loads, other_than, state.flying[other_than])
            return server
        return least_of(state.loads, 1)
    server = drawn(state, other_than)
    if routing == TWO_CHOICES:
        second = drawn(state, server if other_than < 0 else other_than)
        if state.flying[second] < state.flying[server]:
            return second
    return server


@_plain
def fly(state: State, server: int, change: int) -> None:
    """Count requests in flight."""
    state.flying[server] += change
    if state.loads[state.loads.shape[0] // 2 + server] < FAR:
        put(state.loads, server, state.flying[server])


@_plain
def append(state: State, server: int, head: int, copy: int) -> None:
    """Put a copy at the end of a list of a server; `head` is its column, and that of its end follows."""
    one = state.servers[server]
    state.following[copy] = -1
    if one[head] < 0:
        one[head] = copy
    else:
        state.following[one[head + 1]] = copy
    one[head + 1] = copy


@_plain
def send(state: State, server: int, copy: int, now: int) -> None:
    """Have a copy arrive at a server."""
    state.server[copy], state.came[copy] = server, now
    append(state, server, _INBOX, copy)
    fly(state, server, 1)


@_plain
def loop_event(tables: Tables, state: State, server: int) -> int:
    """When the loop of a server has something to do."""
    one = state.servers[server]
    if one[_PHASE] != _IDLE:
        return one[_FREE]  # type: ignore[no-any-return]
    at = FAR
    if one[_INBOX] >= 0:
        at = max(one[_FREE], state.came[one[_INBOX]])
    if one[_DONE] >= 0:
        done = state.finished[one[_DONE]]
        at = min(at, one[_FREE] if one[_FREE] > done else done + tables.costs[WAKE])
    return at


@_plain
def take_event(tables: Tables, state: State, server: int) -> tuple[int, int]:
    """When an instance takes a batch, and which; FAR where there is none to take."""
    one, at, which = state.servers[server], FAR, -1
    if tables.shape[DISPATCH] == INLINE or one[_WAITING] < 0:
        return at, which
    ready = state.ready[one[_WAITING]]
    for slot in range(state.slots.shape[1]):
        if state.slots[server, slot, _JOB] < 0:
            since = state.slots[server, slot, _SINCE]
            own = max(ready + tables.costs[WAKE] if ready > since else since, one[_HELD])
            if own < at:
                at, which = own, slot
    return at, which


@_plain
def end_event(state: State, server: int) -> tuple[int, int]:
    """When an instance ends its batch, and which."""
    at, which = FAR, -1
    for slot in range(state.slots.shape[1]):
        if state.slots[server, slot, _JOB] >= 0 and state.slots[server, slot, _END] < at:
            at, which = state.slots[server, slot, _END], slot
    return at, which


@_plain
def plan_next(tables: Tables, state: State, server: int) -> None:
    """Enter a server's next event."""
    at = min(loop_event(tables, state, server), take_event(tables, state, server)[0], end_event(state, server)[0])
    put(state.events, server, at)


@_plain
def form(state: State, server: int, rows: int) -> int:
    """Take a batch from the requests that wait; its first copy."""
    one = state.servers[server]
    first = copy = one[_WAITING]
    for _ in range(rows - 1):
        copy = state.following[copy]
    one[_WAITING] = state.following[copy]
    state.following[copy] = -1
    one[_WAITS] -= rows
    state.rows[first] = rows
    state.means[server, 0] += _ROWS_WEIGHT * (rows - state.means[server, 0])
    return first  # type: ignore[no-any-return]


@_plain
def computed(tables: Tables, state: State, server: int, rows: int, active: int) -> int:
    """How long a batch computes, beside so many active threads with its own."""
    took = service(rows, tables.sizes, tables.times, np.random.randint(tables.times.shape[1]))  # noqa: NPY002  numba's
    state.totals[server, ENGINE_NS] += took * tables.shape[THREADS]
    state.totals[server, BATCHES] += 1
    return shared(took, max(1.0, active / tables.cores))


@_plain
def answer(  # noqa: PLR0913, PLR0917  numba takes them by position
    tables: Tables, state: State, server: int, first: int, began: int, slow: float
) -> int:
    """Write a batch's answers one after the other from `began` on; when the last one is written."""
    now, copy, count = began + shared(tables.costs[BATCH], slow), first, state.answered.shape[0]
    while copy >= 0:
        now += shared(tables.costs[ANSWER], slow)
        request = copy % count
        there = now + tables.costs[OUTSIDE]
        if state.answered[request] == REFUSED or there < state.answered[request]:
            state.answered[request] = there
        copy = state.following[copy]
    state.totals[server, LOOP_NS] += (now - began) / slow
    state.servers[server, _LEAVING] = state.rows[first]
    return now


@_plain
def receive(tables: Tables, state: State, server: int, now: int, slow: float) -> int:
    """Receive the request that came first; when that is done."""
    one, count = state.servers[server], state.answered.shape[0]
    copy = one[_INBOX]
    one[_INBOX] = state.following[copy]
    end = now + shared(tables.costs[RECEIVE], slow)
    state.totals[server, LOOP_NS] += (end - now) / slow
    if one[_WAITS] >= tables.shape[QUEUE]:
        if state.answered[copy % count] == FAR:
            state.answered[copy % count] = REFUSED
        fly(state, server, -1)
        return end
    state.means[server, 1] += _GAP_WEIGHT * (min(state.came[copy] - one[_LAST], 1_000_000_000) - state.means[server, 1])
    one[_LAST] = state.came[copy]
    state.ready[copy] = end
    append(state, server, _WAITING, copy)
    one[_WAITS] += 1
    return end


@_plain
def loop_step(tables: Tables, state: State, server: int, now: int) -> None:
    """One step of a server's loop: a pass begins, receives one request, answers one batch, or computes one."""
    one = state.servers[server]
    if one[_LEAVING]:
        fly(state, server, -one[_LEAVING])
        one[_LEAVING] = 0
    active = 1 + one[_RUNNING] * tables.shape[THREADS]
    slow = max(1.0, active / tables.cores)
    if one[_PHASE] == _IDLE:
        one[_FREE] = now + shared(tables.costs[PASS], slow)
        state.totals[server, LOOP_NS] += (one[_FREE] - now) / slow
        one[_PHASE] = _RECEIVING
        return
    if one[_PHASE] == _RECEIVING and one[_INBOX] >= 0:
        one[_FREE] = receive(tables, state, server, now, slow)
        return
    if one[_PHASE] != _COMPUTING and one[_DONE] >= 0 and state.finished[one[_DONE]] <= now:
        batch = one[_DONE]
        one[_DONE] = state.after[batch]
        one[_PHASE], one[_FREE] = _ANSWERING, answer(tables, state, server, batch, now, slow)
        return
    if one[_WAITING] >= 0 and tables.shape[DISPATCH] != WORKER:
        rows = batch_rows(one[_WAITS], 1, tables.best)
        short = one[_RUNNING] == 0 and state.means[server, 0] <= _FEW and tables.estimate[rows] <= tables.costs[HERE]
        if tables.shape[DISPATCH] == INLINE or short:
            first = form(state, server, rows)
            end = now + computed(tables, state, server, rows, active + tables.shape[THREADS] - 1)
            one[_PHASE], one[_FREE] = _COMPUTING, answer(tables, state, server, first, end, slow)
            return
    one[_PHASE], one[_FREE] = _IDLE, now


@_plain
def take_step(tables: Tables, state: State, server: int, slot: int, now: int) -> None:
    """An instance takes a batch, or the batch is held back."""
    one, costs, best = state.servers[server], tables.costs, tables.best
    ready, own = one[_WAITS], state.slots[server, slot]
    rows = batch_rows(ready, tables.shape[INSTANCES] - one[_RUNNING], best)
    oldest = state.ready[one[_WAITING]]
    until = held_until(ready, rows, oldest, state.means[server, 1], now, costs[DELAY], best, tables.estimate)
    if until > now and until != one[_HELD]:
        one[_HELD] = until
        return
    one[_HELD] = 0
    threads = tables.shape[THREADS]
    active = one[_RUNNING] * threads + (1 if one[_FREE] > now else 0) + threads
    own[_JOB], own[_ROWS] = form(state, server, rows), rows
    own[_END] = now + computed(tables, state, server, rows, active)
    one[_RUNNING] += 1


@_plain
def step(tables: Tables, state: State, server: int, now: int) -> None:
    """What happens at a server at its next event."""
    one = state.servers[server]
    end, which = end_event(state, server)
    if end == now:
        own = state.slots[server, which]
        batch = own[_JOB]
        state.finished[batch], state.after[batch] = now, -1
        if one[_DONE] < 0:
            one[_DONE] = batch
        else:
            state.after[one[_DONE_END]] = batch
        one[_DONE_END] = batch
        own[_JOB], own[_SINCE] = -1, now
        one[_RUNNING] -= 1
    elif loop_event(tables, state, server) == now:
        loop_step(tables, state, server, now)
    else:
        take_step(tables, state, server, take_event(tables, state, server)[1], now)
    plan_next(tables, state, server)


@_plain
def advance(tables: Tables, state: State, arrivals: np.ndarray, until: int) -> None:
    """Simulate what happens before `until` (ns), for arrivals at these times (int64 ns, ascending)."""
    count, clock, hedge = arrivals.shape[0], state.clock, tables.shape[HEDGE]
    while True:
        arrival = arrivals[clock[_ROUTED]] if clock[_ROUTED] < count else FAR
        timer = FAR
        if hedge > 0 and clock[_TIMER] < clock[_ROUTED]:
            timer = arrivals[clock[_TIMER]] + hedge
        event = state.events[1]
        now = min(arrival, timer, event)
        if now >= until or now == FAR:
            return
        clock[_NOW] = now
        if arrival == now:
            copy = clock[_ROUTED]
            clock[_ROUTED] += 1
            server = routed(state, tables.shape[ROUTING], -1)
        elif timer == now:
            request = clock[_TIMER]
            clock[_TIMER] += 1
            if state.answered[request] <= now or clock[_ACTIVE] == 1:
                continue
            clock[_HEDGED] += 1
            copy = count + request
            server = routed(state, tables.shape[ROUTING], state.server[request])
        else:
            step(tables, state, least_of(state.events, 0), now)
            continue
        send(state, server, copy, now)
        plan_next(tables, state, server)


def active_of(state: State) -> int:
    """Servers that take requests."""
    return int(state.clock[_ACTIVE])


def hedged_of(state: State) -> int:
    """Requests that were sent a second time."""
    return int(state.clock[_HEDGED])


def drained_at(state: State) -> int:
    """When the last step was simulated."""
    return int(state.clock[_NOW])
