"""Several models in one server as queues that share its event loop and cores, simulated by one compiled loop.

`queueing.py` is the same for one model, with the same rules for batches. With several models, a batch also slows down
or speeds up while it runs, when another model's begins or ends: active threads share the cores equally (processor
sharing), so the remaining work of each batch shrinks by `cores / active threads` of the time that passes. Threads of an
engine that spins stay active for a while after each of its batches.

Tables have a row for each model; columns of `costs` are those of `queueing.py`.
"""

import numpy as np

from tailcut.kernels.cache import compiled
from tailcut.kernels.queueing import (
    ADAPTIVE,
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
    batch_rows,
    held_until,
    service,
)

DISPATCH, INSTANCES, THREADS, SPIN, LARGEST, SIZES, QUEUE = range(7)
SHAPES = 7  # columns: dispatch, instances, threads of a batch, ns of spinning, largest batch, sizes, queue rows
LOOP_NS, ENGINE_NS, BATCHES = range(3)
TOTALS = 3
_DONE_NS = 0.5  # of work left: none
_IDLE, _RECEIVING, _COMPUTING, _ANSWERING = range(4)  # what the loop does

_plain = compiled()


@_plain
def answering(costs: np.ndarray, rows: int) -> int:
    """The loop's time (ns) for a finished batch, with the passes that its requests took."""
    return costs[PASS] + costs[BATCH] + costs[ANSWER] * rows  # type: ignore[no-any-return]


