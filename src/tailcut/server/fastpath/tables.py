"""What the fast path knows: heads by their bytes, and the target of the requests with each head.

The tables are those of `kernels/socket_tables.py`; rows are only added, until all are forgotten at once.
"""

import re
from dataclasses import dataclass

import numpy as np

from tailcut.errors import TailcutError
from tailcut.kernels import socket_tables as columns
from tailcut.kernels.heads import DIGIT, NAME, VALUE
from tailcut.memory.slab import Slab
from tailcut.runtime.entry import ServedEntry
from tailcut.runtime.request import NO_LEASE, Lease
from tailcut.server.fastpath.replies import ReplyForm
from tailcut.server.http.plan import RequestPlan
from tailcut.server.served_model import ServedModel
from tailcut.spec import DType
from tailcut.wire.http1.grammar import TEXT, TOKEN
from tailcut.wire.http1.head import SIGNIFICANT, significant
from tailcut.wire.trace_context import sampling_of
from tailcut.wire.v2 import Schedule, schedule_of
from tailcut.wire.v2.steps import AT_ONCE_BYTES
from tailcut.wire.v2.template import Template

_TARGETS = 16
_PLANS = 64
_HEADS_BYTES = 64 * 1024
_HEAD_BYTES = 512  # of the head of an answer
_DIGIT = rb"[0-9a-f]"  # in ids of traces
_LENGTH = re.compile(rb"\r\n(?i:content-length):[^\r]*\r\n")


@dataclass(slots=True, eq=False)
class RowTarget:
    """The target of requests of one kind: the rows of a model, one schedule, and one form of answers."""

    served: ServedModel
    entry: ServedEntry
    slab: Slab
    schedule: Schedule
    time_ns: int  # the timeout of a request
    priority: int
    reply: ReplyForm
    at: int  # index of its first cell in `HeadTable.cells`
    number: int
    refusal: bytes = b""  # the reply to all requests of this pass, where no rows could be lent
    error: TailcutError | None = None  # the reason of the refusal
    lease: Lease = NO_LEASE  # the rows of this pass
    deadline_ns: int = 0


