"""How long the newest calls to a device took in each of their phases: a ring of numbers, written by any thread."""

import threading
from typing import Protocol, runtime_checkable

import numpy as np

PHASES = ("copy_in", "launch", "compute", "copy_out")
_KEPT = 4096  # calls
_SLOWEST = 0.99


class PhaseTimes:
    """The time that each call spent in each of `PHASES`.

    `launch` is the time in which the calling thread submits the work. The device works meanwhile, so it overlaps with
    the others, and their sum is not the time of the call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times = np.zeros((_KEPT, len(PHASES)))
        self._recorded = 0

    def record(self, copy_in_us: float, launch_us: float, compute_us: float, copy_out_us: float) -> None:
        """Record one call, in microseconds."""
        with self._lock:
            self._times[self._recorded % _KEPT] = copy_in_us, launch_us, compute_us, copy_out_us
            self._recorded += 1

    def summary(self) -> list[dict[str, str | int | float]]:
        """For each phase, its median and the time that the slowest 1 % of calls spent in it; empty without calls."""
        with self._lock:
            times = self._times[: min(self._recorded, _KEPT)].copy()
        if not len(times):
            return []
        totals = times.sum(axis=1)
        slow, usual = times[totals >= np.quantile(totals, _SLOWEST)].mean(axis=0), np.median(times, axis=0)
        return [
            {
                "phase": name,
                "calls": len(times),
                "median_us": round(float(usual[index]), 1),
                "slowest_us": round(float(slow[index]), 1),
            }
            for index, name in enumerate(PHASES)
        ]


@runtime_checkable
class Timed(Protocol):
    """An engine that records the phases of its calls."""

    phases: PhaseTimes
