"""Computes every usual batch size of every bucket before the first request, and seeds the cost models with the times.

An engine's first call of a size is the slowest: it plans memory, adapts the graph to the shape, and touches pages. Each
size is computed at least once on each instance, and up to three times where that is fast, because the cost model should
start from the best of three. Sizes for which a slow model has no time are learned while serving.

The requests have the sizes in the data that the model was tuned with, or else sizes that the model is found to accept.
A model that accepts none starts cold, which is logged and is part of its readiness.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tailcut.batching.cost import CostModel
from tailcut.engines.base import Engine
from tailcut.engines.samples import Samples, find_samples
from tailcut.errors import TailcutError
from tailcut.memory.slab import Slab
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.padding import Bucket, Padding
from tailcut.runtime.request import Batch, BatchOwner, Executor, Request
from tailcut.runtime.samples import SampleRequest
from tailcut.spec import TensorSpec

_log = logging.getLogger("tailcut")
_REPEAT_NS = 150_000_000
_SEED = 0


@dataclass(frozen=True, slots=True)
class WarmupStep:
    """One batch to compute: this many rows, from row 0 of a slab on, or as loose arrays."""

    rows: int
    costs: tuple[CostModel, ...]  # the cost models that learn from it
    slab: Slab | None = None
    bucket: Bucket | None = None  # the bucket to fill, with inputs of these shapes; None: the sizes of the samples
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmUpPlan:
    """What to compute, with which kinds of requests (none: generated ones), and how long that may take."""

    steps: Sequence[WarmupStep]
    requests: Sequence[SampleRequest]
    budget_s: float


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Whether a model was warmed up, and the reason where it was not, or not completely."""

    warmed_up: bool
    reason: str = ""


def unpadded_steps(cost: CostModel, slab: Slab | None) -> list[WarmupStep]:
    """A step for each usual batch size of an engine, from which `cost` learns."""
    return [WarmupStep(rows, (cost,), slab) for rows in cost.sizes]


def padded_steps(
    padding: Padding, inputs: Sequence[TensorSpec], costs: Mapping[object, CostModel], unknown: CostModel
) -> list[WarmupStep]:
    """A step for each usual batch size of each bucket.

    Args:
        padding: has the buckets.
        inputs: of the model.
        costs: the cost models, by bucket.
        unknown: the cost model for rows of unknown length, which learns from the bucket in the middle.
    """
    steps: list[WarmupStep] = []
    buckets = padding.grid
    for bucket in buckets:
        learning = (costs[bucket], unknown) if bucket == buckets[len(buckets) // 2] else (costs[bucket],)
        for rows in unknown.sizes:
            shapes = {tensor.name: padding.shape(tensor, rows, bucket.sizes) for tensor in inputs}
            steps.append(WarmupStep(rows, learning, None, bucket, shapes))
    return steps


def warm_up(owner: BatchOwner, engine: Engine, executors: Sequence[Executor], plan: WarmUpPlan) -> WarmUp:
    """Compute all steps on all executors, small batches first, until the time is over."""
    deadline = time.monotonic_ns() + int(plan.budget_s * 1e9)
    name = engine.spec.name
    try:
        samples = [request.of(engine.spec) for request in plan.requests] or [
            find_samples(engine, budget_s=plan.budget_s)
        ]
        _compute(owner, samples, executors, plan.steps, deadline)
    except TailcutError as error:
        _log.warning("%s: not warmed up, so its first requests take longer: %s", name, error)
        return WarmUp(warmed_up=False, reason=str(error))
    except TimeoutError as error:
        _log.warning("%s: warm-up took over %.3g s and ended before %s", name, plan.budget_s, error)
        return WarmUp(warmed_up=True, reason=f"not before {error}")
    return WarmUp(warmed_up=True)


def _compute(
    owner: BatchOwner,
    samples: Sequence[Samples],
    executors: Sequence[Executor],
    steps: Sequence[WarmupStep],
    deadline: int,
) -> None:
    """Compute the steps with the first samples, and then once with each of the others.

    Raises:
        TailcutError: a batch is rejected.
        TimeoutError: the time was over; the message says what was left.
    """
    for executor in executors:
        for number, step in enumerate(steps):
            expected = max((cost.estimate_ns(step.rows) for cost in step.costs), default=0.0)
            if time.monotonic_ns() + expected > deadline:
                left = len(steps) - number
                raise TimeoutError(f"{left} of its {len(steps)} batch sizes: they are learned by serving")
            took = _best_of_three(owner, _request(samples[0], step), executor)
            for cost in step.costs:
                cost.observe(step.rows, took)
        if steps[0].slab is None and steps[0].bucket is None:
            for other in samples[1:]:
                if time.monotonic_ns() < deadline:
                    executor.compute(Batch(owner, [_request(other, WarmupStep(1, ()))]))


def _best_of_three(owner: BatchOwner, request: Request, executor: Executor) -> int:
    took: list[int] = []
    while len(took) < 3 and sum(took) < _REPEAT_NS:
        batch = Batch(owner, [request])
        began = time.monotonic_ns()
        executor.compute(batch)
        took.append(time.monotonic_ns() - began)
    return min(took)


def _request(samples: Samples, step: WarmupStep) -> Request:
    spec = samples.spec
    request = Request(EventHandler(), AnyThreadDelivery(), step.rows)
    if step.bucket is not None:
        request.key, request.lengths = step.bucket, step.bucket.sizes
    made = samples.make(step.rows if spec.batched else samples.rows, _SEED)
    if step.slab is not None:
        request.row = 0
        for target, array in zip(step.slab.inputs, made.values(), strict=True):
            target[: step.rows] = array
    elif step.bucket is not None:  # values are repeated or cut to fit
        request.arrays = {t.name: np.resize(made[t.name], step.shapes[t.name]) for t in spec.inputs}
    else:
        request.arrays = made
    return request