@_plain
def run(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917  one event loop, and what it is a model of
    arrivals: np.ndarray,
    models: np.ndarray,
    keys: np.ndarray,
    costs: np.ndarray,
    shapes: np.ndarray,
    sizes: np.ndarray,
    times: np.ndarray,
    best: np.ndarray,
    estimate: np.ndarray,
    cores: float,
    seed: int,
    latencies: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Fill `latencies` (ns, int64; `REFUSED` for no room) for sorted `arrivals` (ns, int64) at `models` (int64).

    Args:
        keys: int64, of each request: only those of one model with equal keys share a batch.
        costs: int64 [models, COSTS] of `queueing.py`; deadlines are not modelled.
        shapes: int64 [models, SHAPES], see above.
        sizes, times: int64 [models, sizes] and float64 [models, sizes, quantiles] of service times in ns.
        best, estimate: int64 and float64 [models, largest batch of all + 1], see `queueing.run`.
        cores: that all share.
        totals: float64 [models, TOTALS], filled: CPU ns of the loop and of the engine, and the number of batches.
    """
    np.random.seed(seed)  # noqa: NPY002  numba's generator
    count, kinds = arrivals.shape[0], shapes.shape[0]
    slots = 0
    for m in range(kinds):
        slots += shapes[m, INSTANCES]
    model_of = np.empty(slots, np.int64)
    slot = 0
    for m in range(kinds):
        for _ in range(shapes[m, INSTANCES]):
            model_of[slot] = m
            slot += 1
    queue = np.empty((kinds, count), np.int64)
    # Of a model, [head, tail) of its queue wait, but for what a batch has taken: -1.
    head, tail, waiting = np.zeros(kinds, np.int64), np.zeros(kinds, np.int64), np.zeros(kinds, np.int64)
    running, last_arrival = np.zeros(kinds, np.int64), np.zeros(kinds, np.int64)
    usual, gap = np.ones(kinds), np.zeros(kinds)
    ready_at = np.zeros(count, np.int64)
    order = np.empty(count, np.int64)
    begin, size, owner = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    seen_at = np.zeros(count, np.int64)  # when the loop may see that a batch is done
    posted = np.empty(count, np.int64)
    placed = batches = taken = ended = first = last = 0
    flying, left = np.full(slots, -1, np.int64), np.zeros(slots)
    look_at, spins_until = np.full(slots, FAR, np.int64), np.zeros(slots, np.int64)
    loop, loop_left, loop_batch, loop_model, loop_spins = _IDLE, 0.0, -1, 0, 0
    now = looked = 0
    while ended < count:
        moved = True
        while moved:
            moved = False
            if loop == _IDLE:
                if taken < count and arrivals[taken] <= looked:
                    loop, loop_model = _RECEIVING, models[taken]
                    loop_left = float(costs[loop_model, RECEIVE])
                    moved = True
                elif first < last and seen_at[posted[first]] <= now:
                    loop, loop_batch = _ANSWERING, posted[first]
                    first += 1
                    loop_model = owner[loop_batch]
                    loop_left = float(answering(costs[loop_model], size[loop_batch]))
                    moved = True
            for index in range(slots + kinds):
                # The loop itself computes for the models behind the slots, when it has nothing else to do.
                here = index >= slots
                m = index - slots if here else model_of[index]
                table = best[m, : shapes[m, LARGEST] + 1]
                ready = waiting[m]
                if here:
                    if loop != _IDLE or ready == 0 or (shapes[m, DISPATCH] != INLINE and running[m]):
                        continue
                    rows = batch_rows(ready, 1, table)
                    mine = shapes[m, DISPATCH] == INLINE or (
                        shapes[m, DISPATCH] == ADAPTIVE and usual[m] <= FEW and estimate[m, rows] <= costs[m, HERE]
                    )
                    if not mine:
                        continue
                else:
                    if flying[index] >= 0 or look_at[index] > now:
                        continue
                    if ready == 0:
                        look_at[index] = FAR
                        continue
                    rows = batch_rows(ready, shapes[m, INSTANCES] - running[m], table)
                    oldest = ready_at[queue[m, head[m]]]
                    until = held_until(ready, rows, oldest, gap[m], now, costs[m, DELAY], table, estimate[m])
                    if until > now:
                        look_at[index] = until
                        continue
                start, key, at = placed, keys[queue[m, head[m]]], head[m]
                while placed - start < rows and at < tail[m]:
                    number = queue[m, at]
                    if number >= 0 and keys[number] == key:
                        order[placed] = number
                        placed += 1
                        queue[m, at] = -1
                    at += 1
                while head[m] < tail[m] and queue[m, head[m]] < 0:
                    head[m] += 1
                rows = placed - start
                waiting[m] -= rows
                begin[batches], size[batches], owner[batches] = start, rows, m
                known = shapes[m, SIZES]
                draw = np.random.randint(times.shape[2])  # noqa: NPY002  as above
                took = service(rows, sizes[m, :known], times[m, :known], draw)
                usual[m] += ROWS_WEIGHT * (rows - usual[m])
                totals[m, ENGINE_NS] += took * shapes[m, THREADS]
                totals[m, BATCHES] += 1
                if here:
                    loop, loop_batch, loop_model, loop_left = _COMPUTING, batches, m, took
                else:
                    flying[index], left[index] = batches, took
                running[m] += 1
                batches += 1
                moved = True
            if not moved and loop == _IDLE and taken < count and arrivals[taken] <= now:
                looked, moved = now, True  # the next pass takes in what has arrived by now
        active, following = 0, FAR
        if loop != _IDLE:
            active += shapes[loop_model, THREADS] if loop == _COMPUTING else 1
        else:
            if taken < count:
                following = min(following, arrivals[taken])
            if first < last:
                following = min(following, seen_at[posted[first]])
        if loop != _COMPUTING and loop_spins > now:
            active += 1
            following = min(following, loop_spins)
        for index in range(slots):
            m = model_of[index]
            if flying[index] >= 0:
                active += shapes[m, THREADS]
                continue
            if look_at[index] > now:
                following = min(following, look_at[index])
            if spins_until[index] > now:
                active += shapes[m, THREADS] - 1
                following = min(following, spins_until[index])
        speed = min(1.0, cores / max(active, 1))
        if loop != _IDLE:
            following = min(following, now + int(np.ceil(loop_left / speed)))
        for index in range(slots):
            if flying[index] >= 0:
                following = min(following, now + int(np.ceil(left[index] / speed)))
        passed = (following - now) * speed
        now = following
        for index in range(slots):
            if flying[index] < 0:
                continue
            left[index] -= passed
            if left[index] <= _DONE_NS:
                m = model_of[index]
                posted[last] = flying[index]
                seen_at[flying[index]] = now + (costs[m, WAKE] if loop == _IDLE else 0)
                last += 1
                flying[index], look_at[index] = -1, now
                spins_until[index] = now + (shapes[m, SPIN] if shapes[m, THREADS] > 1 else 0)
                running[m] -= 1
        if loop == _IDLE:
            continue
        loop_left -= passed
        if loop_left > _DONE_NS:
            continue
        m = loop_model
        if loop == _RECEIVING:
            number = taken
            taken += 1
            totals[m, LOOP_NS] += costs[m, RECEIVE]
            loop = _IDLE
            if waiting[m] >= shapes[m, QUEUE]:
                latencies[number] = REFUSED
                ended += 1
                continue
            gap[m] += GAP_WEIGHT * (min(arrivals[number] - last_arrival[m], 1_000_000_000) - gap[m])
            last_arrival[m] = arrivals[number]
            ready_at[number] = now
            queue[m, tail[m]] = number
            tail[m] += 1
            waiting[m] += 1
            rows = batch_rows(waiting[m], 1, best[m, : shapes[m, LARGEST] + 1])
            short = usual[m] <= FEW and estimate[m, rows] <= costs[m, HERE] and not running[m]
            if shapes[m, DISPATCH] == INLINE or (shapes[m, DISPATCH] == ADAPTIVE and short):
                continue
            for index in range(slots):
                if model_of[index] == m and flying[index] < 0:
                    look_at[index] = min(look_at[index], now + costs[m, WAKE])
        elif loop == _COMPUTING:
            running[m] -= 1
            loop = _ANSWERING
            loop_left = float(answering(costs[m], size[loop_batch]))
            if shapes[m, THREADS] > 1 and shapes[m, SPIN]:
                loop_spins = now + shapes[m, SPIN]
            for index in range(slots):  # what the loop no longer computes, a worker does
                if model_of[index] == m and shapes[m, DISPATCH] == ADAPTIVE and waiting[m]:
                    look_at[index] = min(look_at[index], now + costs[m, WAKE])
        else:
            totals[m, LOOP_NS] += answering(costs[m], size[loop_batch])
            behind = size[loop_batch]
            for j in range(begin[loop_batch], begin[loop_batch] + size[loop_batch]):
                behind -= 1  # answers leave one after the other
                number = order[j]
                latencies[number] = now - behind * costs[m, ANSWER] - arrivals[number] + costs[m, OUTSIDE]
                ended += 1
            loop = _IDLE
