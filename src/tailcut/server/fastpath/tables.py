"""What the fast path knows: heads by their bytes, and where the requests behind each of them go.

The tables are those of `kernels/sockets.py`, which reads them; rows are only added, until all are forgotten at once.
"""

from dataclasses import dataclass

import numpy as np

from tailcut.kernels import sockets
from tailcut.memory.slab import Slab
from tailcut.runtime.entry import Entry
from tailcut.runtime.request import NO_LEASE, Lease
from tailcut.server.http.plan import Plan
from tailcut.server.served_model import ServedModel

_TARGETS = 16
_PLANS = 64
_HEADS_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class Target:
    """Where requests of one kind go: a model's rows, under one schedule, answered with one head."""

    plan: Plan
    served: ServedModel
    entry: Entry
    slab: Slab
    at: int  # of its cells
    outputs: np.ndarray  # int64 [outputs, 2]: where the first row to answer stands, and the bytes of a row
    output_cells: memoryview  # the same, flat
    refusal: bytes = b""  # what those of this pass are told instead
    lease: Lease = NO_LEASE  # of this pass
    deadline_ns: int = 0


class HeadTable:
    """Plans and their targets, numbered in the order in which they were first asked for.

    Args:
        message_bytes: no longer message is received in one go.
        answer_bytes: no longer answer is sent in one go.
    """

    def __init__(self, message_bytes: int, answer_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._answer_bytes = answer_bytes
        self.targets: list[Target] = []
        self.plans = np.zeros((_PLANS, sockets.PLANS), np.int64)
        self.heads = np.zeros(_HEADS_BYTES, np.uint8)
        self.table = np.zeros((_TARGETS, sockets.TARGETS), np.int64)
        self.cells = self.table.data.cast("B").cast("q")  # a cell costs a tenth of what numpy takes for it
        self._heads_end = 0
        self._numbers: dict[int, int] = {}  # plans by their identity; `_kept` keeps them alive
        self._kept: list[Plan] = []

    def number(self, plan: Plan, head: bytes) -> int:
        """The number of a plan for one row, given at its first use; -1 where it cannot take the fast path."""
        known = self._numbers.get(id(plan))
        if known is not None:
            return known
        number = len(self._kept)
        end = self._heads_end + len(head)
        if number == _PLANS or end > _HEADS_BYTES or len(head) + plan.length > self._message_bytes:
            return -1
        target = self._target(plan)
        if target is None:
            return -1
        self.heads[self._heads_end : end] = np.frombuffer(head, np.uint8)
        self.plans[number] = self._heads_end, len(head), plan.length, target.at // sockets.TARGETS
        self._heads_end = end
        self._kept.append(plan)
        self._numbers[id(plan)] = number
        return number

    def target(self, number: int) -> Target:
        """Where requests of a plan go."""
        return self.targets[int(self.plans[number, sockets.TARGET])]

    def clear(self) -> None:
        """Forget everything: nobody may be on the way."""
        self._numbers.clear()
        self._kept.clear()
        self.targets.clear()
        self._heads_end = 0

    def _target(self, plan: Plan) -> Target | None:
        for target in self.targets:
            known = target.plan
            if known.served is plan.served and known.schedule == plan.schedule and known.reply_rest == plan.reply_rest:
                return target
        served = plan.served
        slab = served.entry.slab if served is not None else None
        if served is None or slab is None:
            return None
        sizes = [array[0].nbytes for array in slab.outputs]
        if len(self.targets) == _TARGETS or len(plan.reply_head) + sum(sizes) > self._answer_bytes:
            return None
        outputs = np.array([(0, size) for size in sizes], np.int64).reshape(-1, 2)
        at = len(self.targets) * sockets.TARGETS
        target = Target(plan, served, served.entry, slab, at, outputs, outputs.data.cast("B").cast("q"))
        self.cells[at + sockets.ROW_BYTES] = plan.length
        self.targets.append(target)
        return target
