"""A model's workers and the engines under them: who is woken, and who takes over when an engine does not come back.

A call that hangs cannot be taken off its thread. The worker is retired instead: it ends by itself as soon as its engine
returns, and until then a new worker with an engine of its own serves on. Engines that can be told to give up are told
to (onnxruntime ends at its next node). How many may hang at a time is bounded, because each holds a model's memory.
"""

import logging
import threading
from collections.abc import Callable

from tailcut.engines.base import Engine, Interruptible
from tailcut.errors import TailcutError
from tailcut.runtime.batch import Batch, Executor
from tailcut.runtime.worker import Source, Worker

_log = logging.getLogger("tailcut")
_MOST_HUNG = 4
_PATIENCE_S = 2.0  # with a worker at the end, before its engine is told to give up, and once more after that


class WorkerPool:
    """The workers of one model; none for a model that computes inline.

    Args:
        source: the model.
        engine: shared by all workers until one of them has to be replaced.
        reopen: loads another engine of the same settings.
        make: an executor on an engine.
    """

    def __init__(
        self, source: Source, engine: Engine, reopen: Callable[[], Engine], make: Callable[[Engine], Executor]
    ) -> None:
        self._source = source
        self._first = engine
        self._reopen = reopen
        self._make = make
        self._lock = threading.Lock()
        self._workers: dict[Worker, Engine] = {}
        self._hung: dict[Worker, Engine] = {}
        self._back: set[Batch] = set()  # given up, and returned before their worker was replaced
        self._hired = 0
        self._wanted = 0
        self._coming = 0  # their engine is being loaded
        self._closed = False

    def hire(self, executor: Executor) -> None:
        """One worker more, from the start."""
        self._wanted += 1
        self._add(executor, self._first)

    @property
    def size(self) -> int:
        """How many workers there are, those that hang not counted."""
        with self._lock:
            return len(self._workers)

    def wake(self) -> None:
        """Have every worker look for a batch."""
        for worker in tuple(self._workers):
            worker.wake()

    def replace(self, batch: Batch) -> None:
        """Put a new worker with a new engine in the place of the one whose call hangs on a batch."""
        thread = batch.thread
        with self._lock:
            if batch in self._back:
                self._back.remove(batch)
                return
            worker = next((one for one in self._workers if one.thread == thread), None)
            if worker is None:  # inline: there is only the caller's own thread
                _interrupt(self._first, thread)
                return
            engine = self._workers.pop(worker)
            self._hung[worker] = engine
            worker.retire()
        _interrupt(engine, thread)
        if len(self._hung) > _MOST_HUNG:
            _log.error("%s: %d calls hang: no new engine until one returns", worker.name, len(self._hung))
        else:
            self._refill(engine)

    def returned(self, batch: Batch) -> None:
        """On the worker's own thread: the engine has come back with a batch that was given up."""
        if not self._wanted:
            return
        with self._lock:
            worker = next((one for one in self._hung if one.thread == batch.thread), None)
            if worker is None:  # before it could be replaced: it works on
                self._back.add(batch)
                return
            engine = self._hung.pop(worker)
            unused = engine not in (*self._workers.values(), *self._hung.values(), self._first)
        _log.warning("%s: an engine call that was given up has returned", worker.name)
        if unused:
            engine.close()
        self._refill(self._first)

    def close(self) -> None:
        """End all workers after the batch in their hands, and free the engines that nobody is lost in."""
        with self._lock:
            self._closed = True
            workers, self._workers = self._workers | self._hung, {}
        for worker in workers:
            worker.retire()
        for worker, engine in workers.items():
            if not worker.ended(_PATIENCE_S):
                _interrupt(engine, worker.thread)
        lost = [engine for worker, engine in workers.items() if not worker.ended(_PATIENCE_S)]
        for engine in {id(one): one for one in (self._first, *workers.values())}.values():
            if engine not in lost:
                engine.close()

    def _refill(self, old: Engine) -> None:
        """Bring the crew back to strength; on the old engine where a new one cannot be had."""
        with self._lock:
            if self._closed or len(self._workers) + self._coming >= self._wanted:
                return
            self._coming += 1
        try:
            engine = self._reopen()
        except TailcutError as error:
            _log.error("no new engine: %s; going on with the old one", error)
            engine = old
        self._add(self._make(engine), engine, coming=1)

    def _add(self, executor: Executor, engine: Engine, *, coming: int = 0) -> None:
        with self._lock:
            self._coming -= coming
            if self._closed:
                return
            self._hired += 1
            worker = Worker(self._source, executor, f"{engine.spec.name}-{self._hired - 1}")
            self._workers[worker] = engine
        worker.wake()


def _interrupt(engine: Engine, thread: int) -> None:
    if isinstance(engine, Interruptible):
        engine.interrupt(thread)
