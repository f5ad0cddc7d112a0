"""The verification of a joint tune: baseline and tuned interleaved, each with all models in one server, under load.

A thin shell around real servers; `limits` decides what the runs prove.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tailcut.lab.cost import watched
from tailcut.lab.trial import ArmRuns
from tailcut.tuner.budget import MOMENT_S, TimePlan
from tailcut.tuner.together.records import JointOutcome
from tailcut.tuner.together.selection import Combination
from tailcut.tuner.together.servers import JointServers

SPARE = 1.15  # more samples than a percentile needs
LEAST_BLOCK_S = 0.5
_ROUNDS, _FEWEST_ROUNDS, _LEAST_ROUNDS, _MOST_ROUNDS = 20, 6, 3, 60  # the least if the budget has no time for more


@dataclass(frozen=True, slots=True)
class VerificationPlan:
    """How long to measure.

    Args:
        time: of the tune.
        enough: least samples of each model in each arm.
        rarest: the lowest of the models' rates, in requests per second.
        seed: of the arrivals.
    """

    time: TimePlan
    enough: int
    rarest: float
    seed: int = 0


def measure_arms(
    servers: JointServers, arms: Mapping[str, Combination], outcome: JointOutcome, plan: VerificationPlan
) -> None:
    """Measure both arms; store each model's runs, the noise, and the cores used by each arm's server in the outcome.

    Raises:
        TailcutError: a server does not start.
    """
    servers.keep(*arms.values())
    for side in outcome.sides:
        side.runs = {name: ArmRuns() for name in arms}
    now = time.monotonic()
    latest = max(plan.time.limit, now + MOMENT_S)
    left_s = max(plan.time.end - now, min(len(arms) * SPARE * plan.enough / plan.rarest, latest - now))
    block_s = max(LEAST_BLOCK_S, left_s / len(arms) / _ROUNDS)
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(_MOST_ROUNDS):
        began = time.monotonic()
        outcome.noise.probe()
        for name, combination in arms.items():
            spent[name].append(_block(servers, combination, outcome, name, block_s, 5000 + 1000 * plan.seed + number))
        next_ends = 2 * time.monotonic() - began
        known = all(len(run.latencies) >= plan.enough for side in outcome.sides for run in side.runs.values())
        enough = number + 1 >= _FEWEST_ROUNDS and (known or number + 1 >= 2 * _ROUNDS)
        # A server that cannot keep up takes much longer than planned to drain its queue: its p99 then remains unknown.
        if (enough and next_ends > plan.time.end) or (number + 1 >= _LEAST_ROUNDS and next_ends > latest):
            break
    outcome.cpu_share = {name: float(np.median(shares)) for name, shares in spent.items()}
    for side in outcome.sides:
        for run in side.runs.values():
            outcome.noise.add_runs(run)


def _block(  # noqa: PLR0913, PLR0917  an arm of the outcome, and its load
    servers: JointServers, combination: Combination, outcome: JointOutcome, arm: str, seconds: float, seed: int
) -> float:
    """Run one block of one arm; returns the cores that its server used meanwhile."""
    began = time.monotonic()
    results, cost = watched(servers.of(combination).pid, lambda: servers.loaded(combination, seconds, seed))
    for side, result in zip(outcome.sides, results, strict=True):
        side.runs[arm].add_open(result)
    return 0.0 if cost is None else cost.cpu_ns / 1e9 / (time.monotonic() - began)
