"""The processes of one stage: lent to worker threads, and replaced when they end.

One thread starts and supervises them all: the kernel kills a process when the *thread* that started it ends (prctl(2),
PR_SET_PDEATHSIG), so that thread has to live as long as the pool.
"""

import logging
import queue
import threading
import time

from tailcut.errors import EngineError, TailcutError
from tailcut.pipelines.life import backoff_s
from tailcut.pipelines.process import StageProcess, StageSource

_log = logging.getLogger("tailcut")
_START_S = 120.0  # for a process to import the stage's file
_CHECK_S = 0.5  # how often to check whether idle processes are alive
_LENT_S = 30.0  # how long a call waits for a process, at most


class ProcessPool:
    """The processes of a stage.

    Raises:
        UsageError: one of the first processes cannot import the stage.
    """

    def __init__(self, source: StageSource) -> None:
        self._source = source
        self._name = source.stage.name
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._idle: list[StageProcess] = []
        self._all: list[StageProcess | None] = [None] * source.stage.workers
        self._lent: set[StageProcess] = set()  # the thread that uses such a process notices its end
        self._fault = ""  # why the last start failed
        self._failures = 0
        self._closed = False
        self.restarts = 0
        self._starting: StageProcess | None = None
        self._begun = False  # whether all processes were ready once
        self._first: queue.SimpleQueue[TailcutError | None] = queue.SimpleQueue()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"{self._name}-processes", daemon=True)
        self._thread.start()
        error = self._first.get()
        if error is not None:
            self.close()
            raise error

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that are alive."""
        with self._lock:
            return [process.pid for process in self._all if process is not None and process.is_alive]

    def close(self) -> None:
        """Kill all processes. Calling it again does nothing."""
        with self._lock:
            self._closed = True
            if self._starting is not None:
                self._starting.interrupt()
            self._condition.notify_all()
        self._wanted.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def take(self) -> StageProcess:
        """Take a process for one call; the caller must give it back.

        Raises:
            EngineError: the pool was closed, or no process is available in time.
        """
        end = time.monotonic() + _LENT_S
        with self._lock:
            while True:
                while self._idle:
                    process = self._idle.pop()
                    if not process.has_ended:  # whether it is still alive, the call finds out
                        self._lent.add(process)
                        return process
                    self._wanted.set()
                if self._closed:
                    raise EngineError(f"stage {self._name!r} was closed")
                if self._fault:
                    raise EngineError(f"stage {self._name!r} has no process: its last start failed")
                left_s = end - time.monotonic()
                if left_s <= 0 or not self._condition.wait(left_s):
                    raise EngineError(f"stage {self._name!r} has no process: none was ready within {_LENT_S:g} s")

    def give_back(self, process: StageProcess) -> None:
        """Give a process back after the call."""
        with self._lock:
            self._lent.discard(process)
            if not process.has_ended:
                self._idle.append(process)
                self._condition.notify()
                return
        self._wanted.set()

    def _supervise(self) -> None:
        try:
            while not self._closed:
                self._wanted.clear()
                started = [self._start(index, process) for index, process in self._missing()]
                if all(started) and not self._begun:
                    self._begun = True
                    self._first.put(None)
                self._wanted.wait(backoff_s(self._failures) or _CHECK_S)
        finally:
            for process in self._all:
                if process is not None:
                    process.kill()

    def _missing(self) -> list[tuple[int, StageProcess | None]]:
        """The slots without a live process, except those whose process is lent: its call notices the end first."""
        with self._lock:
            slots = [(index, process) for index, process in enumerate(self._all) if process not in self._lent]
        return [(index, process) for index, process in slots if process is None or not process.is_alive]

    def _start(self, index: int, old: StageProcess | None) -> bool:
        """Start a new process in a slot; returns whether it is ready."""
        if self._closed:
            return False
        cpus = self._source.stage.cpus
        try:
            if old is not None:
                self._end(old)
            process = self._starting = StageProcess(self._source, cpus[index % len(cpus)] if cpus else None)
            self._end_if_closed(process)
            process.wait_ready(_START_S)
        except Exception as error:  # noqa: BLE001  for lack of threads, memory or descriptors; it is retried
            if self._starting is not None:
                self._starting.kill()
            self._failed(error)
            return False
        finally:
            with self._lock:
                self._starting = None
        if old is not None and self._source.has_changed:
            _log.warning("stage %r: its file has changed: the new process runs the new version", self._name)
        with self._lock:
            self.restarts += old is not None
            self._fault, self._failures = "", 0
            self._all[index] = process
            self._idle.append(process)
            self._condition.notify()
        return True

    def _end(self, old: StageProcess) -> None:
        old.kill()
        _log.warning("stage %r: process %d has exited: starting another", self._name, old.pid)

    def _end_if_closed(self, process: StageProcess) -> None:
        """End a process that was started while the pool was being closed."""
        if self._closed:
            process.interrupt()

    def _failed(self, error: Exception) -> None:
        if self._closed:
            return
        text = f"stage {self._name!r}: its process could not be started: {type(error).__name__}: {error}"
        fault = error if isinstance(error, TailcutError) else EngineError(text)
        if not self._begun:
            self._first.put(fault)
        else:
            _log.error("%s", fault)
        with self._lock:
            self._failures += 1
            self._fault = "" if any(process is not None and process.is_alive for process in self._all) else str(fault)
            self._condition.notify_all()
