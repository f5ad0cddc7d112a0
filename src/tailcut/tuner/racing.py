"""Heats on running servers: what one block measures, and how long a heat takes. A thin shell around `heats.py`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tailcut.lab.cost import Spent, watched
from tailcut.lab.trial import Arm, closed_run, open_run, watched_again
from tailcut.machine.process import peak_bytes
from tailcut.runtime.settings import Settings
from tailcut.stats import samples_needed
from tailcut.tuner.heats import NONE, Heats
from tailcut.tuner.journal import Journal
from tailcut.tuner.noise import Noise
from tailcut.tuner.objective import Objective
from tailcut.tuner.tie_break import MeasuredUsage

FEWEST_HEATS = 3
LEAST_BLOCK_S = 0.12
_WARMED = 1.2  # a closed block with its warm-up
_MOST_HEATS = 40
_MOST_CLIENTS = 128
_FILLED = 0.6  # of the limit: the latency that the largest number of connections should cause
_FULL_S = 0.5  # worth of requests in flight, if there is no limit
_BLOCK_REQUESTS = 3  # of each connection, in a block
_UNFORESEEN_S = 1.0  # of a first block if no rate is known
_FEWEST_ARMS = 2  # arms that race, however slow they are
_MOST_LONGER = 3  # races in all, in blocks twice as long each time, as long as no arm answers anything
_OPEN_REQUESTS = 12  # in an open block, at least
_REPEATED = 0.25  # of the open blocks may be repeated because the client was late
_COST_REQUESTS, _MOST_COST_S = 80, 0.6  # of an open block in which CPU and tail of equal configurations are compared
_FEWEST_OF_P95 = 20  # answers
_OPEN_SPARE = 1.1  # more requests in an open block than its p95 needs
_BOTH_HEATS, _BEHIND = 2, 0.6  # heats with all numbers of connections; then only those near the best


@dataclass(frozen=True, slots=True)
class RaceLoad:
    """The closed loops of a race: the numbers of connections, ascending, and the seconds of a block."""

    clients: tuple[int, ...]
    block_s: float

    @property
    def alone_s(self) -> float:
        """Seconds of a block of one connection with as many answers, if the load otherwise keeps two instances busy."""
        return min(self.block_s, 2 * self.block_s / self.clients[-1])


@dataclass(slots=True)
class ClosedScores:
    """The scores of one arm's closed loops by number of connections. Pure."""

    by_clients: dict[int, list[float]] = field(default_factory=dict)

    def wanted(self, clients: Sequence[int]) -> list[int]:
        """The numbers of connections worth another block: after a few heats, only those that may be this arm's best."""
        if any(len(self.by_clients.get(count, ())) < _BOTH_HEATS for count in clients):
            return list(clients)
        medians = {count: float(np.median(self.by_clients[count])) for count in clients}
        best = max(medians.values())
        return [count for count in clients if medians[count] >= _BEHIND * best]

    def add(self, count: int, score: float) -> None:
        """Add the score of a block of this many connections."""
        self.by_clients.setdefault(count, []).append(score)


@dataclass(frozen=True, slots=True)
class RaceEntrant:
    """A configuration in a race, and its running server."""

    settings: Settings
    arm: Arm


