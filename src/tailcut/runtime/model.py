"""A loaded model: opened from a file or a profile, called from any thread or event loop, and closed.

A model holds its parts and inherits from none: a scheduler, which queues requests and forms batches; executors, which
compute them; a pool of workers with a watchdog; and the entry, through which all requests come, also the server's.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from tailcut import forks
from tailcut.batching.cost import CostModel
from tailcut.engines import OPEN_AFTER_FORK, open_engine
from tailcut.engines.base import Engine, RequestEngine
from tailcut.engines.static import StaticEngine
from tailcut.engines.trust import trust as trust_file
from tailcut.errors import ReleasedError, UsageError
from tailcut.machine.nodes import made_on
from tailcut.runtime.calls import LibraryCalls
from tailcut.runtime.entry import ModelEntry
from tailcut.runtime.executors import ArrayExecutor, FallbackExecutor, PaddedExecutor, RowExecutor
from tailcut.runtime.limits import Limits, check_limits
from tailcut.runtime.opening.defaults import DefaultChoice, ServingPlace
from tailcut.runtime.opening.measured import BUDGET_S, open_measured, surroundings
from tailcut.runtime.opening.row_proof import settle_rows
from tailcut.runtime.opening.source import is_profile, known_samples, open_profile
from tailcut.runtime.opening.warmup import WarmUp, WarmUpPlan, WarmupStep, padded_steps, unpadded_steps, warm_up
from tailcut.runtime.padding import Padding, plan_padding
from tailcut.runtime.placement import instance_places
from tailcut.runtime.profile import Profile, is_pipeline, with_batching
from tailcut.runtime.request import Executor
from tailcut.runtime.rows import Batching, RowDecision, check_batching
from tailcut.runtime.scheduler import Scheduler
from tailcut.runtime.second import load_second, open_second
from tailcut.runtime.settings import SecondEngine
from tailcut.runtime.worker_pool import Watchdog, WorkerPool

_log = logging.getLogger("tailcut")


class Model:
    """A model that answers requests from any number of threads and event loops, batched with each other.

    Use `Model.open`. Thread-safe, except that `close` must be the last call. In a forked child, the first call of
    `infer` or `infer_sync` opens the model again, because engines and threads do not survive a fork; with openvino,
    which cannot be opened there reliably, such calls raise ReleasedError.

    All public members are for users, except `entry`, through which Tailcut itself serves the model.
    """

    def __init__(
        self,
        profile: Profile,
        engine: Engine,
        limits: Limits,
        rows: RowDecision | None = None,
        reopen: Callable[[], Engine] | None = None,
    ) -> None:
        began = time.monotonic()
        self._engine = engine  # the first
        self._other_engine = reopen  # opens another engine, where the profile's model file cannot
        known = known_samples(profile, engine.spec)
        self.rows = settle_rows(engine, profile.settings.batching.rows, known) if rows is None else rows
        self.spec = engine.spec
        self.profile = profile
        self.choice: DefaultChoice | None = None  # the settings, where they were measured
        self._limits = limits
        self._scheduler = scheduler = Scheduler(self.spec, profile.settings, limits)
        self._padding = self._plan_padding(engine)
        if self._padding is not None:
            scheduler.forecast.costs = {bucket: CostModel(scheduler.max_batch_size) for bucket in self._padding.grid}
        self._second = open_second(profile, self.spec, known)
        self._turn = threading.Lock()  # for using the second engine as a fallback
        engine = self._engine = self._for_buckets(engine)
        places = instance_places(profile.settings)
        engines = {node: engine if node == places[0] else made_on(node, self._reopen) for node in places}
        executors = [self._first_executor(engines[node]) for node in places]
        left_s = max(0.0, limits.warm_up_s - (time.monotonic() - began))
        plan = WarmUpPlan(self._warm_up_steps(), profile.samples, left_s)
        made_up = not isinstance(engine, RequestEngine)  # functions may reject generated inputs
        warmed_up = warm_up(scheduler, engine, executors, plan) if made_up else WarmUp(warmed_up=False)
        self._pool = WorkerPool(scheduler, engine, self._reopen, self._first_executor)
        self._pools = [self._pool, *self._second_pool(left_s)]
        self._wake = self._pool.wake if len(self._pools) == 1 else self._wake_all
        self.entry = ModelEntry(scheduler, executors[0], self._wake, self._padding)
        self.entry.warm_up = warmed_up
        self.entry.engine = engine
        self._calls = LibraryCalls(self.entry)
        for executor, node in () if scheduler.dispatch == "inline" else zip(executors, places, strict=True):
            self._pool.hire(executor, engines[node], node)
        self._watchdog = Watchdog(scheduler, self._pools)
        self._inherited = False  # this is a forked child, whose parent had it open
        self._opening = threading.Lock()
        forks.watch_by(self, Model._forked)
        forks.pause_for(self.entry)

    @classmethod
    def open(
        cls,
        source: str | Path | Profile,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
        batching: Batching | None = None,
        auto: bool = True,
        trust: bool = False,
    ) -> "Model":
        """Load a model file, a profile file (.toml), a Profile or a pipeline (FILE.py:VARIABLE), and warm it up.

        Model files are ONNX, OpenVINO IR (.xml), TensorFlow (the directory of a SavedModel, .pb), TFLite, Paddle, and
        PyTorch programs (.pt2, written by `torch.export.save`). A pipeline, or a profile of one, is opened as a
        `tailcut.pipelines.model.PipelineModel`, which has the same methods.

        For a model file, threads, instances, spinning, dispatch and the largest batch are measured, for up to two
        seconds, and the choice is logged. The settings of a profile are never changed.

        Args:
            source: a path, or a profile.
            limits: the size of the queue, and how long the engine may take.
            batching: whether requests may be merged and split: "on", "off", or "auto" to decide by the evidence; None
                leaves it to the profile. Of a pipeline, this holds for each of its models, as do `auto` and `trust`.
            auto: whether to measure settings for a model file; otherwise, they are fixed.
            trust: whether to load a program that could run code of its own.

        Raises:
            ModelFileError: the model is missing, empty or corrupt.
            ProfileError: the profile is corrupt, of a later schema, or for another model.
            UnsupportedError: this machine or engine does not support a setting, or the model's signature rules out
                batching that was asked for.
            UsageError: `source`, `limits` or `batching` is invalid; `source` must not be a Pipeline itself.
        """
        if not isinstance(source, str | Path | Profile):
            raise UsageError(
                f"Model.open takes a path or a Profile, not a {type(source).__name__}: a pipeline is opened by the "
                "path of its file, such as 'embed.py:pipeline', because its processes import it"
            )
        check_limits(limits)
        check_batching(batching)
        if isinstance(source, str) and is_pipeline(source):
            return _open_pipeline(source, limits, batching=batching, auto=auto, trust=trust)
        profile = source if isinstance(source, Profile) else open_profile(Path(source))
        if profile.is_of_pipeline:
            return _open_pipeline(profile, limits, batching=batching, auto=auto, trust=trust)
        if trust:
            trust_file(Path(profile.model.path))
        if batching is not None:
            profile = with_batching(profile, batching)
        if auto and not isinstance(source, Profile) and not is_profile(Path(source)):
            model = measured_model(profile, surroundings(), limits=limits)
            if model.choice is not None:
                _log.info("%s: %s", model.spec.name, model.choice.line())
            return model
        first = instance_places(profile.settings)[0]
        engine = made_on(first, lambda: open_engine(profile.engine_file, profile.settings.engine, profile.model.name))
        try:
            return cls(profile, engine, limits)
        except BaseException:
            engine.close()
            raise

    async def infer(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """Compute the outputs for some rows, sharing a batch with other callers.

        Args:
            inputs: by name, arrays of the model's dtypes and shapes, or lists of numbers; where requests are batched,
                the first dimension is the number of rows.
            timeout_s: seconds until the deadline; None: no deadline.
            priority: requests with smaller numbers are served before others, and those of equal priority by
                deadline; 1 is the first, and 0 means the default, which is 100.

        Returns:
            The outputs by name, as arrays that belong to the caller; strings are `bytes`.

        Raises:
            InvalidInputError: an input does not fit the model (the message names it, what was expected, and what came),
                or `timeout_s` or `priority` is not a valid number.
            QueueFullError: too much is waiting already.
            DeadlineExceededError: `timeout_s` passed before the answer.
            EngineError: the engine failed on these inputs.
        """
        if self._inherited:
            await asyncio.to_thread(self._open_here)
        return await self._calls.infer(inputs, timeout_s, priority)

    def infer_sync(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `infer`, for a thread that may block."""
        if self._inherited:
            self._open_here()
        return self._calls.infer_sync(inputs, timeout_s, priority)

    def close(self) -> None:
        """Fail waiting requests, end the workers, and free the engine. Calling it again does nothing."""
        self._inherited = False
        if self._scheduler.close():
            self._watchdog.stop()
            for pool in self._pools:
                pool.close()
            if self._second is not None and len(self._pools) == 1:
                self._second.close()

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start (requests, rows, batches, failures, times in nanoseconds), and the present queue."""
        return self._scheduler.statistics()

    def batches_by_rows(self) -> dict[int, tuple[int, int]]:
        """By the rows of a batch: the number of such batches, and their engine time in nanoseconds."""
        return self._scheduler.batches_by_rows()

    def stages(self) -> dict[str, dict[str, int | float]]:
        """The counts of each step of a pipeline, by its name; empty for a model."""
        return {}

    @property
    def refusal(self) -> str:
        """Why the newest refused request was refused; empty where none was."""
        return self._scheduler.counts.refusal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Forks.

    def _forked(self) -> None:
        """In a forked child, be closed until the first call. What the parent opened is neither used nor freed."""
        forks.keep_for_good(self.__dict__.copy())
        self._inherited = self._inherited or not self._scheduler.closed
        self._scheduler.forked()
        self._opening = threading.Lock()

    def _open_here(self) -> None:
        """Open the model in this process, as its parent had it open.

        Raises:
            ReleasedError: its engine cannot be opened in a forked child.
            ModelFileError: the model file is now missing or unreadable.
            ProfileError: the file is now another model.
        """
        with self._opening:
            if not self._inherited:
                return
            settings = self.profile.settings
            names = [
                settings.engine.name,
                *([settings.batching.second.engine.name] if settings.batching.second else []),
            ]
            name = next((name for name in names if name not in OPEN_AFTER_FORK), None)
            if name is not None:
                raise ReleasedError(
                    f"model {self.spec.name!r} was opened before this process was forked, which {name} does not "
                    "survive: open it only after the fork, start processes with 'spawn', or use onnxruntime"
                )
            engine, choice = self._reopen(), self.choice
            try:
                Model.__init__(self, self.profile, engine, self._limits)
            except BaseException:
                engine.close()
                raise
            self.choice = choice

    # Its parts.

    def _plan_padding(self, engine: Engine) -> Padding | None:
        settings = self.profile.settings.batching.padding
        if settings is not None and self.spec.batchable and not self.spec.batched:
            _log.warning("%s: not padded, because requests are not batched: %s", self.spec.name, self.rows.reason)
            return None
        return None if settings is None else plan_padding(engine, settings)

    def _for_buckets(self, engine: Engine) -> Engine:
        """The engine; where the profile asks for that, with an instance for the sizes of each bucket."""
        if self._padding is None or not self.profile.settings.engine.static_buckets:
            return engine
        sizes = [
            tuple(self._padding.shape(tensor, 1, bucket.sizes)[1:] for tensor in self.spec.inputs)
            for bucket in self._padding.grid
        ]
        path, name = self.profile.engine_file, self.profile.model.name
        return StaticEngine(engine, sizes, lambda options: open_engine(path, options, name))

    def _executor(self, engine: Engine) -> Executor:
        slab, max_batch_size = self._scheduler.slab, self._scheduler.max_batch_size
        if self._padding is not None:
            return PaddedExecutor(engine, self._padding, max_batch_size)
        return ArrayExecutor(engine) if slab is None else RowExecutor(engine, slab)

    def _first_executor(self, engine: Engine) -> Executor:
        executor = self._executor(engine)
        return (
            executor if self._second is None else FallbackExecutor(executor, self._executor(self._second), self._turn)
        )

    def _second_pool(self, left_s: float) -> list[WorkerPool]:
        """The warmed-up workers of the second engine, where batches are routed to it."""
        scheduler, engine, second = self._scheduler, self._second, self.profile.settings.batching.second
        if engine is None or second is None or scheduler.router is None:
            return []
        executors = [self._executor(engine) for _ in range(second.engine.instances)]
        cost = scheduler.router.engines[1].cost
        steps = unpadded_steps(cost, scheduler.slab)
        warm_up(scheduler, engine, executors, WarmUpPlan(steps, self.profile.samples, left_s))
        pool = WorkerPool(scheduler, engine, partial(self._reopen_second, second), self._executor, engine_index=1)
        scheduler.lead()
        for executor in executors:
            pool.hire(executor)
        return [pool]

    def _reopen_second(self, second: SecondEngine) -> Engine:
        engine = load_second(self.profile, second)
        engine.spec = self.spec
        return engine

    def _wake_all(self) -> None:
        for pool in self._pools:
            pool.wake()

    def _warm_up_steps(self) -> list[WarmupStep]:
        forecast, router = self._scheduler.forecast, self._scheduler.router
        cost = forecast.cost if router is None else router.engines[0].cost
        if self._padding is None:
            return unpadded_steps(cost, self._scheduler.slab)
        return padded_steps(self._padding, self.spec.inputs, forecast.costs, cost)

    def _reopen(self) -> Engine:
        if self._other_engine is not None:
            return self._other_engine()
        self.profile.verify_model()
        engine = open_engine(self.profile.engine_file, self.profile.settings.engine, self.profile.model.name)
        engine.spec = self.spec  # the decision about rows holds for every engine of the model
        return self._for_buckets(engine)


def measured_model(
    profile: Profile,
    around: ServingPlace,
    *,
    limits: Limits = Limits(),  # noqa: B008  frozen
    budget_s: float = BUDGET_S,
) -> Model:
    """Load a model and measure which threads, instances, spinning, dispatch and largest batch suit it.

    The choice is in the opened model's `choice`, and in its `profile`. `budget_s` limits the measurements.

    Raises:
        ModelFileError: the model is missing, empty or corrupt.
        UnsupportedError: the model's signature rules out batching that was asked for.
    """
    opened = open_measured(profile, limits, around, budget_s)
    try:
        model = Model(opened.profile, opened.engine, limits, opened.rows)
    except BaseException:
        opened.engine.close()
        raise
    model.choice = opened.choice
    return model


def chosen_model(profile: Profile, choice: DefaultChoice, limits: Limits) -> Model:
    """Load a model with settings that were measured before.

    Raises:
        TailcutError: as in `Model.open`.
    """
    settings = choice.apply(profile.settings)
    model = Model.open(msgspec.structs.replace(profile, settings=settings), limits=limits)
    model.choice = choice
    return model


def as_neighbour(model: Model) -> Profile:
    """A model's profile, for comparing it with others in the server: measured threads count as not set."""
    if model.choice is None:
        return model.profile
    settings = model.profile.settings
    engine = msgspec.structs.replace(settings.engine, threads=0)
    return msgspec.structs.replace(model.profile, settings=msgspec.structs.replace(settings, engine=engine))


def _open_pipeline(source: str | Profile, limits: Limits, **wishes: Any) -> Model:
    """Open a pipeline; imported by name, because pipelines are built on models and not the other way round."""
    pipeline: Model = import_module("tailcut.pipelines.model").PipelineModel.open(source, limits=limits, **wishes)
    return pipeline
