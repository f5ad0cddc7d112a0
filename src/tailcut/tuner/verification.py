"""What a tune claims: measured anew, on fresh arrival times, after everything has been selected.

Two headlines. *Same traffic, shorter tail*: the p99 of baseline and tuned at one rate. *Same tail, more traffic*: a
rate at which the tuned server's p99 is shown to lie within the limit.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.trial import Arm, ArmRuns, closed_block, open_block
from tailcut.stats import Sample, percentile_interval, samples_needed
from tailcut.tuner.budget import Plan
from tailcut.tuner.records import HighestRate, Outcome

_ROUNDS = 20
_CLIENTS = 16
_STEPS = 5  # of the search for the highest rate
_BACK_OFF = 0.85  # of the highest rate found: what one short run shows is partly luck
_NEAR = 1.05
_SPARE = 1.15  # more samples than the p99 needs
_OPEN_SHARE, _CLOSED_SHARE = 0.6, 0.15  # of what is left


@dataclass(frozen=True, slots=True)
class Load:
    """What heats measure: closed loops of so many connections, judged by answers within a limit."""

    clients: tuple[int, ...]
    limit_ms: float
    block_s: float


def verify(  # noqa: PLR0913  what is verified, on what, against what, in which time
    outcome: Outcome, arms: Mapping[str, Arm], load: Load, limit_ms: float, plan: Plan, *, seed: int
) -> None:
    """Fill the outcome's arms and its highest rate: all arms at the outcome's rate, in turns."""
    highest = _highest_rate(arms["tuned"], load, limit_ms, plan)
    runs = {name: ArmRuns() for name in arms}
    left_s = plan.verification_s(time.monotonic())
    needed_s = _SPARE * samples_needed(0.99) / outcome.rate
    open_s = max(_OPEN_SHARE * left_s / len(arms), needed_s) / _ROUNDS
    closed_s = max(load.block_s, _CLOSED_SHARE * left_s / len(arms) / _ROUNDS)
    every = 1 if outcome.rate * open_s > _CLIENTS else 4  # a slow model takes long to empty after each block
    more = ArmRuns()
    for number in range(_ROUNDS):
        fresh = seed * 1000 + 500 + number
        open_block(list(arms.values()), list(runs.values()), rate=outcome.rate, duration_s=open_s, seed=fresh)
        if number % every == 0:
            closed_block(list(arms.values()), list(runs.values()), concurrency=_CLIENTS, duration_s=closed_s)
        if highest:
            open_block([arms["tuned"]], [more], rate=highest, duration_s=open_s / 2, seed=fresh)
    outcome.arms = runs
    outcome.highest = _shown(outcome.rate, highest, more, limit_ms)


def _highest_rate(arm: Arm, load: Load, limit_ms: float, plan: Plan) -> float:
    """A rate that the tuned server should carry within the limit; 0 where none was found in time."""
    found = closed_loop(arm.target, arm.payloads, concurrency=load.clients[-1], duration_s=0.4, warmup_s=0.1)
    low, high = 0.0, found.rate_achieved
    for _ in range(_STEPS):
        rate = 0.9 * high if not low else (low * high) ** 0.5
        length_s = max(0.3, _SPARE * samples_needed(0.99) / max(rate, 1e-9))
        if time.monotonic() + length_s > plan.end - plan.verify_s / 2:
            break
        opened = open_loop(arm.target, arm.payloads, rate=rate, duration_s=length_s, seed=int(rate))
        p99_ms = float(np.quantile(opened.latencies_ns, 0.99)) / 1e6 if opened.samples else np.inf
        low, high = (rate, high) if p99_ms <= limit_ms and not opened.errors else (low, rate)
        if low and high / low < _NEAR:
            break
    return _BACK_OFF * low


def _shown(baseline: float, rate: float, runs: ArmRuns, limit_ms: float) -> HighestRate | None:
    """Whether the p99 at that rate was shown to lie within the limit; None where it was not measured well enough."""
    if not rate or len(runs.latencies) < samples_needed(0.99):
        return None
    interval = percentile_interval(Sample.of(runs.latencies), 0.99)
    if interval is None:
        return None
    within = interval.high <= limit_ms and not runs.errors
    return HighestRate(limit_ms, baseline, rate, interval, len(runs.latencies), within)
