"""A pipeline as a model: what `Model.open("embed.py:pipeline")` returns, and what a server serves."""

import time
from collections.abc import Generator, Mapping, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from tailcut.engines.base import EngineOptions
from tailcut.engines.file_hash import file_hash
from tailcut.errors import QueueFullError, TailcutError
from tailcut.pipelines.engine import StageEngine
from tailcut.pipelines.flow import Flow, StepDelivery
from tailcut.pipelines.loading import PipelinePath, load_pipeline, parse_path
from tailcut.pipelines.plan import plan_pipeline
from tailcut.pipelines.process import StagePlace
from tailcut.pipelines.stage import Pipeline, Stage
from tailcut.pipelines.statistics import PipelineStatistics
from tailcut.pipelines.steps import OpenStep, model_outline, open_model, open_stage, stage_outline
from tailcut.pipelines.tuned import with_settings
from tailcut.runtime.calls import LibraryCalls
from tailcut.runtime.inputs import Arrays
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.opening.warmup import WarmUp
from tailcut.runtime.pipeline_settings import PipelineSettings
from tailcut.runtime.profile import ModelRef, Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.rows import RowDecision, read_signature
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.runtime.tracing.records import DevicePhase, StepTimes
from tailcut.spec import ModelSpec, RowEvidence

_SLOWEST = 0.99


