"""A model's workers with their engines, and the watchdog, which replaces a worker whose engine hangs.

An idle worker waits on a lock, and waking it costs one futex call; it takes the next batch by itself as long as there
is one, so under load no worker has to be woken at all.

A call that hangs cannot be removed from its thread. The worker is retired instead: it ends when its engine returns, and
until then a new worker with an engine of its own takes over. Engines that can be interrupted are (onnxruntime stops at
its next node). How many calls may hang at a time is limited, because each holds a model's memory.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from tailcut.engines.base import Engine, Interruptible
from tailcut.errors import TailcutError
from tailcut.machine.nodes import NumaNode, made_on, settle
from tailcut.runtime.request import Batch, Executor
from tailcut.runtime.scheduler import Scheduler

_log = logging.getLogger("tailcut")
_MOST_HUNG = 4
_PATIENCE_S = 2.0  # for a worker to end on closing, before its engine is interrupted, and again after that
_LOOKS = 8  # of the watchdog, within the engine's timeout
_SLOWEST_LOOK_S = 1.0


class EngineWorker:
    """One thread with an executor of its own; `returned` is called with batches that had been given up."""

    def __init__(  # noqa: PLR0913  everything that the thread needs
        self,
        scheduler: Scheduler,
        executor: Executor,
        returned: Callable[[Batch], None],
        name: str,
        engine_index: int = 0,
        *,
        node: NumaNode | None = None,
    ) -> None:
        self.name = name
        self.node = node  # the NUMA node that it is bound to
        self._engine_index = engine_index
        self._scheduler = scheduler
        self._executor = executor
        self._returned = returned
        self._bell = threading.Lock()
        self._bell.acquire()
        self._state = threading.Lock()
        self._rung = False
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the worker look for a batch; waking one that is awake already costs nothing."""
        with self._state:
            if not self._rung:
                self._rung = True
                self._bell.release()

    @property
    def thread(self) -> int:
        """The thread's identity, as of `threading.get_ident`."""
        return self._thread.ident or 0

    def retire(self) -> None:
        """Have the thread end after its current batch."""
        self._stopped = True
        self.wake()

    def ended(self, timeout_s: float) -> bool:
        """Wait for a retired worker to end; returns whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        settle(self.node)
        scheduler, executor = self._scheduler, self._executor
        while not self._stopped:
            batch = scheduler.next_batch(time.monotonic_ns(), engine_index=self._engine_index)
            if isinstance(batch, Batch):
                executor.run(batch)
                if not scheduler.finish(batch):
                    self._returned(batch)
            elif batch is None:
                self._sleep(-1)
            else:
                self._sleep(max(0.0, (batch.until_ns - time.monotonic_ns()) / 1e9))

    def _sleep(self, timeout_s: float) -> None:
        if self._bell.acquire(timeout=timeout_s):
            with self._state:
                self._rung = False


class WorkerPool:
    """The workers of one engine of a model; there are none where the loop's thread computes.

    Args:
        scheduler: of the model.
        engine: for all workers that are hired without one of their own, until one has to be replaced.
        reopen: loads another engine with the same settings.
        make: makes an executor for an engine.
        engine_index: the index of the engine, where the model has several.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Engine,
        reopen: Callable[[], Engine],
        make: Callable[[Engine], Executor],
        engine_index: int = 0,
    ) -> None:
        self._scheduler = scheduler
        self._engine_index = engine_index
        self._first = engine
        self._reopen = reopen
        self._make = make
        self._lock = threading.Lock()
        self._workers: dict[EngineWorker, Engine] = {}
        self._hung: dict[EngineWorker, Engine] = {}
        self._back: set[Batch] = set()  # batches given up whose call returned before their worker was replaced
        self._hired = 0
        self._wanted = 0
        self._coming = 0  # workers whose engine is being loaded
        self._closed = False

    def hire(self, executor: Executor, engine: Engine | None = None, node: NumaNode | None = None) -> None:
        """Start one more worker, with an engine of its own, and bound to a NUMA node, where these are given."""
        self._wanted += 1
        self._add(executor, engine or self._first, node)

    @property
    def size(self) -> int:
        """The number of workers, without those that hang."""
        with self._lock:
            return len(self._workers)

    def wake(self) -> None:
        """Have every worker look for a batch."""
        for worker in tuple(self._workers):
            worker.wake()

    def replace(self, batch: Batch) -> None:
        """Replace the worker whose call hangs on a batch with a new one that has a new engine."""
        silence = self._scheduler.silence
        _log.error("%s: %s (rows: %d): replacing its worker", self._first.spec.name, silence, batch.rows)
        thread = batch.thread
        with self._lock:
            if batch in self._back:
                self._back.remove(batch)
                return
            worker = next((worker for worker in self._workers if worker.thread == thread), None)
            if worker is None:  # computed on the caller's own thread
                _interrupt(self._first, thread)
                for idle in self._workers:
                    idle.wake()  # the caller's thread may not look again
                return
            engine = self._workers.pop(worker)
            self._hung[worker] = engine
            worker.retire()
        _interrupt(engine, thread)
        if len(self._hung) > _MOST_HUNG:
            _log.error("%s: %d calls hang: no new worker until one returns", worker.name, len(self._hung))
        else:
            self._refill(engine, worker.node)

    def returned(self, batch: Batch) -> None:
        """Handle a batch that was given up and whose call has returned. Called on the worker's thread."""
        with self._lock:
            worker = next((hung for hung in self._hung if hung.thread == batch.thread), None)
            if worker is None:  # it was not replaced yet: it keeps working
                self._back.add(batch)
                return
            engine = self._hung.pop(worker)
            unused = engine not in (*self._workers.values(), *self._hung.values(), self._first)
        _log.warning("%s: an abandoned call has returned", worker.name)
        if unused:
            engine.close()
        self._refill(self._first, worker.node)

    def close(self) -> None:
        """End all workers after their current batches, and free the engines in which no call hangs."""
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers | self._hung, {}
        for worker in workers:
            worker.retire()
        for worker, engine in workers.items():
            if not worker.ended(_PATIENCE_S):
                _interrupt(engine, worker.thread)
        lost = [engine for worker, engine in workers.items() if not worker.ended(_PATIENCE_S)]
        for engine in {id(engine): engine for engine in (self._first, *workers.values())}.values():
            if engine not in lost:
                engine.close()

    def _refill(self, old: Engine, node: NumaNode | None) -> None:
        """Bring the pool back to its size, with the old engine where a new one cannot be opened."""
        with self._lock:
            if self._closed or len(self._workers) + self._coming >= self._wanted:
                return
            self._coming += 1
        try:
            engine = made_on(node, self._reopen)
        except TailcutError as error:
            _log.error("could not open a new engine: %s; continuing with the old one", error)
            engine = old
        self._add(self._make(engine), engine, node, coming=1)

    def _add(self, executor: Executor, engine: Engine, node: NumaNode | None, *, coming: int = 0) -> None:
        with self._lock:
            self._coming -= coming
            if self._closed:
                return
            self._hired += 1
            number = f"{self._hired - 1}" if not self._engine_index else f"second-{self._hired - 1}"
            name = f"{engine.spec.name}-{number}"
            worker = EngineWorker(self._scheduler, executor, self.returned, name, self._engine_index, node=node)
            self._workers[worker] = engine
        worker.wake()


class Watchdog:
    """Gives up engine calls that hang, and fails requests that have waited too long.

    It checks eight times within the engine's timeout, and at least once a second.

    A thread of its own, because all others may be stuck: a worker in its engine, an inline model in the loop.
    """

    def __init__(self, scheduler: Scheduler, pools: Sequence[WorkerPool]) -> None:
        self._scheduler = scheduler
        self._pools = pools  # one for each engine
        self._pause_s = min(scheduler.engine_timeout_s / _LOOKS, _SLOWEST_LOOK_S)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"{scheduler.spec.name}-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._pause_s):
            for batch in self._scheduler.expire():
                self._pools[batch.engine_index].replace(batch)


def _interrupt(engine: Engine, thread: int) -> None:
    if isinstance(engine, Interruptible):
        engine.interrupt(thread)
