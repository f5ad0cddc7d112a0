"""The claims of a tune: measured anew, with fresh arrival times, after everything has been selected.

There are two headlines. *Same traffic, shorter tail*: the p99 of baseline and tuned at one rate. *Same tail, more
traffic*: a rate at which the tuned server's p99 is proven to be within the limit, and a lower one at which the
baseline's is proven to be over it.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from tailcut.lab.trial import Arm, ArmRuns, closed_block, closed_run, open_block, open_run
from tailcut.stats import samples_needed
from tailcut.tuner.baseline import Baseline
from tailcut.tuner.budget import MOMENT_S, TimePlan
from tailcut.tuner.race import QUANTILES
from tailcut.tuner.racing import LEAST_BLOCK_S, RaceLoad
from tailcut.tuner.records import TuneOutcome
from tailcut.tuner.result_records import Percentile
from tailcut.tuner.saturated import SaturatedBlocks
from tailcut.tuner.traffic import Traffic, is_shown_over, overload_block_s, tuned_block_s

Note = Callable[[str, str, float, np.ndarray], None]

_HEADLINE_S, _ARM_S = 8.0, 9.0  # second headline, and first one per arm, for a fast model on a noisy machine
_ROUNDS, _ROUND_S = 20, 1.5  # as planned; fewer and longer rounds if each has less time than that
_LEAST_ROUNDS = 3  # for a model so slow that more do not fit into the budget
_FEWEST_ROUNDS, _MOST_ROUNDS = 8, 40  # if they take longer than planned, or shorter
_SELDOM = 5  # rounds from one closed block to the next, at most
_SEARCH, _MOST_SEARCH_S = 0.25, 3.0  # of the verification: for finding the highest rate of the tuned server
_AROUND = 1.6  # times the time for the p99 of each arm, with warm-ups and closed blocks
_CARRIED, _DOWN = 0.75, 0.8  # the first rate as a share of a closed loop's, without bursts; factor to the next
_FIRST = 0.5  # of the verification, at least, for the p99 at one rate
_NEAR = 1.05
_SPARE = 1.15  # more samples than the p99 needs
_OPEN_SHARE, _MOST_OPEN, _CLOSED_SHARE = 0.6, 0.8, 0.15  # of what is left
_FULL_SHARE, _FULL_S = 0.03, 0.4  # of one closed loop with many connections, at most
_ROUND = 1.4  # times a block of each arm: a round with its warm-ups and closed blocks


def verification_s(rate: float, arms: int, q: float = QUANTILES["p99"]) -> float:
    """Seconds for the q-quantile of this many arms at a rate, including all that is measured with it."""
    return _AROUND * arms * _SPARE * samples_needed(q) / rate


def good_s(arms: int) -> float:
    """Seconds for both headlines of a fast model on a noisy machine."""
    return _HEADLINE_S + _ARM_S * arms


def percentile_within(seconds: float, rate: float, arms: int) -> Percentile:
    """The highest percentile that a verification of this many seconds can measure; at least the median."""
    *tails, median = QUANTILES
    return next((name for name in tails if verification_s(rate, arms, QUANTILES[name]) <= seconds), median)


def medians_s(capacity: float, arms: int) -> float:
    """Seconds for the median of this many arms, were each as busy as the baseline can be."""
    return arms * samples_needed(QUANTILES["p50"]) / max(capacity, 1e-9)


def remaining_s(plan: TimePlan, now: float) -> float:
    """Seconds that the verification may take from now on, at the most."""
    return max(plan.limit - now, plan.verification_s(now) + MOMENT_S)


def verify(  # noqa: PLR0913  a verification is its parameters
    outcome: TuneOutcome,
    arms: Mapping[str, Arm],
    load: RaceLoad,
    plan: TimePlan,
    *,
    seed: int,
    note: Note = lambda *_: None,
) -> None:
    """Measure all arms at the outcome's rate, interleaved, and store the runs and the highest rate in the outcome.

    Args:
        outcome: has the baseline's capacity, the rate and the limit.
        arms: by name, the baseline first.
        load: of the race.
        plan: how long it may take.
        seed: of the arrivals.
        note: called with each open-loop block: what it is of (`verified` or `highest`), the arm's name, the rate in
            requests per second, and latencies in ms.
    """
    known = Baseline(
        outcome.capacity, outcome.clients, outcome.rate, outcome.objective.limit_ms, own_limit=outcome.own_limit
    )
    highest = _highest_rate(arms["tuned"], load, known.limit_ms, plan)
    traffic = Traffic(arms["tuned"], arms["baseline"], highest, known, partial(note, "highest"))
    over = _overloaded(arms, known, seed) if known.is_overloaded else {}
    for name, run in over.items():
        note("verified", name, outcome.rate, run.latencies)
    runs = {name: over.get(name, ArmRuns()) for name in arms}
    offered = [name for name in arms if name not in over]
    left_s = plan.verification_s(time.monotonic())
    enough = samples_needed(QUANTILES[percentile_within(_NEAR * left_s, outcome.rate, len(arms))])
    needed_s = min(_SPARE * enough / outcome.rate, _MOST_OPEN * left_s / len(arms))
    limit = max(plan.limit, time.monotonic() + left_s + MOMENT_S)
    # The first headline has priority: it keeps at least half of the time, or all if the second would not fit.
    traffic_s = traffic.expected_s()
    first_s = max(left_s - traffic_s, _FIRST * left_s, len(offered) * needed_s)
    has_both = time.monotonic() + traffic_s + first_s <= limit
    rounds = max(_FEWEST_ROUNDS, min(_ROUNDS, int(left_s / _ROUND_S)))
    arm_s = (first_s if has_both else left_s) / len(arms)
    open_s = max(LEAST_BLOCK_S, max(_OPEN_SHARE * arm_s, needed_s) / rounds)
    # Closed blocks have a least length: without time for one in each round, there is one every few rounds.
    each_s = max(LEAST_BLOCK_S, _CLOSED_SHARE * arm_s)
    closed_s = max(LEAST_BLOCK_S, each_s / rounds)
    # At least three of them: with fewer, the throughput has no interval.
    every = max(1, min(_SELDOM, (rounds - 1) // 2, round(rounds * closed_s / each_s)))
    full = SaturatedBlocks(max(outcome.clients, load.clients[-1]), min(_FULL_S, _FULL_SHARE * left_s))
    for number in range(_MOST_ROUNDS):
        began = time.monotonic()
        outcome.noise.probe()
        fresh = seed * 1000 + 500 + number
        sides = [arms[name] for name in offered], [runs[name] for name in offered]
        open_block(*sides, rate=outcome.rate, duration_s=open_s, seed=fresh)
        for name in offered:
            note("verified", name, outcome.rate, runs[name].blocks[-1])
        if number % every == 0:
            closed_block(list(arms.values()), list(runs.values()), concurrency=outcome.clients, duration_s=closed_s)
            full.measure(arms["tuned"])
        missing = max(0, enough - min(len(runs[name].latencies) for name in offered))
        if has_both and (not missing or traffic.may_show_gain):
            rest_s = _ROUND * len(offered) * missing / outcome.rate
            traffic.measure(fresh, plan.latest - rest_s, runs["baseline"].blocks[-1])
        now = time.monotonic()
        enough_known = not missing
        ends = 2 * now - began > plan.end and (enough_known or number + 1 >= rounds) and number + 1 >= _FEWEST_ROUNDS
        if ends or (enough_known and number >= 2 * every and 2 * now - began > plan.latest):
            break
        if 2 * now - began > limit and number + 1 >= _LEAST_ROUNDS:
            break
    outcome.noise.add_runs(traffic.runs)
    outcome.arms, outcome.overloaded = runs, frozenset(over)
    outcome.highest, outcome.saturated = traffic.result(runs["baseline"]), full.result()


def _overloaded(arms: Mapping[str, Arm], known: Baseline, seed: int) -> dict[str, ArmRuns]:
    """The arms that are proven to be overloaded by the rate, with the few blocks that prove it.

    More blocks would be meaningless: the longer an overload lasts, the longer its latencies.
    """
    over, length_s = {}, overload_block_s(known)
    for name in [name for name in arms if name != "tuned"]:
        runs = ArmRuns()
        for number in range(_LEAST_ROUNDS):
            fresh = seed * 1000 + 400 + number
            open_block([arms[name]], [runs], rate=known.rate, duration_s=length_s, seed=fresh)
        if is_shown_over(runs.blocks, known.limit_ms):
            over[name] = runs
    return over


def _highest_rate(arm: Arm, load: RaceLoad, limit_ms: float, plan: TimePlan) -> float:
    """A rate that the tuned server should sustain within the limit: confirmed in one block if there is time."""
    now = time.monotonic()
    until = now + min(_MOST_SEARCH_S, _SEARCH * plan.verification_s(now))
    closed = closed_run(arm, concurrency=load.clients[-1], duration_s=0.4, warmup_s=0.1)
    rate = _CARRIED * closed.rate_achieved
    while rate:
        length_s = tuned_block_s(limit_ms, rate)
        if time.monotonic() + length_s > until:
            break
        opened = open_run(arm, rate=rate, duration_s=length_s, seed=int(rate))
        p99_ms = float(np.quantile(opened.latencies_ns, 0.99)) / 1e6 if opened.samples else np.inf
        if p99_ms <= limit_ms and not opened.errors:
            break
        rate *= _DOWN
    return rate
