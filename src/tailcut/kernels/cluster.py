"""Many servers behind a load balancer as queues, event by event, in compiled code: the latency of each request.

Each server is that of `queueing.py`: a loop, instances, the rule for batches, threads that share the server's cores.
With many servers, events must also be simulated in the order of their times: a request is routed by what the servers
have in flight at its arrival (`balancing.py`), so the loop takes one step (a pass, one request received, one batch
answered) at a time. Clients run elsewhere, and deadlines are not modelled.

A request without an answer after a while may be *hedged*: sent to a second server; the first answer counts, and both
servers compute. `advance` simulates until a given time and may be called again; servers may join and leave in between.
"""

import numpy as np

from tailcut.kernels.balancing import (
    ACTIVE,
    BATCHES,
    DISPATCH,
    DONE,
    DONE_END,
    ENGINE_NS,
    FREE,
    HEDGE,
    HEDGED,
    HELD,
    INBOX,
    INSTANCES,
    LAST,
    LEAVING,
    LOOKED,
    LOOP_NS,
    NOW,
    PHASE,
    QUEUE,
    ROUTED,
    ROUTING,
    RUNNING,
    THREADS,
    TIMER,
    WAITING,
    WAITS,
    BalancingState,
    Tables,
    fly,
    least_of,
    put,
    routed,
)
from tailcut.kernels.cache import compiled
from tailcut.kernels.queueing import (
    ANSWER,
    BATCH,
    DELAY,
    FAR,
    FEW,
    GAP_WEIGHT,
    HERE,
    INLINE,
    OUTSIDE,
    PASS,
    RECEIVE,
    REFUSED,
    ROWS_WEIGHT,
    WAKE,
    WORKER,
    batch_rows,
    held_until,
    service,
    shared,
)

_IDLE, _RECEIVING, _ANSWERING, _COMPUTING = range(4)  # what the loop does until `FREE`
_JOB, _ROWS, _END, _SINCE = range(4)  # of an instance: its batch, when that ends, and since when it is idle

_plain = compiled(_nrt=False)  # as in balancing.py


@_plain
def append(state: BalancingState, server: int, head: int, copy: int) -> None:
    """Append a copy to a linked list of a server; column `head` has its first entry, the next column its last."""
    server_row = state.servers[server]
    state.following[copy] = -1
    if server_row[head] < 0:
        server_row[head] = copy
    else:
        state.following[server_row[head + 1]] = copy
    server_row[head + 1] = copy


@_plain
def send(state: BalancingState, server: int, copy: int, now: int) -> None:
    """Have a copy arrive at a server."""
    state.server[copy], state.came[copy] = server, now
    append(state, server, INBOX, copy)
    fly(state, server, 1)


@_plain
def loop_event(tables: Tables, state: BalancingState, server: int) -> int:
    """When the loop of a server next has something to do."""
    server_row = state.servers[server]
    if server_row[PHASE] != _IDLE:
        return server_row[FREE]  # type: ignore[no-any-return]
    at = FAR
    if server_row[INBOX] >= 0:
        at = max(server_row[FREE], state.came[server_row[INBOX]])
    if server_row[DONE] >= 0:
        done = state.finished[server_row[DONE]]
        at = min(at, server_row[FREE] if server_row[FREE] > done else done + tables.costs[WAKE])
    return at


@_plain
def take_event(tables: Tables, state: BalancingState, server: int) -> tuple[int, int]:
    """When an instance next takes a batch, and which instance; FAR if there is no batch."""
    server_row, at, which = state.servers[server], FAR, -1
    if tables.shape[DISPATCH] == INLINE or server_row[WAITING] < 0:
        return at, which
    ready = state.ready[server_row[WAITING]]
    for slot in range(state.slots.shape[1]):
        if state.slots[server, slot, _JOB] < 0:
            since = state.slots[server, slot, _SINCE]
            own = max(ready + tables.costs[WAKE] if ready > since else since, server_row[HELD])
            if own < at:
                at, which = own, slot
    return at, which


@_plain
def end_event(state: BalancingState, server: int) -> tuple[int, int]:
    """When the next instance finishes its batch, and which instance."""
    at, which = FAR, -1
    for slot in range(state.slots.shape[1]):
        if state.slots[server, slot, _JOB] >= 0 and state.slots[server, slot, _END] < at:
            at, which = state.slots[server, slot, _END], slot
    return at, which


