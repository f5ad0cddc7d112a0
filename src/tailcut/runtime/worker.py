"""The only threads of the runtime: each computes batches of one model until it is told to stop.

A worker parks on a lock, which costs one futex call to wake; it takes the next batch by itself as long as there is one,
so under load nobody is woken at all.
"""

import threading
from typing import Protocol

from tailcut.batching.policy import Wait
from tailcut.runtime.batch import Batch, Executor


class Source(Protocol):
    """Where a worker's batches come from: the model."""

    def next_batch(self) -> Batch | Wait | None:
        """What to compute now, how long to hold back, or None when nothing is ready."""

    def now_ns(self) -> int:
        """Monotonic time."""

    def compute(self, batch: Batch, executor: Executor) -> None:
        """Run the batch and post its answers home."""


class Worker:
    """One thread with an executor of its own."""

    def __init__(self, source: Source, executor: Executor, name: str) -> None:
        self.name = name
        self._source = source
        self._executor = executor
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
        """The thread's identity, as `threading.get_ident` has it there."""
        return self._thread.ident or 0

    def retire(self) -> None:
        """End after the batch in its hands, whenever that is."""
        self._stopped = True
        self.wake()

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end of a retired worker; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stopped:
            batch = self._source.next_batch()
            if isinstance(batch, Batch):
                self._source.compute(batch, self._executor)
            elif batch is None:
                self._sleep(-1)
            else:
                self._sleep(max(0.0, (batch.until_ns - self._source.now_ns()) / 1e9))

    def _sleep(self, timeout_s: float) -> None:
        if self._bell.acquire(timeout=timeout_s):
            with self._state:
                self._rung = False
