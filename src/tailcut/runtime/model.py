"""A loaded model, from opening to closing, and the ways in for its callers.

How requests are taken in is in `reception.py`, and how they are computed in `desk.py`. Dispatch is by worker threads,
or inline: on the thread that kicks, for models whose batch costs less than waking a thread. Adaptive dispatch does
either: where it is kicked it computes what takes half a millisecond at most, and has its worker do the rest while the
loop receives.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from tailcut import forks
from tailcut.batching.cost import CostModel
from tailcut.engines import OPEN_AFTER_FORK, open_engine
from tailcut.engines.base import Engine, RequestEngine
from tailcut.engines.samples import Samples
from tailcut.engines.trust import trust as trust_file
from tailcut.errors import ProfileError, ReleasedError
from tailcut.runtime.batch import ArrayExecutor, Batch, Delivery, Executor, ResponseHandler, RowExecutor, Ticket
from tailcut.runtime.crew import WorkerPool
from tailcut.runtime.defaults import SAFE_SETTINGS, Choice, Surroundings
from tailcut.runtime.desk import Desk
from tailcut.runtime.home import AnyThreadDelivery, EventHandler, FutureHandler, LoopDelivery
from tailcut.runtime.inputs import Arrays, check_inputs, row_key
from tailcut.runtime.limits import Limits
from tailcut.runtime.measured import BUDGET_S, open_measured, surroundings
from tailcut.runtime.padding import PaddedExecutor, plan_padding
from tailcut.runtime.profile import Profile, with_batching
from tailcut.runtime.row_proof import settle_rows
from tailcut.runtime.rows import Batching, RowDecision
from tailcut.runtime.split import split_in_steps, split_ticket
from tailcut.runtime.warmup import Step, WarmUp, WarmUpPlan, warm_up
from tailcut.runtime.watchdog import Watchdog
from tailcut.spec import ModelSpec

_log = logging.getLogger("tailcut")
# Of adaptive dispatch: so long may the thread that kicks be kept from receiving, and so large are few clients' batches.
_HERE_NS = 500_000
_FEW = 2.5
_STEP_BYTES = 256 * 1024  # copied between two pauses
_FORK_WAIT_S, _FORK_LOOK_S = 0.25, 0.0005  # for batches to end before a fork


class Model(Desk):
    """A model that answers requests from any number of threads and event loops, batched with each other.

    Use `Model.open`. Thread-safe throughout, except that `close` must be the last call. In a forked child, the first
    call of `infer` or `infer_sync` opens the model anew, because engines and threads do not survive a fork; with
    openvino, which cannot be opened there reliably, such calls raise ReleasedError.
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
        self._other_engine = reopen  # where another one does not come from the profile's model file
        known = _known_samples(profile, engine.spec)
        self.rows = settle_rows(engine, profile.settings.batching.rows, limits, known) if rows is None else rows
        super().__init__(engine.spec, profile.settings, limits)
        self.profile = profile
        self.choice: Choice | None = None  # the settings, where they were chosen by measuring
        self._limits = limits
        self._homes: dict[asyncio.AbstractEventLoop, LoopDelivery] = {}
        padding = profile.settings.batching.padding if self.spec.batched or not self.spec.batchable else None
        if padding is not profile.settings.batching.padding:
            _log.warning("%s: not padded, because requests are not batched: %s", self.spec.name, self.rows.reason)
        self._padding = None if padding is None else plan_padding(engine, padding)
        if self._padding is not None:
            self.forecast.costs = {bucket: CostModel(self.max_batch_size) for bucket in self._padding.buckets}
        executors = [self._executor(engine) for _ in range(self._instances)]
        left_s = max(0.0, limits.warm_up_s - (time.monotonic() - began))
        plan = WarmUpPlan(self._warm_up_steps(), profile.samples, left_s)
        made_up = not isinstance(engine, RequestEngine)  # whose functions may refuse inputs that nobody has sent
        self.warm_up = warm_up(self, engine, executors, plan) if made_up else WarmUp(warmed_up=False)
        self._inline_executor = executors[0]
        self._pool = WorkerPool(self, engine, self._reopen, self._executor)
        for executor in () if self.inline else executors:
            self._pool.hire(executor)
        self._watchdog = Watchdog(self, limits.engine_timeout_s, self.spec.name)
        self._inherited = False  # in a forked child, from a parent that had it open
        self._opening = threading.Lock()
        forks.watch(self)
        forks.pause_for(self)

    @classmethod
    def open(
        cls,
        source: str | Path | Profile,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
        batching: Batching | None = None,
        auto: bool = True,
        trust: bool = False,
    ) -> Self:
        """Load a model file, a profile file (.toml), a Profile or a pipeline (FILE.py:VARIABLE), and warm it up.

        Model files are ONNX, OpenVINO IR (.xml), TensorFlow (a SavedModel's directory, .pb), TFLite, Paddle, and
        PyTorch programs (.pt2, of `torch.export.save`); a program that could run code of its own needs `trust`. A
        pipeline comes as a `tailcut.pipelines.model.PipelineModel`, which has the same methods for its users.

        `batching` says whether requests may be merged and split: "on", "off", or "auto" to leave it to the evidence;
        None leaves it to the profile.

        For a model file, threads, instances, spinning, dispatch and the largest batch are chosen by measuring, for up
        to two seconds, and the choice is logged; with `auto=False` they are fixed. A profile's are never changed.

        Raises:
            ModelFileError: the model is missing, empty or corrupt.
            ProfileError: the profile is corrupt, of a later schema, or for another model.
            UnsupportedError: a setting that this machine or engine does not have, or batching where the model's
                signature rules it out.
        """
        if isinstance(source, str) and is_pipeline(source):
            # By name: pipelines are built on models, and not the other way round.
            pipeline: Self = import_module("tailcut.pipelines.model").PipelineModel.open(source, limits=limits)
            return pipeline
        profile = source if isinstance(source, Profile) else open_profile(Path(source))
        if trust:
            trust_file(Path(profile.model.path))
        if batching is not None:
            profile = with_batching(profile, batching)
        if auto and not isinstance(source, Profile) and not is_profile(Path(source)):
            model = cls.open_measured(profile, surroundings(), limits=limits)
            if model.choice is not None:
                _log.info("%s: %s", model.spec.name, model.choice.line())
            return model
        engine = open_engine(profile.engine_file, profile.settings.engine, profile.model.name)
        try:
            return cls(profile, engine, limits)
        except BaseException:
            engine.close()
            raise

    @classmethod
    def open_measured(
        cls,
        profile: Profile,
        around: Surroundings,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
        budget_s: float = BUDGET_S,
    ) -> Self:
        """Load a model with its threads, instances, spinning, dispatch and largest batch chosen by measuring.

        What was chosen is in the opened model's `choice`, and in its `profile`. `budget_s` bounds the measurements.

        Raises:
            ModelFileError: the model is missing, empty or corrupt.
            UnsupportedError: batching where the model's signature rules it out.
        """
        opened = open_measured(profile, limits, around, budget_s)
        try:
            model = cls(opened.profile, opened.engine, limits, opened.rows)
        except BaseException:
            opened.engine.close()
            raise
        model.choice = opened.choice
        return model

    # The library's way in.

    async def infer(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """Compute the outputs for some rows, sharing a batch with other callers.

        Who names a deadline (`timeout_s`) that is earlier than another's, or a smaller `priority`, is served before it:
        1 is the first, 0 stands for none named (100), and larger numbers give way to everybody else.

        Raises:
            InvalidInputError: an input does not fit; the message names it, what was expected, and what came.
            QueueFullError: too much is waiting already.
            DeadlineExceededError: `timeout_s` passed.
            EngineError: the engine failed on these inputs.
        """
        if self._inherited:
            await asyncio.to_thread(self._open_here)
        arrays, rows = check_inputs(self.spec, inputs)
        loop = asyncio.get_running_loop()
        home = self._home_of(loop)
        sink = FutureHandler(loop.create_future())
        ticket = self.start(arrays, rows, sink, home, self._deadline(timeout_s), priority=priority)
        home.kick_soon(self)
        try:
            outputs = await sink.future
        except asyncio.CancelledError:
            self.cancel(ticket)
            raise
        return dict(zip(self.spec.output_names, outputs, strict=True))

    def infer_sync(
        self, inputs: Mapping[str, ArrayLike], *, timeout_s: float | None = None, priority: int = 0
    ) -> dict[str, np.ndarray]:
        """As `infer`, for a thread that may block."""
        if self._inherited:
            self._open_here()
        arrays, rows = check_inputs(self.spec, inputs)
        sink = EventHandler()
        self.start(arrays, rows, sink, _ANY_THREAD, self._deadline(timeout_s), priority=priority)
        self.kick()
        sink.event.wait()
        if sink.error is not None:
            raise sink.error
        return dict(zip(self.spec.output_names, sink.outputs or [], strict=True))

    def close(self) -> None:
        """Fail what waits, end the workers, free the engine. Calling it again does nothing."""
        with self._lock:
            self._inherited = False
            if self._closed:
                return
            self._closed = True
            waiting = self._queue.clear()
        for ticket in waiting:
            ticket.home.post_failure(ticket, ReleasedError(f"model {self.spec.name!r} was closed"))
        self._watchdog.stop()
        self._pool.close()

    def stages(self) -> dict[str, dict[str, int | float]]:
        """The counts of each stage of a pipeline; a model has none."""
        return {}

    def stage_times(self) -> list[dict[str, Any]]:
        """How long a pipeline's requests are in each stage; a model has none."""
        return []

    def describe_stages(self) -> str:
        """A pipeline's stages as one line; a model has none."""
        return ""

    def pause(self) -> None:
        """Let the batches that are computed end before this process forks, for a moment at most."""
        if self._closed:
            return
        self._paused = not self.inline  # the loop's thread computes those, and would not look again
        end = time.monotonic() + _FORK_WAIT_S
        while self._running and time.monotonic() < end:
            time.sleep(_FORK_LOOK_S)

    def go_on(self) -> None:
        """After the fork, in the parent."""
        if self._paused:
            self._paused = False
            self._pool.wake()

    def forked(self) -> None:
        """In a forked child: closed, until it is asked. What the parent opened is neither used nor freed here."""
        forks.keep_for_good(self.__dict__.copy())
        self._inherited = self._inherited or not self._closed
        self._closed = True
        self._paused = False
        self._lock = threading.Lock()
        self._opening = threading.Lock()

    def _open_here(self) -> None:
        """Open in this process what its parent had open.

        Raises:
            ReleasedError: its engine cannot be opened in a forked child.
            ModelFileError: the model file is missing or unreadable by now.
            ProfileError: it is another model by now.
        """
        with self._opening:
            if not self._inherited:
                return
            name = self.profile.settings.engine.name
            if name not in OPEN_AFTER_FORK:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The server's way in.

    def start(  # noqa: PLR0913  a ticket is its parameters
        self,
        arrays: Arrays,
        rows: int,
        sink: ResponseHandler,
        home: Delivery,
        deadline_ns: int = 0,
        *,
        priority: int = 0,
    ) -> Ticket:
        """Queue checked arrays: through rows of the slab, as loose arrays, or in parts when over the largest batch.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        self.admit(rows, deadline_ns, priority)
        if rows > self.max_batch_size:
            return split_ticket(self, arrays, rows, sink, home, deadline_ns, priority)
        ticket = self.prepare(arrays, rows, sink, home, deadline_ns, priority)
        self.submit(ticket)
        return ticket

    def start_in_steps(  # noqa: PLR0913  as in start
        self,
        arrays: Arrays,
        rows: int,
        sink: ResponseHandler,
        home: Delivery,
        deadline_ns: int = 0,
        *,
        priority: int = 0,
    ) -> Generator[None, None, Ticket]:
        """As `start`, with a pause after every 256 KB that are copied into rows.

        Raises:
            QueueFullError: as in `start`.
        """
        if self.slab is None or sum(array.nbytes for array in arrays.values()) <= _STEP_BYTES:
            return self.start(arrays, rows, sink, home, deadline_ns, priority=priority)
        self.admit(rows, deadline_ns, priority)
        if rows > self.max_batch_size:
            return (yield from split_in_steps(self, arrays, rows, sink, home, deadline_ns, priority))
        ticket = yield from self.prepare_in_steps(arrays, rows, sink, home, deadline_ns, priority)
        try:
            self.submit(ticket)
        except ReleasedError:
            self.forget(ticket)
            raise
        return ticket

    def prepare_in_steps(  # noqa: PLR0913, PLR0917  as in start
        self, arrays: Arrays, rows: int, sink: ResponseHandler, home: Delivery, deadline_ns: int, priority: int
    ) -> Generator[None, None, Ticket]:
        """As `prepare`, with pauses.

        Raises:
            QueueFullError: no rows are free.
        """
        slab = self.slab
        if slab is None or sum(array.nbytes for array in arrays.values()) <= _STEP_BYTES:
            return self.prepare(arrays, rows, sink, home, deadline_ns, priority)
        ticket = Ticket(sink, home, rows, deadline_ns=deadline_ns, priority=priority)
        row = ticket.row = self.reserve(rows, apart=True)
        try:
            for target, source in zip(slab.inputs, arrays.values(), strict=True):
                to, of = (array.reshape(-1).view(np.uint8) for array in (target[row : row + rows], source))
                for at in range(0, of.size, _STEP_BYTES):
                    to[at : at + _STEP_BYTES] = of[at : at + _STEP_BYTES]
                    yield
        except BaseException:  # nobody waits for it any more
            self.forget(ticket)
            raise
        return ticket

    def prepare(  # noqa: PLR0913, PLR0917  as in start
        self, arrays: Arrays, rows: int, sink: ResponseHandler, home: Delivery, deadline_ns: int, priority: int
    ) -> Ticket:
        """A ticket with its inputs in place, ready to be submitted.

        Raises:
            QueueFullError: no rows are free.
            InvalidInputError: inputs that are padded differ in length.
        """
        ticket = Ticket(sink, home, rows, deadline_ns=deadline_ns, priority=priority)
        if self.slab is None:
            ticket.arrays = arrays
            if self._padding is None:
                ticket.key = row_key(self.spec, arrays)
            else:
                ticket.key, ticket.length = self._padding.place(arrays)
        else:
            row = ticket.row = self.reserve(rows)
            for target, source in zip(self.slab.inputs, arrays.values(), strict=True):
                target[row : row + rows] = source
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """A prepared ticket that will not be submitted."""
        if ticket.row >= 0:
            self.give_back(ticket.row, ticket.count)

    def kick(self, until_ns: int = 0) -> bool:
        """Have what is ready computed: here and now when inline, else by an idle worker.

        Args:
            until_ns: on the monotonic clock; parts of large requests that are inline and not begun by then wait for
                another call. 0: never.

        Returns:
            Whether something waits for another call.
        """
        if not self.inline:
            # A worker that computes looks again by itself; only an idle one must be told.
            if len(self._running) < self._instances and not (self._adaptive and self._compute_here()):
                self._pool.wake()
            return False
        while True:
            batch = self.next_batch()
            if not isinstance(batch, Batch):
                return False
            self.compute(batch, self._inline_executor)
            if until_ns and self._rest_rows and time.monotonic_ns() > until_ns:
                return True

    def compute_now(self, ticket: Ticket, lent: int) -> bool:
        """Compute what came into the first of the rows lent on this thread, past the queue; False: it is to be settled.

        For tickets whose home is this thread's loop. What every request must go through in a queue takes longer than
        a small model's engine call.
        """
        if not self.inline and not (self._adaptive and self._is_soon_done(ticket.count)):
            return False
        batch = self.form_alone(ticket, lent)
        if batch is None:
            return False
        self.compute_alone(batch, self._inline_executor)
        if self._queue.rows:
            self.kick()
        return True

    def _is_soon_done(self, rows: int) -> bool:
        """Whether so many rows are computed on the thread that kicks, which spares two threads' wake-ups.

        Not while batches are large: many are being served then, and receiving from them goes on beside a worker.
        """
        return self._usual_rows <= _FEW and self.cost.estimate_ns(min(rows, self.max_batch_size)) <= _HERE_NS

    def _compute_here(self) -> bool:
        """Compute on this thread what is soon done; whether nothing is left.

        That is one batch; where each request is one, as many as the same time holds.
        """
        end = 0 if self.spec.batched else time.monotonic_ns() + _HERE_NS
        while self._is_soon_done(self._queue.rows):
            batch = self.next_batch()
            if not isinstance(batch, Batch):
                return False
            self.compute(batch, self._inline_executor)
            if not self._queue.rows:
                return True
            if time.monotonic_ns() >= end:
                return False
        return False

    def _executor(self, engine: Engine) -> Executor:
        if self._padding is not None:
            return PaddedExecutor(engine, self._padding, self.max_batch_size)
        return ArrayExecutor(engine) if self.slab is None else RowExecutor(engine, self.slab)

    def _warm_up_steps(self) -> list[Step]:
        if self._padding is None:
            return [Step(rows, (self.cost,), self.slab) for rows in self.cost.sizes]
        steps: list[Step] = []
        buckets = self._padding.buckets
        for bucket in buckets:
            costs = [self.forecast.costs[bucket]]
            if bucket == buckets[len(buckets) // 2]:
                costs.append(self.cost)  # what a row costs before its length is known
            steps += [Step(rows, tuple(costs), None, bucket, bucket) for rows in self.cost.sizes]
        return steps

    def _reopen(self) -> Engine:
        if self._other_engine is not None:
            return self._other_engine()
        self.profile.verify_model()
        engine = open_engine(self.profile.engine_file, self.profile.settings.engine, self.profile.model.name)
        engine.spec = self.spec  # what was decided of its rows holds for every engine of the model
        return engine

    def _home_of(self, loop: asyncio.AbstractEventLoop) -> LoopDelivery:
        home = self._homes.get(loop)
        if home is None:
            for closed in [known for known in self._homes if known.is_closed()]:
                del self._homes[closed]
            home = self._homes[loop] = LoopDelivery(loop)
        return home

    def _deadline(self, timeout_s: float | None) -> int:
        return 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)


_ANY_THREAD = AnyThreadDelivery()


def _known_samples(profile: Profile, spec: ModelSpec) -> Samples | None:
    """The most frequent kind of request in the data that the profile was tuned with; None where it does not say."""
    try:
        return profile.samples[0].of(spec) if profile.samples else None
    except ProfileError:  # warm-up says so
        return None


def open_profile(path: Path) -> Profile:
    """The profile in a .toml file, its model checked against its hash; or the defaults for a bare model file.

    Raises:
        ProfileError: the profile is corrupt, of a later schema, or for another model.
        ModelFileError: the model file is missing or empty.
    """
    if is_profile(path):
        profile = Profile.load(path)
        profile.verify_model(path.name)
        return profile
    return Profile.of_model(path, SAFE_SETTINGS)


def is_profile(path: Path) -> bool:
    """Whether a file is taken for a profile; any other is taken for a bare model."""
    return path.suffix == ".toml"


def is_bare(source: str) -> bool:
    """Whether a source is a model without a profile, whose settings are chosen by measuring."""
    return not is_profile(Path(source)) and not is_pipeline(source)


def is_pipeline(source: str) -> bool:
    """Whether a source names a pipeline: a Python file and a variable in it, as in `embed.py:pipeline`."""
    file, colon, _ = source.rpartition(":")
    return file.endswith(".py") or (not colon and source.endswith(".py"))
