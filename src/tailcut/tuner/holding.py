"""Whether holding a batch back can pay on a model at a rate, and for how long: pure, but for the clock of `measure`.

The server holds back only while one more row saves more engine time than the wait for it costs (`batching/policy.py`).
The first company a row can have saves twice what one row alone takes less what two take together, and the wait for it
is the mean gap between arrivals. Where the saving is less than the gap, no setting of `hold_us` would ever be used, and
none is offered: so it is at the default rate, half of what one row a call carries, on every model.
"""

import time
from dataclasses import dataclass

import numpy as np

from tailcut.engines.base import Arrays, Engine

_MEASURE_S = 0.4
_FEWEST, _MOST = 3, 30
_WAITS = (0.5, 1.0)  # of what one row alone takes; the best fixed holds of `benchmarks/batching.py` lie about there


@dataclass(frozen=True, slots=True)
class Sharing:
    """Seconds that the engine takes for one row, and for two together; 0 where that is unknown."""

    alone_s: float = 0.0
    pair_s: float = 0.0

    def waits_us(self, rate: float) -> tuple[int, ...]:
        """Longest waits for company that are worth trying at so many requests a second; none where none can pay."""
        saved_s = 2 * self.alone_s - self.pair_s
        if not self.pair_s or not rate or saved_s * rate <= 1:
            return ()
        waits = sorted({max(1, round(share * self.alone_s * 1e6)) for share in _WAITS})
        return tuple(
            wait for wait in waits if wait * rate >= 1e6
        )  # a shorter one ends before company is to be expected


def measure(engine: Engine, request: Arrays) -> Sharing:
    """What one row of this request takes on an engine, and two: medians, in turns."""
    one = {name: array[:1] for name, array in request.items()}
    two = {name: np.repeat(array, 2, axis=0) for name, array in one.items()}
    times: dict[int, list[float]] = {1: [], 2: []}
    end = time.monotonic() + _MEASURE_S
    while len(times[2]) < _FEWEST or (time.monotonic() < end and len(times[2]) < _MOST):
        for rows, inputs in ((1, one), (2, two)):
            began = time.perf_counter()
            engine.run(inputs)
            times[rows].append(time.perf_counter() - began)
    return Sharing(*(float(np.median(found)) for found in times.values()))
