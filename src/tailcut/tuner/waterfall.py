"""What each rung does on the way from the baseline to the winner, as cumulative settings measured in turns."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tailcut.lab.record import interval_record
from tailcut.lab.trial import ArmRuns, closed_block, open_block
from tailcut.runtime.profile import Settings
from tailcut.stats import Verdict, verdict
from tailcut.tuner.budget import Plan
from tailcut.tuner.race import NOISE, percentiles_ms, ratios
from tailcut.tuner.records import entry_of
from tailcut.tuner.servers import Servers

_CLIENTS = 16
_BLOCK_SAMPLES = 120  # of an open block: enough for a p99 of its own
_LEAST_BLOCK_S = 0.12
_FEWEST, _MOST = 3, 24  # rounds


def waterfall(
    servers: Servers, steps: Sequence[Settings], rate: float, closed_s: float, plan: Plan
) -> dict[Settings, ArmRuns]:
    """Open blocks at one rate and closed ones of all steps, in turns, as many as the plan has time for."""
    unique = list(dict.fromkeys(steps))
    servers.start(unique)
    arms = [servers.arm(settings) for settings in unique]
    runs = {settings: ArmRuns() for settings in unique}
    share_s = plan.explain_s / (2 * len(unique) * _FEWEST)
    open_s = max(_LEAST_BLOCK_S, min(_BLOCK_SAMPLES / rate, share_s))
    for number in range(_MOST):
        began = time.monotonic()
        open_block(arms, list(runs.values()), rate=rate, duration_s=open_s, seed=9000 + number)
        closed_block(arms, list(runs.values()), concurrency=_CLIENTS, duration_s=min(closed_s, 2 * share_s))
        if number + 1 >= _FEWEST and 2 * time.monotonic() - began > plan.explain_until:
            break
    return runs


def effect(before: Settings, after: Settings, runs: dict[Settings, ArmRuns]) -> dict[str, Any]:
    """One step's record: its own percentiles, its ratios to the step before with their intervals, and a verdict."""
    old, new = runs[before], runs[after]
    entry = entry_of(after.describe(before)) | percentiles_ms(new)
    entry |= {"samples": len(new.latencies), "cost": new.spent.per_request()}
    entry["throughput"] = round(float(np.mean(new.throughputs)), 2) if new.throughputs else None
    found = ratios(new, old)
    judged, words = [], []
    if found.tail is not None:
        of, tail = found.tail
        entry |= {"tail_ratio": interval_record(tail), "ratio_of": of}
        entry["p99_ratio"] = entry["tail_ratio"] if of == "p99" else None
        judged.append(verdict(tail, NOISE))
        words.append(f"{of} x{tail.point:.2f} ({tail.low:.2f} to {tail.high:.2f})")
    if found.throughput is not None and found.time_per_request is not None:
        speed = found.throughput
        entry["throughput_ratio"] = interval_record(speed)
        judged.append(verdict(found.time_per_request, NOISE))
        words.append(f"throughput x{speed.point:.2f} ({speed.low:.2f} to {speed.high:.2f})")
    better, worse = Verdict.BETTER in judged, Verdict.WORSE in judged
    word = Verdict.INDISTINCT if better == worse else Verdict.BETTER if better else Verdict.WORSE
    if word is Verdict.INDISTINCT:
        words.append("indistinguishable from no effect" if judged else "too few samples")
    return entry | {"verdict": word.value, "reason": ", ".join(words)}