def load_for(objective: Objective, rate: float, capacity: float = 0.0, least_s: float = LEAST_BLOCK_S) -> RaceLoad:
    """As many connections as bring a server of this rate to its limit, and an eighth of them; many without a limit.

    A block lasts for a few requests of each connection.

    Args:
        objective: with the limit.
        rate: requests per second within the limit that the best configuration is expected to sustain.
        capacity: of the baseline, in requests per second: the length of a block follows from it where hardly any
            configuration is expected to meet the limit.
        least_s: the least length of a block.
    """
    if objective.kind == "throughput":
        most = int(max(2, min(_MOST_CLIENTS, _FULL_S * rate)))
    else:
        most = int(max(2, min(_MOST_CLIENTS, _FILLED * rate * objective.limit_ms / 1e3)))
    known = max(rate, capacity)
    block_s = max(least_s, _BLOCK_REQUESTS * most / known if known else _UNFORESEEN_S)
    return RaceLoad(tuple(sorted({max(1, most // 8), most})), block_s)


def run_heats(
    count: int, score: Callable[[int, int, float], float], noise: Noise, until: float, fewest: int = FEWEST_HEATS
) -> Heats:
    """Race this many arms until a time on the monotonic clock, but for at least a few heats.

    Args:
        count: number of arms.
        score: runs one arm in one heat: called with the arm's index, the heat's number and the most seconds that it may
            take; larger is better.
        noise: probed before each heat.
        until: when the last heat should end.
        fewest: heats to run, however long they take.
    """
    heats, start = Heats.of(count), time.monotonic()
    whole_s = max(0.0, until - start)
    most_s = whole_s / (FEWEST_HEATS * count)
    for number in range(_MOST_HEATS):
        began = time.monotonic()
        noise.probe()
        heats.add([score(index, number, most_s) for index in heats.racing])
        took = time.monotonic() - began
        heats.narrow((began + took - start) / max(whole_s, 1e-9))
        if len(heats.racing) == 1 or (number + 1 >= fewest and time.monotonic() + took > until):
            break
    return heats


@dataclass(slots=True)
class Racing:
    """Runs heats for one objective, with one load; every score is stored in the journal at once."""

    objective: Objective
    load: RaceLoad
    noise: Noise
    journal: Journal
    _silent: bool = field(default=False, init=False)  # whether an arm answered nothing in a heat of this race

    def heat_s(self, arms: int) -> float:
        """The least seconds of a heat of this many arms: blocks are long enough for a slow model to answer."""
        if self.objective.is_open:
            return arms * self._least_open_s
        return arms * len(self.load.clients) * _WARMED * self.load.block_s

    def in_time(self, arms: int, until: float, latest: float) -> tuple[int, int]:
        """How many of this many arms can race until a time on the monotonic clock, and in how many heats at least.

        For a slow model, or at a low rate, fewer arms race, and if these are still too many, in fewer heats. A single
        heat may end as late as `latest`; if even that does not fit, the number of heats is 0.
        """
        now = time.monotonic()
        left_s = max(0.0, until - now)
        fits = int(left_s / max(FEWEST_HEATS * self.heat_s(1), 1e-9))
        arms = max(min(arms, _FEWEST_ARMS), min(arms, fits))
        heat_s = self.heat_s(arms)
        heats = min(FEWEST_HEATS, int(left_s / max(heat_s, 1e-9)))
        return arms, heats or int(now + heat_s <= latest)

    def heats(self, entrants: Sequence[RaceEntrant], until: float, fewest: int = FEWEST_HEATS) -> Heats:
        """Race until a time on the monotonic clock, but for at least a few heats; again if no arm answered anything.

        The blocks are then twice as long, for models that take longer than a block to answer; if answers come but are
        late or fail, longer blocks would not help.
        """
        for _ in range(_MOST_LONGER):
            self._silent = False
            heats = self._heats(entrants, until, fewest)
            if heats.entrants[heats.leader].estimate > NONE or not self._silent:
                break
            self.load = RaceLoad(self.load.clients, 2 * self.load.block_s)
        return heats

    def _heats(self, entrants: Sequence[RaceEntrant], until: float, fewest: int) -> Heats:
        closed = [ClosedScores() for _ in entrants]

        def score(index: int, number: int, most_s: float) -> float:
            arm = entrants[index].arm
            is_open = self.objective.is_open
            value = self._score_open(arm, number, most_s) if is_open else self._score_closed(arm, closed[index])
            self.journal.add("heat", entrants[index].settings, score=value, objective=self.objective.kind)
            return value

        return run_heats(len(entrants), score, self.noise, until, fewest)

    def usages(self, entrants: Sequence[RaceEntrant], rate: float) -> list[MeasuredUsage]:
        """Measure, interleaved, each entrant's median latency with one connection, CPU and p95 at a rate, and memory.

        The p95 is unknown if a block is too short for it.
        """
        alone: list[list[float]] = [[] for _ in entrants]
        tails: list[list[float]] = [[] for _ in entrants]
        spent = [Spent() for _ in entrants]
        length_s = _cost_block_s(rate)
        alone_s = max(LEAST_BLOCK_S, self.load.alone_s)
        for number in range(FEWEST_HEATS + 1):
            for index, entrant in enumerate(entrants):
                arm = entrant.arm
                result = closed_run(arm, concurrency=1, duration_s=alone_s, warmup_s=alone_s / 6)
                alone_ms = float(np.median(result.latencies_ns)) / 1e6 if result.samples else None
                alone[index] += [] if alone_ms is None else [alone_ms]
                block = partial(open_run, arm, rate=rate, duration_s=length_s, seed=number)
                result, cost = watched(arm.pid, block)
                spent[index].add(result, cost)
                if result.samples >= _FEWEST_OF_P95:
                    tails[index].append(float(np.quantile(result.latencies_ns, 0.95)) / 1e6)
                cpu_ns = cost.cpu_ns / result.answered if cost is not None and result.answered else None
                self.journal.add("usage", entrant.settings, rate=rate, alone_ms=alone_ms, cpu_ns=cpu_ns)
            if not all(alone):
                alone_s *= 2  # a lone request takes longer than a block
        return [
            MeasuredUsage(
                tuple(medians),
                _median_us(cost.cpu_ns_by_block),
                _held_bytes(entrant.arm.pid),
                tuple(p95s) if len(p95s) == FEWEST_HEATS + 1 else (),
            )
            for entrant, medians, p95s, cost in zip(entrants, alone, tails, spent, strict=True)
        ]

    def _score_closed(self, arm: Arm, known: ClosedScores) -> float:
        """One heat of one arm: the best of its closed loops."""
        scores, answered, block_s = [], False, self.load.block_s
        for count in known.wanted(self.load.clients):
            result = closed_run(arm, concurrency=count, duration_s=block_s, warmup_s=(_WARMED - 1) * block_s)
            answered |= bool(result.samples)
            scores.append(self.objective.score_closed(result))
            known.add(count, scores[-1])
        self._silent |= not answered
        return max(scores)

    def _score_open(self, arm: Arm, number: int, most_s: float) -> float:
        """One heat of one arm; its block lasts at most `most_s`, unless the least length is longer."""
        rate = self.objective.rate
        wanted_s = max(self.load.block_s, _OPEN_SPARE * samples_needed(0.95) / rate)
        length_s = max(self._least_open_s, min(wanted_s, most_s))
        block = partial(open_run, arm, rate=rate, duration_s=length_s, seed=number)
        allowed = self.noise.repeated_blocks <= _REPEATED * len(self.noise.lateness_ns)
        result, cost, repeated = watched_again(arm.pid, block, allowed=allowed)
        self.noise.add_block(result, repeated=repeated)
        self._silent |= not result.samples
        cpu_ns = None if cost is None or not result.answered else cost.cpu_ns / result.answered
        return self.objective.score_open(result, cpu_ns)

    @property
    def _least_open_s(self) -> float:
        return max(LEAST_BLOCK_S, _OPEN_REQUESTS / max(self.objective.rate, 1e-9))


def usage_s(rate: float) -> float:
    """Seconds that `Racing.usages` takes for one arm."""
    return (FEWEST_HEATS + 1) * (LEAST_BLOCK_S * 7 / 6 + _cost_block_s(rate))


def _cost_block_s(rate: float) -> float:
    return max(LEAST_BLOCK_S, min(_COST_REQUESTS / max(rate, 1e-9), _MOST_COST_S))


def _median_us(cpu_ns: Sequence[float]) -> float | None:
    return float(np.median(cpu_ns)) / 1e3 if cpu_ns else None


def _held_bytes(pid: int | None) -> int | None:
    return None if pid is None else peak_bytes(pid)
