"""The entry of a pipeline: the interface through which a server serves it, like the entry of a model."""

import time
from collections.abc import Generator, Sequence

import numpy as np

from tailcut.engines.base import EngineOptions
from tailcut.errors import QueueFullError, ReleasedError, TailcutError
from tailcut.pipelines.flow import Flow
from tailcut.pipelines.statistics import PipelineStatistics
from tailcut.pipelines.steps import OpenStep
from tailcut.runtime.inputs import Arrays
from tailcut.runtime.model import as_neighbour
from tailcut.runtime.opening.warmup import WarmUp
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.tracing.records import DevicePhase, StepTimes
from tailcut.spec import ModelSpec

_SLOWEST = 0.99


class PipelineEntry:
    """The interface of a model's entry, except for receiving into arena rows, which a pipeline does not have.

    Args:
        spec: the pipeline's inputs and outputs.
        steps: the steps in order.
        one_batch: whether all inputs must have the same number of rows, even those that only a later step takes.
    """

    slab = None  # requests arrive as arrays

    def __init__(self, spec: ModelSpec, steps: Sequence[OpenStep], *, one_batch: bool = False) -> None:
        self.spec = spec
        self.one_batch = one_batch
        self.steps = tuple(steps)
        self.has_rows_counted = _counts_rows(spec, steps[0])
        self.max_batch_size = min(step.model.entry.max_batch_size for step in steps)
        self.queue_rows = steps[0].model.entry.queue_rows
        self.queue_setting = steps[0].model.entry.queue_setting
        cold = [step.model.entry.warm_up for step in steps if step.engine is None]
        reasons = [warm_up.reason for warm_up in cold if not warm_up.warmed_up]
        self.warm_up = WarmUp(not reasons, "; ".join(reasons))
        self.gone = ""  # why it no longer answers: it was closed, or belongs to another process
        self._statistics = PipelineStatistics(len(steps))
        self._flows: dict[Request, Flow] = {}

    def start(self, arrays: Arrays, request: Request) -> None:
        """Queue the checked arrays of a request at the first step; the caller then calls `notify`.

        Raises:
            InvalidInputError: inputs differ in their number of rows, or have none.
            QueueFullError: the queue is full, or the deadline cannot be met.
            ReleasedError: the pipeline was closed, or opened before this process was forked.
        """
        flow = self._flow(arrays, request)
        try:
            flow.begin()
        except BaseException as error:
            self._abandoned(request, error)
            raise

    def start_in_steps(self, arrays: Arrays, request: Request) -> Generator[None, None, None]:
        """As `start`, yielding between parts of large arrays that are copied into a model's rows.

        Raises:
            TailcutError: as in `start`.
        """
        flow = self._flow(arrays, request)
        try:
            yield from flow.begin_in_steps()
        except BaseException as error:
            self._abandoned(request, error)
            raise

    def _flow(self, arrays: Arrays, request: Request) -> Flow:
        if self.gone:
            raise ReleasedError(self.gone)
        flow = self._flows[request] = Flow(self, arrays, request)
        self._statistics.began()
        return flow

    def _abandoned(self, request: Request, error: BaseException) -> None:
        if self._flows.pop(request, None) is not None:
            if isinstance(error, TailcutError):
                self._statistics.refused(error)
            else:
                self._statistics.cancelled()

    def notify(self, until_ns: int = 0) -> bool:
        """Wake the first step for the requests that wait there."""
        return self.steps[0].model.entry.notify(until_ns)

    def cancel(self, request: Request) -> None:
        """Withdraw the request of a client that has left from the queue that it waits in."""
        flow = self._flows.pop(request, None)
        if flow is None:
            return
        self._statistics.cancelled()
        under_way = flow.cancel()
        if under_way is not None:
            under_way.step.model.entry.cancel(under_way.request)

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0, *, requests: int = 1) -> None:
        """Check that the first step has room for these rows.

        Raises:
            QueueFullError: it has not; the error has the seconds after which to try again.
        """
        first = self.steps[0]
        try:
            first.model.entry.admit(1 if first.whole_requests else rows, deadline_ns, priority, requests=requests)
        except QueueFullError as error:
            self._statistics.refuse(requests, error)
            raise

    @property
    def is_lost(self) -> bool:
        """Whether a step can no longer compute in this process."""
        return any(step.model.entry.is_lost for step in self.steps)

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue of the first step."""
        return self.steps[0].model.entry.waiting_rows

    def waiting_ns(self) -> int:
        """How long the first step will take for the requests in its queue."""
        return self.steps[0].model.entry.waiting_ns()

    def answered(self, flows: Sequence[Flow]) -> None:
        """Count requests that were answered."""
        self._statistics.answered([flow for flow in flows if self._flows.pop(flow.request, None) is not None])

    def failed(self, flow: Flow, error: TailcutError) -> None:
        """Count a request that failed with this error."""
        if self._flows.pop(flow.request, None) is not None:
            took_ns = time.monotonic_ns() - flow.request.ready_ns
            self._statistics.failed(error, took_ns, computed=flow.computed)

    def delivered(self, batch: Batch) -> None:
        """Do nothing: an answer that has been delivered holds no rows."""

    # Statistics.

    def statistics(self) -> dict[str, int | float]:
        """As `Model.statistics`, with the steps' own counters summed; each request is counted once."""
        steps = [step.model.statistics() for step in self.steps]
        summed = (
            "batches",
            "second",
            "rescued",
            "expired",
            "hung",
            "compute_ns",
            "queued",
            "queued_rows",
            "rows_in_use",
        )
        return (
            {name: sum(counts[name] for counts in steps) for name in summed}
            | {"oldest_ns": max(counts["oldest_ns"] for counts in steps)}
            | self._statistics.copy()
            | {"computing": self._statistics.flowing}
        )

    @property
    def refusal(self) -> str:
        """Why the newest refused request was refused."""
        return self._statistics.refusal

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """Empty: each step has its own batches."""
        return {}

    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]:
        """`Model.batches_by_rows` of each step, by name."""
        return {step.name: step.model.batches_by_rows() for step in self.steps}

    def stages(self) -> dict[str, dict[str, int | float]]:
        """`Model.statistics` of each step, by name, with the number of its restarted processes."""
        return {
            step.name: step.model.statistics() | {"restarts": 0 if step.engine is None else step.engine.restarts}
            for step in self.steps
        }

    def step_engines(self) -> dict[str, EngineOptions | None]:
        """Engine options of each step that is computed in this process, by name; None for a function on threads."""
        here = [step for step in self.steps if step.engine is None or step.engine.stage.threads]
        return {step.name: None if step.engine else step.model.profile.settings.engine for step in here}

    def step_profiles(self) -> list[Profile]:
        """The profiles of its models, each once."""
        models = {id(step.model): step.model for step in self.steps if step.engine is None}
        return [*map(as_neighbour, models.values()), *(model for step in self.steps for model in step.models)]

    def describe_stages(self) -> str:
        """The stages as one line for the log."""
        return " -> ".join(step.describe() for step in self.steps)

    def device_times(self) -> list[DevicePhase]:
        """Empty: device times are reported only for a model that is served by itself."""
        return []

    def stage_times(self) -> list[StepTimes]:
        """Times of the newest requests in each step, in us: median, p99, and the mean of the slowest 1 % overall."""
        times = self._statistics.times() / 1000
        if not len(times):
            return []
        totals = times.sum(axis=(1, 2))
        slow = times[totals >= np.quantile(totals, _SLOWEST)].mean(axis=0)
        return [
            StepTimes(
                stage=step.name,
                requests=len(times),
                queue_p50_us=round(float(np.quantile(times[:, index, 0], 0.5)), 1),
                queue_p99_us=round(float(np.quantile(times[:, index, 0], 0.99)), 1),
                compute_p50_us=round(float(np.quantile(times[:, index, 1], 0.5)), 1),
                compute_p99_us=round(float(np.quantile(times[:, index, 1], 0.99)), 1),
                slowest_queue_us=round(float(slow[index, 0]), 1),
                slowest_compute_us=round(float(slow[index, 1]), 1),
            )
            for index, step in enumerate(self.steps)
        ]


def _counts_rows(spec: ModelSpec, first: OpenStep) -> bool:
    """Whether the number of rows of a checked request is that of the first step's inputs."""
    alike = set(spec.input_names) == {called for _, called in first.inputs}
    batched = spec.batched and not spec.separate_axes and first.model.spec.batched
    return alike and batched and not first.any_rows