@_plain
def plan_next(tables: Tables, state: BalancingState, server: int) -> None:
    """Store the time of a server's next event in the tree of events."""
    at = min(loop_event(tables, state, server), take_event(tables, state, server)[0], end_event(state, server)[0])
    put(state.events, server, at)


@_plain
def form(state: BalancingState, server: int, rows: int) -> int:
    """Take a batch of `rows` from the waiting requests; returns its first copy."""
    server_row = state.servers[server]
    first = copy = server_row[WAITING]
    for _ in range(rows - 1):
        copy = state.following[copy]
    server_row[WAITING] = state.following[copy]
    state.following[copy] = -1
    server_row[WAITS] -= rows
    state.rows[first] = rows
    state.means[server, 0] += ROWS_WEIGHT * (rows - state.means[server, 0])
    return first  # type: ignore[no-any-return]


@_plain
def computed(tables: Tables, state: BalancingState, server: int, rows: int, active: int) -> int:
    """How long a batch computes, beside this many active threads with its own."""
    took = service(rows, tables.sizes, tables.times, np.random.randint(tables.times.shape[1]))  # noqa: NPY002  numba's
    state.totals[server, ENGINE_NS] += took * tables.shape[THREADS]
    state.totals[server, BATCHES] += 1
    return shared(took, max(1.0, active / tables.cores))


@_plain
def answer(  # noqa: PLR0913, PLR0917  numba takes them by position
    tables: Tables, state: BalancingState, server: int, first: int, began: int, slow: float
) -> int:
    """Write a batch's answers one after the other from `began` on; returns when the last one is written."""
    now, copy, count = began + shared(tables.costs[BATCH], slow), first, state.answered.shape[0]
    while copy >= 0:
        now += shared(tables.costs[ANSWER], slow)
        request = copy % count
        there = now + tables.costs[OUTSIDE]
        if state.answered[request] == REFUSED or there < state.answered[request]:
            state.answered[request] = there
        copy = state.following[copy]
    state.totals[server, LOOP_NS] += (now - began) / slow
    state.servers[server, LEAVING] = state.rows[first]
    return now


@_plain
def receive(tables: Tables, state: BalancingState, server: int, now: int, slow: float) -> int:
    """Receive the request that came first; returns when that is done."""
    server_row, count = state.servers[server], state.answered.shape[0]
    copy = server_row[INBOX]
    server_row[INBOX] = state.following[copy]
    end = now + shared(tables.costs[RECEIVE], slow)
    state.totals[server, LOOP_NS] += (end - now) / slow
    if server_row[WAITS] >= tables.shape[QUEUE]:
        if state.answered[copy % count] == FAR:
            state.answered[copy % count] = REFUSED
        fly(state, server, -1)
        return end
    state.means[server, 1] += GAP_WEIGHT * (
        min(state.came[copy] - server_row[LAST], 1_000_000_000) - state.means[server, 1]
    )
    server_row[LAST] = state.came[copy]
    state.ready[copy] = end
    append(state, server, WAITING, copy)
    server_row[WAITS] += 1
    return end


