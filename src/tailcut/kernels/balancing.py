"""The state of the servers behind a load balancer, and the choice of a request's server; compiled, for `cluster.py`.

*Routing*: at random, in turn, to the server with the fewest requests in flight, or to the better of two drawn at random
(M. Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 12(10), 2001). The balancer knows
exactly what is in flight.
"""

from typing import NamedTuple

import numpy as np

from tailcut.kernels.cache import compiled
from tailcut.kernels.queueing import FAR

RANDOM, ROUND_ROBIN, LEAST_LOADED, TWO_CHOICES = range(4)
DISPATCH, INSTANCES, THREADS, QUEUE, ROUTING, HEDGE = range(6)  # of `Tables.shape`
SHAPES = 6
NOW, ROUTED, TIMER, TURN, ACTIVE, HEDGED = range(6)  # of `BalancingState.clock`
# Columns of a server: what its loop does and until when; the answers that leave then; batches being computed; until
# when a batch is held back; when the last request came; when the loop last looked for arrivals; and the linked lists
# of waiting requests and of finished batches (by their first request).
PHASE, FREE, LEAVING, RUNNING, HELD, LAST, LOOKED = range(7)
INBOX, INBOX_END, WAITING, WAITING_END, WAITS, DONE, DONE_END = range(7, 14)
FIELDS = 14
LOOP_NS, ENGINE_NS, BATCHES = range(3)  # of `BalancingState.totals`

# Nothing here allocates, and counting references to this many arrays at each call took four fifths of the time.
_plain = compiled(_nrt=False)


class Tables(NamedTuple):
    """What all servers have in common.

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


class BalancingState(NamedTuple):
    """The state of a simulation; made by `new_state`. Copies of requests are numbered, hedges after all requests."""

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


def new_state(requests: int, servers: int, active: int, instances: int, *, hedged: bool) -> BalancingState:
    """The state before the first arrival: `active` of the servers take requests."""
    wide = 1
    while wide < servers:
        wide *= 2
    copies = requests * (2 if hedged else 1)
    state = BalancingState(
        np.zeros(6, np.int64),
        np.arange(servers),
        np.full(2 * wide, FAR, np.int64),
        np.full(2 * wide, FAR, np.int64),
        np.zeros(servers, np.int64),
        np.zeros((servers, FIELDS), np.int64),
        np.tile(np.array([1.0, 0.0]), (servers, 1)),
        np.full((servers, instances, 4), -1, np.int64),
        *_columns(copies),
        np.full(requests, FAR, np.int64),
        np.zeros((servers, 3)),
    )
    for column in (INBOX, INBOX_END, WAITING, WAITING_END, DONE, DONE_END):
        state.servers[:, column] = -1
    for server in range(active):
        activate(state, server)
    return state


def _columns(copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The columns of the copies, from `following` to `server`, unset."""
    a, b, c, d, e, f, g = np.full((7, copies), -1, np.int64)
    return a, b, c, d, e, f, g


@_plain
def seed_draws(seed: int) -> None:
    """Seed numba's generator, which is this thread's."""
    np.random.seed(seed)  # noqa: NPY002


@_plain
def put(tree: np.ndarray, index: int, value: int) -> None:
    """Set a leaf of a tree of minima."""
    at = tree.shape[0] // 2 + index
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
    """The index of the minimum; of several the first, or a random one if `fair` is 1."""
    at, wide = 1, tree.shape[0] // 2
    while at < wide:
        left, right = tree[2 * at], tree[2 * at + 1]
        to_right = right < left or (fair == 1 and right == left and np.random.random() < 0.5)  # noqa: NPY002  numba's
        at = 2 * at + (1 if to_right else 0)
    return at - wide  # type: ignore[no-any-return]


@_plain
def activate(state: BalancingState, server: int) -> None:
    """Have a server take requests."""
    order, active = state.order, state.clock[ACTIVE]
    for index in range(active, order.shape[0]):
        if order[index] == server:
            order[index], order[active] = order[active], order[index]
            state.clock[ACTIVE] += 1
            put(state.loads, server, state.flying[server])
            return


@_plain
def drain(state: BalancingState, server: int) -> None:
    """Have a server take no more requests; it still answers those that it has."""
    order, last = state.order, state.clock[ACTIVE] - 1
    for index in range(last + 1):
        if order[index] == server:
            order[index], order[last] = order[last], order[index]
            state.clock[ACTIVE] -= 1
            put(state.loads, server, FAR)
            return


@_plain
def drawn(state: BalancingState, other_than: int) -> int:
    """A random server, other than `other_than` if there is another."""
    active = state.clock[ACTIVE]
    server = state.order[np.random.randint(active)] if active > 1 else state.order[0]  # noqa: NPY002  numba's
    while server == other_than and active > 1:
        server = state.order[np.random.randint(active)]  # noqa: NPY002  as above
    return server  # type: ignore[no-any-return]


@_plain
def routed(state: BalancingState, routing: int, other_than: int) -> int:
    """Choose the server of a request; that of a hedge differs from the first copy's if there is another."""
    active = state.clock[ACTIVE]
    if active == 1:
        return state.order[0]  # type: ignore[no-any-return]
    if routing == ROUND_ROBIN:
        state.clock[TURN] += 1
        if state.order[state.clock[TURN] % active] == other_than:
            state.clock[TURN] += 1
        return state.order[state.clock[TURN] % active]  # type: ignore[no-any-return]
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
def fly(state: BalancingState, server: int, change: int) -> None:
    """Add `change` to the requests in flight at a server."""
    state.flying[server] += change
    if state.loads[state.loads.shape[0] // 2 + server] < FAR:
        put(state.loads, server, state.flying[server])


def active_of(state: BalancingState) -> int:
    """The number of servers that take requests."""
    return int(state.clock[ACTIVE])


def hedged_of(state: BalancingState) -> int:
    """The number of requests that were sent a second time."""
    return int(state.clock[HEDGED])


def drained_at(state: BalancingState) -> int:
    """When the last step was simulated."""
    return int(state.clock[NOW])