class HeadTable:
    """Plans and their targets, numbered in the order in which they were first asked for.

    Args:
        message_bytes: longer messages are left to the standard path.
        answer_bytes: longer answers are left to the standard path.
        time_ns: the timeout of requests that state none.
        traces: whether to look for trace contexts.
    """

    def __init__(self, message_bytes: int, answer_bytes: int, time_ns: int = 0, *, traces: bool = False) -> None:
        self._message_bytes = message_bytes
        self._answer_bytes = answer_bytes
        self._time_ns = time_ns
        self.targets: list[RowTarget] = []
        self.plans = np.zeros((_PLANS, columns.PLANS), np.int64)
        self.heads = np.zeros(_HEADS_BYTES, np.uint8)
        self.table = np.zeros((_TARGETS, columns.TARGETS), np.int64)
        self.cells = self.table.data.cast("B").cast("q")  # reading a cell takes a tenth of the time that numpy needs
        self._heads_end = 0
        self._numbers: dict[tuple[bytes, bytes, bytes], int] = {}
        self.fields = _fields()
        self.grammar = _grammar(traces=traces)
        self._traces = traces

    def number(self, plan: RequestPlan, head: bytes, template: Template, length: int) -> int:
        """The number of the plan for a head and a body of this length, assigned at its first use.

        -1 where such requests cannot take the fast path.
        """
        form = template.form
        part = significant(head)
        if form is not None:
            part = without_length(part)
        key = part, template.before, template.behind
        known = self._numbers.get(key)
        if known is not None:
            return known
        number, pieces = len(self._numbers), (head, part, template.before, template.behind)
        most = self._message_bytes - len(head)
        if form is not None:
            most = min(plan.limit, AT_ONCE_BYTES, most) if len(form.dims) <= columns.MOST_DIMENSIONS else 0
        ends = self._heads_end + sum(map(len, pieces))
        if number == _PLANS or ends > _HEADS_BYTES or length > most or template.rows != 1:
            return -1
        target = self._target(plan, template)
        if target is None:
            return -1
        places = []
        for piece in pieces:
            places.append(self._heads_end)
            self.heads[self._heads_end : self._heads_end + len(piece)] = np.frombuffer(piece, np.uint8)
            self._heads_end += len(piece)
        row = self.plans[number]
        row[: columns.DIMS] = 0
        row[: columns.FORM] = (
            places[0],
            len(head),
            length,
            target.number,
            places[1],
            len(part),
            *_around(template, places),
        )
        if self._traces:
            row[columns.TRACE] = sampling_of(head)
        if form is not None:
            row[columns.FORM] = columns.LIST32 if form.tensor.dtype is DType.FP32 else columns.LIST64
            row[columns.BODY_MOST] = most
            row[columns.COUNT], row[columns.LEVELS] = form.size, len(form.dims)
            row[columns.DIMS : columns.DIMS + len(form.dims)] = form.dims
        self._numbers[key] = number
        return number

    def head(self, number: int) -> bytes:
        """The head with which a plan was first used."""
        start, size = self.plans[number, : columns.BODY_BYTES].tolist()
        return self.heads[start : start + size].tobytes()

    def target(self, number: int) -> RowTarget:
        """The target of a plan's requests."""
        return self.targets[int(self.plans[number, columns.TARGET])]

    def clear(self) -> None:
        """Forget all plans and targets; no answer may be pending."""
        self._numbers.clear()
        self.targets.clear()
        self._heads_end = 0

    def _target(self, plan: RequestPlan, template: Template) -> RowTarget | None:
        served, request = plan.of_model, template.request
        entry, slab = served.entry, served.entry.slab
        reply = ReplyForm.to(served, request, says_kept=plan.head.hears_keep_alive) if slab is not None else None
        if slab is None or reply is None:
            return None
        schedule = schedule_of(request.parameters, plan.schedule)
        for target in self.targets:
            if target.served is served and target.schedule == schedule and target.reply.is_like(reply):
                return target
        number = len(self.targets)
        if number == _TARGETS or reply.most_bytes + _HEAD_BYTES > self._answer_bytes:
            return None
        at = number * columns.TARGETS
        time_ns = schedule.timeout_ns or self._time_ns
        target = RowTarget(served, entry, slab, schedule, time_ns, schedule.priority, reply, at, number)
        self.cells[at + columns.ROW_BYTES] = slab.row_bytes[0]
        self.targets.append(target)
        return target


def without_length(part: bytes) -> bytes:
    """The part of a head that matters, without the line of its only Content-Length."""
    return _LENGTH.sub(b"\r\n", part, count=1)


def _around(template: Template, places: list[int]) -> tuple[int, int, int, int]:
    """The offset and length of the bytes before the data, and of those behind them."""
    return places[2], len(template.before), places[3], len(template.behind)


def _fields() -> np.ndarray:
    """The names of the fields that matter, for `kernels/heads.py`: uint8 [fields, 1 + longest name]."""
    table = np.zeros((len(SIGNIFICANT), 1 + max(map(len, SIGNIFICANT))), np.uint8)
    for row, name in zip(table, sorted(SIGNIFICANT), strict=True):
        row[0] = len(name)
        row[1 : 1 + len(name)] = np.frombuffer(name, np.uint8)
    return table


def _grammar(*, traces: bool) -> np.ndarray:
    """What each byte may be part of, for `kernels/heads.py`: uint8 [256]."""
    kinds = [(TOKEN, NAME), (TEXT, VALUE), *([(_DIGIT, DIGIT)] if traces else [])]
    flags = [sum(flag for part, flag in kinds if re.fullmatch(part, bytes([byte]))) for byte in range(256)]
    return np.array(flags, np.uint8)