@_plain
def loop_step(tables: Tables, state: BalancingState, server: int, now: int) -> None:
    """One step of a server's loop: a pass begins, receives one request, answers one batch, or computes one."""
    server_row = state.servers[server]
    if server_row[LEAVING]:
        fly(state, server, -server_row[LEAVING])
        server_row[LEAVING] = 0
    active = 1 + server_row[RUNNING] * tables.shape[THREADS]
    slow = max(1.0, active / tables.cores)
    if server_row[PHASE] == _IDLE:
        server_row[FREE] = server_row[LOOKED] = now + shared(tables.costs[PASS], slow)
        state.totals[server, LOOP_NS] += (server_row[FREE] - now) / slow
        server_row[PHASE] = _RECEIVING
        return
    arrived = server_row[INBOX] >= 0 and state.came[server_row[INBOX]] <= server_row[LOOKED]
    if server_row[PHASE] == _RECEIVING and arrived:
        server_row[FREE] = receive(tables, state, server, now, slow)
        return
    if server_row[PHASE] != _COMPUTING and server_row[DONE] >= 0 and state.finished[server_row[DONE]] <= now:
        batch = server_row[DONE]
        server_row[DONE] = state.after[batch]
        server_row[PHASE], server_row[FREE] = _ANSWERING, answer(tables, state, server, batch, now, slow)
        return
    if server_row[WAITING] >= 0 and tables.shape[DISPATCH] != WORKER:
        rows = batch_rows(server_row[WAITS], 1, tables.best)
        short = (
            server_row[RUNNING] == 0 and state.means[server, 0] <= FEW and tables.estimate[rows] <= tables.costs[HERE]
        )
        if tables.shape[DISPATCH] == INLINE or short:
            first = form(state, server, rows)
            end = now + computed(tables, state, server, rows, active + tables.shape[THREADS] - 1)
            server_row[PHASE], server_row[FREE] = _COMPUTING, answer(tables, state, server, first, end, slow)
            return
    server_row[PHASE], server_row[FREE] = _IDLE, now


@_plain
def take_step(tables: Tables, state: BalancingState, server: int, slot: int, now: int) -> None:
    """An instance takes a batch, or the batch is held back."""
    server_row, costs, best = state.servers[server], tables.costs, tables.best
    ready, own = server_row[WAITS], state.slots[server, slot]
    rows = batch_rows(ready, tables.shape[INSTANCES] - server_row[RUNNING], best)
    oldest = state.ready[server_row[WAITING]]
    until = held_until(ready, rows, oldest, state.means[server, 1], now, costs[DELAY], best, tables.estimate)
    if until > now and until != server_row[HELD]:
        server_row[HELD] = until
        return
    server_row[HELD] = 0
    threads = tables.shape[THREADS]
    active = server_row[RUNNING] * threads + (1 if server_row[FREE] > now else 0) + threads
    own[_JOB], own[_ROWS] = form(state, server, rows), rows
    own[_END] = now + computed(tables, state, server, rows, active)
    server_row[RUNNING] += 1


@_plain
def step(tables: Tables, state: BalancingState, server: int, now: int) -> None:
    """Simulate the next event of a server."""
    server_row = state.servers[server]
    end, which = end_event(state, server)
    if end == now:
        own = state.slots[server, which]
        batch = own[_JOB]
        state.finished[batch], state.after[batch] = now, -1
        if server_row[DONE] < 0:
            server_row[DONE] = batch
        else:
            state.after[server_row[DONE_END]] = batch
        server_row[DONE_END] = batch
        own[_JOB], own[_SINCE] = -1, now
        server_row[RUNNING] -= 1
    elif loop_event(tables, state, server) == now:
        loop_step(tables, state, server, now)
    else:
        take_step(tables, state, server, take_event(tables, state, server)[1], now)
    plan_next(tables, state, server)


@_plain
def advance(tables: Tables, state: BalancingState, arrivals: np.ndarray, until: int) -> None:
    """Simulate what happens before `until` (ns), for arrivals at these times (int64 ns, ascending)."""
    count, clock, hedge = arrivals.shape[0], state.clock, tables.shape[HEDGE]
    while True:
        arrival = arrivals[clock[ROUTED]] if clock[ROUTED] < count else FAR
        timer = FAR
        if hedge > 0 and clock[TIMER] < clock[ROUTED]:
            timer = arrivals[clock[TIMER]] + hedge
        event = state.events[1]
        now = min(arrival, timer, event)
        if now >= until or now == FAR:
            return
        if arrival == now:
            copy = clock[ROUTED]
            clock[ROUTED] += 1
            server = routed(state, tables.shape[ROUTING], -1)
        elif timer == now:
            request = clock[TIMER]
            clock[TIMER] += 1
            if state.answered[request] <= now or clock[ACTIVE] == 1:
                continue  # nothing happens, and the simulated time does not advance
            clock[HEDGED] += 1
            copy = count + request
            server = routed(state, tables.shape[ROUTING], state.server[request])
        else:
            clock[NOW] = now
            step(tables, state, least_of(state.events, 0), now)
            continue
        clock[NOW] = now
        send(state, server, copy, now)
        plan_next(tables, state, server)
