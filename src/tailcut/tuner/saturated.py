"""What the tuned server answers when it is saturated: a capacity plan is scaled to it."""

from dataclasses import dataclass, field

import numpy as np

from tailcut.lab.records import SaturatedLoop
from tailcut.lab.trial import Arm, closed_run
from tailcut.tuner.racing import LEAST_BLOCK_S

_BLOCKS = 4


@dataclass(slots=True)
class SaturatedBlocks:
    """A few closed loops with many connections, where the server's batches are as large as near its capacity.

    Args:
        clients: number of connections.
        block_s: seconds of each.
    """

    clients: int
    block_s: float
    _rates: list[float] = field(default_factory=list)

    def measure(self, arm: Arm) -> None:
        """Run another block, unless there are enough."""
        if len(self._rates) == _BLOCKS or self.block_s < LEAST_BLOCK_S:
            return
        warmup_s = self.block_s / 5
        run = closed_run(arm, concurrency=self.clients, duration_s=self.block_s, warmup_s=warmup_s)
        self._rates.append(run.rate_achieved)

    def result(self) -> SaturatedLoop | None:
        """The median rate; None without a block that was answered."""
        rate = float(np.median(self._rates)) if self._rates else 0.0
        return SaturatedLoop(self.clients, round(rate, 2)) if rate else None
