"""Runs every usual batch size once before the first request, and seeds the cost model with what it took."""

import time

import numpy as np

from tailcut.batching.cost import CostModel
from tailcut.errors import TailcutError
from tailcut.memory.slab import Slab
from tailcut.runtime.batch import Batch, Executor, Owner, Ticket
from tailcut.runtime.home import AnyThread, EventSink
from tailcut.spec import DType, ModelSpec

_BUDGET_NS = 1_500_000_000  # a slow model's large batches are learned while serving instead
_FREE_DIM = 8  # what a free dimension beside the batch is taken as


def warm_up(owner: Owner, spec: ModelSpec, executor: Executor, cost: CostModel, slab: Slab | None) -> None:
    """Compute sizes 1, 2, 4, ... on zeros, up to three times each, as long as the budget lasts.

    A model that refuses zeros (an index that must not be 0, say) starts cold: its first request tells.
    """
    deadline = time.monotonic_ns() + _BUDGET_NS
    for rows in cost.sizes if spec.batched else (1,):
        if time.monotonic_ns() + 2 * cost.estimate_ns(rows) > deadline:
            return
        ticket = Ticket(EventSink(), AnyThread(), rows)
        if slab is None:
            ticket.arrays = {
                tensor.name: _zeros(tensor.shape, tensor.dtype, rows, spec.batched) for tensor in spec.inputs
            }
        else:
            ticket.row = 0
        took: list[int] = []
        while len(took) < 3 and sum(took) < _BUDGET_NS // 10:
            batch = Batch(owner, [ticket])
            began = time.monotonic_ns()
            try:
                executor.run(batch)
            except TailcutError:
                return
            took.append(time.monotonic_ns() - began)
        cost.observe(rows, min(took))


def _zeros(shape: tuple[int | None, ...], dtype: DType, rows: int, batched: bool) -> np.ndarray:  # noqa: FBT001
    dims = [_FREE_DIM if dim is None else dim for dim in shape]
    if batched:
        dims[0] = rows
    return np.full(dims, b"", object) if dtype is DType.BYTES else np.zeros(dims, dtype.numpy)
