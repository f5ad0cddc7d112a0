"""Computes every usual batch size of every bucket before the first request, and seeds the cost models with the times.

An engine's first call of a size is the slowest: it plans memory, shapes the graph anew, and touches pages. Each size is
computed at least once on each instance, and up to three times where that is quick, because the best of three is what
the cost model should start from. What a slow model has not computed when the time is over, it learns while serving.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tailcut.batching.cost import CostModel
from tailcut.errors import TailcutError
from tailcut.runtime.batch import Batch, Executor, Owner, Ticket
from tailcut.runtime.home import AnyThread, EventSink
from tailcut.spec import DType, ModelSpec

_log = logging.getLogger("tailcut")
FREE_DIM = 8  # what a free dimension beside the batch is taken as, where no bucket says otherwise
_REPEAT_NS = 150_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to compute: so many rows, in row 0 and behind of a slab or as loose arrays of this length."""

    rows: int
    costs: tuple[CostModel, ...]  # that learn from it
    in_slab: bool
    key: object = None
    length: int = FREE_DIM


def warm_up(
    owner: Owner, spec: ModelSpec, executors: Sequence[Executor], steps: Sequence[Step], budget_s: float
) -> None:
    """Compute all steps on all executors, small ones first, until the time is over.

    A model that refuses zeros (an index that must not be 0, say) starts cold: its first request tells.
    """
    deadline = time.monotonic_ns() + int(budget_s * 1e9)
    for executor in executors:
        for number, step in enumerate(steps):
            expected = max((cost.estimate_ns(step.rows) for cost in step.costs), default=0.0)
            if time.monotonic_ns() + expected > deadline:
                _log.warning(
                    "%s: warm-up took over %g s and ended before %d of its %d batch sizes: they are learned by serving",
                    *(spec.name, budget_s, len(steps) - number, len(steps)),
                )
                return
            took = _best_of_three(owner, _ticket(spec, step), executor)
            if took is None:
                return
            for cost in step.costs:
                cost.observe(step.rows, took)


def _best_of_three(owner: Owner, ticket: Ticket, executor: Executor) -> int | None:
    took: list[int] = []
    while len(took) < 3 and sum(took) < _REPEAT_NS:
        batch = Batch(owner, [ticket])
        began = time.monotonic_ns()
        try:
            executor.run(batch)
        except TailcutError:
            return None
        took.append(time.monotonic_ns() - began)
    return min(took)


def _ticket(spec: ModelSpec, step: Step) -> Ticket:
    ticket = Ticket(EventSink(), AnyThread(), step.rows)
    ticket.key, ticket.length = step.key, step.length
    if step.in_slab:
        ticket.row = 0
    else:
        ticket.arrays = {}
        for tensor in spec.inputs:
            dims = [step.length if dim is None else dim for dim in tensor.shape]
            if spec.batched:
                dims[0] = step.rows
            strings = tensor.dtype is DType.BYTES
            ticket.arrays[tensor.name] = np.full(dims, b"", object) if strings else np.zeros(dims, tensor.dtype.numpy)
    return ticket
