"""A server as a queue, event by event, in compiled code: what each request's latency would be.

Pure: arrivals, service times and costs in, latencies out; random numbers come from a seed. The model:

- One *loop* receives requests and writes answers, one thing after another. A pass takes in everything that has arrived
  when it looks, and what arrives while it does waits for the next one; then everything that instances have finished;
  the pass itself has a cost.
- *Instances* compute batches. With `INLINE` dispatch the loop computes them itself; with `WORKER` dispatch they run
  beside it, and a batch is picked up and handed back `wake` later; `ADAPTIVE` computes on the loop what takes at most
  `here` while batches are small, and leaves the rest to the instance.
- How many rows a batch takes, and whether it is held back, is the rule of `batching/policy.py`, with the learned cost
  given as tables. Which requests it takes is the rule of `batching/queue.py`: the first that waits, and those behind it
  with the same key.
- One *client* process on the same machine reads the answers, one after another, and sends the next requests: it takes a
  core while it does, unless it has one of its own, and answers wait for it. Without costs of its own it is elsewhere.
- *Cores* are shared: while more threads are active than there are cores, everything takes longer in proportion, on
  average. The operating system does not share evenly but in turns: most work runs undisturbed, some of it waits for a
  while until a core is free, which is what makes the tail.

Importing this module loads numba, and compiles or loads the code.
"""

import numpy as np

from tailcut.kernels.cache import compiled

INLINE, WORKER, ADAPTIVE = range(3)
# Of `costs`, int64 nanoseconds: per request received, per request answered, per batch, for waking a thread, outside the
# server and the client (the kernel), the longest delay in the queue, the deadline (0: none), what adaptive computes
# itself, per pass of the loop, of the client's time per request and each time that it is woken, and 1 where the client
# has a core of its own.
RECEIVE, ANSWER, BATCH, WAKE, OUTSIDE, DELAY, DEADLINE, HERE, PASS, CLIENT, CLIENT_PASS, APART = range(12)
COSTS = 12
REFUSED = -1  # as a latency: no room in the queue, or the deadline could not be met
FEW = 2.5  # adaptive dispatch: rows of a usual batch, beyond which the loop leaves computing to the instance
ROWS_WEIGHT, GAP_WEIGHT = 0.1, 0.05
FAR = 1 << 62
# How long a thread keeps its core at most while another waits for it: between Linux's own 0.7 ms slice and the tick of
# 4 ms at which it looks (https://docs.kernel.org/scheduler/sched-eevdf.html); chosen by benchmarks/simulation.py.
_TURN_NS = 2_000_000

_plain = compiled()


@_plain
def shared(work: float, slow: float) -> int:
    """How long some work (ns) takes on shared cores: `slow` times as long on average, by random waits for a core."""
    extra = work * (slow - 1.0)
    if extra <= 0.0:
        return int(work)
    often = min(1.0, 2.0 * extra / _TURN_NS)
    if np.random.random() >= often:  # noqa: NPY002  numba's generator
        return int(work)
    return int(work + 2.0 * extra / often * np.random.random())  # noqa: NPY002  as above