class PipelineModel:
    """Stages and models, one after the other, that answer requests from any number of threads and event loops.

    Use `tailcut.Model.open("FILE.py:VARIABLE")`. Thread-safe, except that `close` must be the last call. It does not
    survive a fork: open it in the process that uses it.
    """

    slab = None  # its rows are handed on as arrays
    choice = None

    def __init__(self, profile: Profile, steps: Sequence[OpenStep], spec: ModelSpec | None = None) -> None:
        """`spec` says what goes in and comes out; left out, it is what the first step takes and the last one gives."""
        self.entry = self  # the calls of a model's entry without those for rows, which it does not lend
        self.spec = spec or plan_pipeline(profile.model.name, [step.outline for step in steps])
        self.steps = tuple(steps)
        self.max_batch_size = min(step.model.entry.max_batch_size for step in steps)
        self.queue_rows = steps[0].model.entry.queue_rows
        evidence = RowEvidence(self.spec.rows, self.spec.rows_reason)
        self.rows = RowDecision(self.spec.rows, self.spec.rows_reason, "auto", read_signature(self.spec), evidence)
        self.profile = profile
        cold = [step.model.warm_up.reason for step in steps if step.engine is None and not step.model.warm_up.warmed_up]
        self.warm_up = WarmUp(not cold, "; ".join(cold))
        self._statistics = PipelineStatistics(len(steps))
        self._flows: dict[Request, Flow] = {}
        self._calls = LibraryCalls(self)

    @classmethod
    def open(cls, source: str, *, limits: Limits = Limits()) -> Self:  # noqa: B008  frozen
        """Load the file, check that its steps fit together, open its models and start its stages' processes.

        Raises:
            UsageError: the file raises, has no such pipeline, or its steps do not fit together; one line says where.
            MissingFileError: the file is missing.
            TailcutError: a model cannot be opened; as `Model.open`.
        """
        return cls.of_profile(pipeline_profile(source), limits=limits)

    @classmethod
    def of_profile(cls, profile: Profile, *, limits: Limits = Limits()) -> Self:  # noqa: B008  frozen
        """As `open`, with the settings of a profile that a tune wrote.

        Raises:
            ProfileError: the profile is for other stages or models.
            TailcutError: as `open`.
        """
        path, settings = parse_path(profile.model.path), profile.settings.pipeline
        pipeline = load_pipeline(path)
        if settings is not None:
            pipeline = with_settings(pipeline, path, settings)
        models: list[Model] = []
        try:
            steps = _open_steps(pipeline, path, limits, models, settings)
            return cls(profile, steps)
        except BaseException:
            for model in models:
                model.close()
            raise

    # The library's way in.

    async def infer(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `Model.infer`: the outputs of the last step for some rows.

        Raises:
            InvalidInputError: an input does not fit, or a stage refuses it.
            QueueFullError: too much is waiting already.
            DeadlineExceededError: `timeout_s` passed, or a stage did not answer within its own time.
            EngineError: a stage or a model failed on these inputs.
        """
        return await self._calls.infer(inputs, timeout_s, priority)

    def infer_sync(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `infer`, for a thread that may block."""
        return self._calls.infer_sync(inputs, timeout_s, priority)

    def close(self) -> None:
        """Fail what waits, end the processes, close the models. Calling it again does nothing."""
        for step in self.steps:
            step.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The server's way in: as `Model` has it.

    def start(self, arrays: Arrays, request: Request) -> None:
        """Queue the checked arrays of a request at the first step; the caller notifies.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        flow = Flow(self, arrays, request)
        self._statistics.began()
        self._flows[request] = flow
        try:
            flow.begin()
        except TailcutError as error:
            del self._flows[request]
            self._statistics.refused(error)
            raise

    def start_in_steps(self, arrays: Arrays, request: Request) -> Generator[None, None, None]:
        """As `start`: what is large is copied by the first step's own thread.

        Raises:
            QueueFullError: as in `start`.
        """
        yield from ()
        self.start(arrays, request)

    def notify(self, until_ns: int = 0) -> bool:
        """Have what waits for the first step computed."""
        return self.steps[0].model.entry.notify(until_ns)

    def cancel(self, request: Request) -> None:
        """The client left: what waits for a step is taken out of its queue."""
        flow = self._flows.pop(request, None)
        if flow is None:
            return
        self._statistics.cancelled()
        step, under_way = flow.step, flow.cancel()
        if under_way is not None:
            step.model.entry.cancel(under_way)

    def admit(self, rows: int, deadline_ns: int = 0, priority: int = 0, *, requests: int = 1) -> None:
        """Refuse what the first step has no room for.

        Raises:
            QueueFullError: with the seconds after which another try makes sense.
        """
        first = self.steps[0]
        try:
            first.model.entry.admit(1 if first.whole_requests else rows, deadline_ns, priority, requests=requests)
        except QueueFullError as error:
            self._statistics.refuse(requests, error)
            raise

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for the first step."""
        return self.steps[0].model.entry.waiting_rows

    def waiting_ns(self) -> int:
        """How long the first step will take for what waits."""
        return self.steps[0].model.entry.waiting_ns()

    def ended(self, flow: Flow, error: TailcutError | None) -> None:
        """A request has its answer, or never will."""
        if self._flows.pop(flow.request, None) is None:
            return
        if error is None:
            late = 0 < flow.request.deadline_ns < flow.passed[-1].ended_ns
            self._statistics.answered(flow.request.count, flow.times, late=late)
        else:
            took_ns = time.monotonic_ns() - flow.request.ready_ns
            self._statistics.ended(error, took_ns, computed=flow.computed)

    def delivered(self, batch: Batch) -> None:
        """Nothing is held for an answer that has been handed out."""

    # What it counts.

    def statistics(self) -> dict[str, int | float]:
        """As `Model.statistics`, summed over the steps where it is theirs; a request is counted once."""
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
        """Nothing: each step has batches of its own."""
        return {}

    def stage_batches(self) -> dict[str, dict[int, tuple[int, int]]]:
        """For each step by its name, as `Model.batches_by_rows`."""
        return {step.name: step.model.batches_by_rows() for step in self.steps}

    def stages(self) -> dict[str, dict[str, int | float]]:
        """The counts of each step by its name, as `Model.statistics`, with the processes that were started anew."""
        return {
            step.name: step.model.statistics() | {"restarts": 0 if step.engine is None else step.engine.restarts}
            for step in self.steps
        }

    def describe_stages(self) -> str:
        """The stages as one line for the log."""
        return " -> ".join(step.describe() for step in self.steps)

    def device_times(self) -> list[DevicePhase]:
        """Nothing: a step that is served by itself says how long its calls to a device take."""
        return []

    def stage_times(self) -> list[StepTimes]:
        """How long the newest requests were in each step: medians, p99, and what the slowest 1 % spent there, in us."""
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


def pipeline_profile(source: str) -> Profile:
    """What a server must know of a pipeline before it is opened: its name, and the settings of its first profile's io.

    Raises:
        UsageError: the file raises, or has no such pipeline.
        MissingFileError: the file is missing.
    """
    path = parse_path(source)
    return _profile(load_pipeline(path), path)


def _profile(pipeline: Pipeline, path: PipelinePath) -> Profile:
    files = [path.file.parent / step for step in pipeline.steps if not isinstance(step, Stage)]
    io = next((Profile.load(file).settings.io for file in files if file.suffix == ".toml"), IoSettings())
    stages = [step.max_batch_size for step in pipeline.steps if isinstance(step, Stage)]
    batching = BatchingSettings(max_batch_size=min(stages, default=1), bind=False)
    ref = ModelRef(path=str(path), sha256=file_hash(path.file), name=pipeline.name)
    return Profile(model=ref, settings=Settings(engine=EngineOptions(name="none"), batching=batching, io=io))


def _open_steps(
    pipeline: Pipeline, path: PipelinePath, limits: Limits, models: list[Model], settings: PipelineSettings | None
) -> list[OpenStep]:
    """Open the models, check that everything fits, and only then start processes; what is open is added to `models`."""
    named: dict[int, Model] = {}
    for index, step in enumerate(pipeline.steps):
        if not isinstance(step, Stage):
            own = None if settings is None else settings.model(str(step))
            named[index] = open_model(pipeline.name, path, step, limits, own)
            models.append(named[index])
    outlines = [
        stage_outline(step) if isinstance(step, Stage) else model_outline(named[index].spec)
        for index, step in enumerate(pipeline.steps)
    ]
    plan_pipeline(pipeline.name, outlines)
    opened: list[tuple[Model, StageEngine | None, bool]] = []
    for index, step in enumerate(pipeline.steps):
        if isinstance(step, Stage):
            model, engine = open_stage(StagePlace(step, path, index), limits)
            models.append(model)
            opened.append((model, engine, step.whole_requests))
        else:
            opened.append((named[index], None, False))
    deliveries = [*(StepDelivery(after[0].entry) for _, after in pairwise(opened)), StepDelivery(None)]
    return [
        OpenStep(model, engine, whole_requests, delivery, outline)
        for (model, engine, whole_requests), delivery, outline in zip(opened, deliveries, outlines, strict=True)
    ]
