"""What the fast path knows: heads by their bytes, and where the requests behind each of them go.

The tables are those of `kernels/sockets.py`, which reads them; rows are only added, until all are forgotten at once.
"""

import re
from dataclasses import dataclass

import numpy as np

from tailcut.kernels import sockets
from tailcut.memory.slab import Slab
from tailcut.runtime.entry import Entry
from tailcut.runtime.request import NO_LEASE, Lease
from tailcut.server.http.plan import Plan
from tailcut.server.served_model import ServedModel
from tailcut.wire.http1.grammar import TEXT, TOKEN
from tailcut.wire.http1.head import SIGNIFICANT, significant

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
        self._kept: list[Plan] = []  # by their number
        self.fields = _fields()
        self.grammar = _grammar()

    def number(self, plan: Plan, head: bytes) -> int:
        """The number of a plan for one row, given at its first use; -1 where it cannot take the fast path."""
        if plan.number >= 0:
            return plan.number
        number, part = len(self._kept), significant(head)
        begin, middle = self._heads_end, self._heads_end + len(head)
        end = middle + len(part)
        if number == _PLANS or end > _HEADS_BYTES or len(head) + plan.length > self._message_bytes:
            return -1
        target = self._target(plan)
        if target is None:
            return -1
        self.heads[begin:end] = np.frombuffer(head + part, np.uint8)
        self.plans[number] = begin, len(head), plan.length, target.at // sockets.TARGETS, middle, len(part)
        self._heads_end = end
        self._kept.append(plan)
        plan.number = number
        return number

    def head(self, number: int) -> bytes:
        """The head that a plan was first asked for with."""
        start, size = self.plans[number, : sockets.BODY_BYTES].tolist()
        return self.heads[start : start + size].tobytes()

    def target(self, number: int) -> Target:
        """Where requests of a plan go."""
        return self.targets[int(self.plans[number, sockets.TARGET])]

    def clear(self) -> None:
        """Forget everything: no answer may be on its way."""
        for plan in self._kept:
            plan.number = -1
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


def _fields() -> np.ndarray:
    """The names of the fields that matter, as `sockets` wants them: uint8 [fields, 1 + longest name]."""
    table = np.zeros((len(SIGNIFICANT), 1 + max(map(len, SIGNIFICANT))), np.uint8)
    for row, name in zip(table, sorted(SIGNIFICANT), strict=True):
        row[0] = len(name)
        row[1 : 1 + len(name)] = np.frombuffer(name, np.uint8)
    return table


def _grammar() -> np.ndarray:
    """What each byte may be part of, as `sockets` wants it: uint8 [256]."""
    kinds = ((TOKEN, sockets.NAME), (TEXT, sockets.VALUE))
    flags = [sum(flag for part, flag in kinds if re.fullmatch(part, bytes([byte]))) for byte in range(256)]
    return np.array(flags, np.uint8)