@_plain
def batch_rows(ready: int, idle: int, best: np.ndarray) -> int:
    """How many rows the next batch has: idle instances share what is ready, up to the largest worthwhile batch."""
    share = -(-ready // max(idle, 1))
    return best[min(share, best.shape[0] - 1)]  # type: ignore[no-any-return]


@_plain
def held_until(  # noqa: PLR0913, PLR0917  what the policy sees
    ready: int, rows: int, oldest: int, gap: float, now: int, delay: int, best: np.ndarray, estimate: np.ndarray
) -> int:
    """Until when (ns) it is worth holding a batch back; 0 if it leaves now."""
    most = best.shape[0] - 1
    if delay == 0 or rows != ready or ready >= most or ready >= best[ready + 1]:
        return 0
    until = oldest + delay
    saved = estimate[rows] + estimate[1] - estimate[rows + 1]
    return until if now + gap <= until and saved > gap * ready else 0


@_plain
def service(rows: int, sizes: np.ndarray, times: np.ndarray, draw: int) -> float:
    """The time of a batch (ns): one of the measured quantiles, interpolated linearly between the sizes."""
    last = sizes.shape[0] - 1
    if rows >= sizes[last]:
        return times[last, draw] * rows / sizes[last]  # type: ignore[no-any-return]
    at = 0
    while sizes[at] < rows:
        at += 1
    if at == 0 or sizes[at] == rows:
        return times[at, draw]  # type: ignore[no-any-return]
    share = (rows - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
    return times[at - 1, draw] + share * (times[at, draw] - times[at - 1, draw])  # type: ignore[no-any-return]


@_plain
def read_at(client: int, written: int, costs: np.ndarray, slow: float) -> int:
    """When the client has read an answer and sent the next request; an idle client must be woken first."""
    if costs[CLIENT] == 0:
        return written
    work = costs[CLIENT] + (costs[CLIENT_PASS] if client <= written else 0)
    return max(client, written) + shared(work, 1.0 if costs[APART] else slow)


@_plain
def ask_again(arrivals: np.ndarray, issued: int, at: int) -> int:
    """Have a client of a closed loop send its next request; returns how many were sent by then."""
    if issued == arrivals.shape[0]:
        return issued
    arrivals[issued] = max(at, arrivals[issued - 1])
    return issued + 1


@_plain
def run(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917  one event loop, and what it is a model of
    arrivals: np.ndarray,
    keys: np.ndarray,
    costs: np.ndarray,
    sizes: np.ndarray,
    times: np.ndarray,
    best: np.ndarray,
    estimate: np.ndarray,
    dispatch: int,
    instances: int,
    threads: int,
    cores: float,
    queue_rows: int,
    clients: int,
    seed: int,
    latencies: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Fill `latencies` (ns, int64; `REFUSED` for what was not computed) for sorted `arrivals` (ns, int64).

    Args:
        clients: of a closed loop: `arrivals` of the first of them count, each answer makes the next one, and `arrivals`
            are filled in; 0 for an open loop.
        keys: int64, of each request: only those with equal keys share a batch.
        costs: int64 [COSTS], see above.
        sizes, times: batch sizes (int64, ascending) and float64 [sizes, quantiles], equally likely service times in ns.
        best, estimate: rows worth taking by rows ready (int64), and expected ns by rows (float64); [largest batch + 1].
        dispatch, instances, threads, cores: where batches are computed; threads of one batch; cores of the server.
        queue_rows: requests that may wait at most.
        totals: float64 [3], filled: CPU ns of the loop, CPU ns of the engine, and the number of batches.
    """
    np.random.seed(seed)  # noqa: NPY002  numba's generator
    count = arrivals.shape[0]
    far = FAR
    queue = np.empty(count, np.int64)  # request numbers in order; [head, tail) wait, but for what a batch has taken: -1
    ready_at = np.zeros(count, np.int64)
    head = tail = waiting = taken = ended = 0
    issued = clients or count
    arrivals[issued:] = far
    order = np.empty(count, np.int64)  # request numbers, batch by batch
    begin, size, finished = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    placed = batches = 0
    posted = np.empty(count, np.int64)  # batches that are done; [first, last) are to be answered by the loop
    first = last = 0
    flying = np.full(instances, -1, np.int64)  # the batch on each instance
    idle_since = np.full(instances, -1, np.int64)
    running = 0
    # When the loop is free, until when the oldest request is held back, and when the client is free.
    loop = held = client = 0
    has_client = costs[CLIENT] > 0 and costs[APART] == 0  # that takes one of the server's cores
    usual, gap, last_arrival = 1.0, 0.0, 0
    while ended < count:
        receive = max(loop, arrivals[taken]) if taken < count else far
        write = far
        if first < last:
            done = finished[posted[first]]
            write = loop if loop > done else done + costs[WAKE]  # a loop that is awake need not be woken
        finish, which = far, -1
        take, slot = far, -1
        for i in range(instances):
            if flying[i] >= 0:
                if finished[flying[i]] < finish:
                    finish, which = finished[flying[i]], i
            elif dispatch != INLINE and head < tail:
                ready = ready_at[queue[head]]
                at = ready + costs[WAKE] if ready > idle_since[i] else idle_since[i]
                if max(at, held) < take:
                    take, slot = max(at, held), i
        now = min(receive, write, finish, take)
        if now == finish:
            posted[last] = flying[which]
            last += 1
            flying[which] = -1
            idle_since[which] = now
            running -= 1
            continue
        here = now != take or now == min(receive, write)
        if not here:
            ready = waiting
            rows = batch_rows(ready, instances - running, best)
            until = held_until(ready, rows, ready_at[queue[head]], gap, now, costs[DELAY], best, estimate)
            if until > now and until != held:
                held = until
                continue
            held = 0
            active = running * threads + (1 if loop > now else 0) + (1 if has_client and client > now else 0)
        else:
            active = 1 + running * threads + (1 if has_client and client > now else 0)
            slow = max(1.0, active / cores)
            began = now
            now += shared(costs[PASS], slow)
            looked = now
            while taken < count and arrivals[taken] <= looked:
                number = taken
                taken += 1
                now += shared(costs[RECEIVE], slow)
                if waiting >= queue_rows:
                    latencies[number] = REFUSED
                    ended += 1
                    issued = ask_again(arrivals, issued, now + costs[OUTSIDE])
                    continue
                gap += GAP_WEIGHT * (min(arrivals[number] - last_arrival, 1_000_000_000) - gap)
                last_arrival = arrivals[number]
                ready_at[number] = now
                queue[tail] = number
                tail += 1
                waiting += 1
            while first < last and finished[posted[first]] <= now:
                batch = posted[first]
                first += 1
                now += shared(costs[BATCH], slow)
                for j in range(begin[batch], begin[batch] + size[batch]):
                    now += shared(costs[ANSWER], slow)
                    client = read_at(client, now, costs, slow)
                    latencies[order[j]] = client - arrivals[order[j]] + costs[OUTSIDE]
                    ended += 1
                    issued = ask_again(arrivals, issued, client + costs[OUTSIDE])
            totals[0] += (now - began) / slow
        # A batch: by the instance that takes one, or by the loop until nothing is left that it computes itself.
        while head < tail:
            ready = waiting
            if here:
                if dispatch == WORKER:
                    break
                rows = batch_rows(ready, 1, best)
                mine = dispatch == INLINE or (running == 0 and usual <= FEW and estimate[rows] <= costs[HERE])
                if not mine:
                    break
            else:
                rows = batch_rows(ready, instances - running, best)
            start = placed
            key, index = keys[queue[head]], head
            while placed - start < rows and index < tail:
                number = queue[index]
                index += 1
                if number < 0 or keys[number] != key:
                    continue
                queue[index - 1] = -1
                waiting -= 1
                if costs[DEADLINE] and arrivals[number] + costs[DEADLINE] < now + estimate[rows]:
                    latencies[number] = REFUSED
                    ended += 1
                    issued = ask_again(arrivals, issued, now + costs[OUTSIDE])
                    continue
                order[placed] = number
                placed += 1
            while head < tail and queue[head] < 0:
                head += 1
            k = placed - start
            if k == 0:
                continue
            wide = max(1.0, (active + threads - (1 if here else 0)) / cores)
            took = service(k, sizes, times, np.random.randint(times.shape[1]))  # noqa: NPY002  as above
            usual += ROWS_WEIGHT * (k - usual)
            totals[1] += took * threads
            totals[2] += 1
            begin[batches], size[batches], finished[batches] = start, k, now + shared(took, wide)
            batches += 1
            if not here:
                flying[slot] = batches - 1
                running += 1
                break
            slow = max(1.0, active / cores)
            began = finished[batches - 1]
            now = began + shared(costs[BATCH], slow)
            for j in range(start, placed):
                now += shared(costs[ANSWER], slow)
                client = read_at(client, now, costs, slow)
                latencies[order[j]] = client - arrivals[order[j]] + costs[OUTSIDE]
                ended += 1
                issued = ask_again(arrivals, issued, client + costs[OUTSIDE])
            totals[0] += (now - began) / slow
        if here:
            loop = now
