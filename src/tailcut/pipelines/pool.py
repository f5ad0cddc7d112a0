"""The processes of one stage: lent to worker threads, and replaced when they end.

One thread starts them all and looks after them: the kernel ends a process whose parent's *thread* is gone
(prctl(2), PR_SET_PDEATHSIG), so they are started by one that lives as long as the pool.
"""

import logging
import queue
import threading
import time

from tailcut.errors import EngineError, TailcutError
from tailcut.pipelines.life import backoff_s
from tailcut.pipelines.process import StagePlace, StageProcess

_log = logging.getLogger("tailcut")
_START_S = 120.0  # to import the stage's file
_BEAT_S = 0.5  # between two looks at idle processes
_LENT_S = 30.0  # to wait for a process at most


class ProcessPool:
    """The processes of a stage.

    Raises:
        UsageError: one of the first processes cannot import the stage.
    """

    def __init__(self, stage_place: StagePlace) -> None:
        self._place = stage_place
        self._name = stage_place.stage.name
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._idle: list[StageProcess] = []
        self._all: list[StageProcess | None] = [None] * stage_place.stage.workers
        self._lent: set[StageProcess] = set()  # whose end is seen by the thread that has them
        self._fault = ""  # why the last start failed
        self._failures = 0
        self._closed = False
        self.restarts = 0
        self._starting: StageProcess | None = None
        self._begun = False  # all processes have been there
        self._first: queue.SimpleQueue[TailcutError | None] = queue.SimpleQueue()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name=f"{self._name}-processes", daemon=True)
        self._thread.start()
        error = self._first.get()
        if error is not None:
            self.close()
            raise error

    @property
    def pids(self) -> list[int]:
        """The processes that are alive."""
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
        """A process for one call, which is then to be given back.

        Raises:
            EngineError: none is to be had.
        """
        end = time.monotonic() + _LENT_S
        with self._lock:
            while True:
                while self._idle:
                    process = self._idle.pop()
                    if not process.has_ended:  # whether it lives is found by calling it
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
        """After the call."""
        with self._lock:
            self._lent.discard(process)
            if not process.has_ended:
                self._idle.append(process)
                self._condition.notify()
                return
        self._wanted.set()

    def _look_after(self) -> None:
        try:
            while not self._closed:
                self._wanted.clear()
                started = [self._start(index, process) for index, process in self._missing()]
                if all(started) and not self._begun:
                    self._begun = True
                    self._first.put(None)
                self._wanted.wait(backoff_s(self._failures) or _BEAT_S)
        finally:
            for process in self._all:
                if process is not None:
                    process.kill()

    def _missing(self) -> list[tuple[int, StageProcess | None]]:
        """The places without a process that is alive; the call of one that has died is first given back."""
        with self._lock:
            places = [(index, process) for index, process in enumerate(self._all) if process not in self._lent]
        return [(index, process) for index, process in places if process is None or not process.is_alive]

    def _start(self, index: int, old: StageProcess | None) -> bool:
        """Put a new process in a place; whether it is ready."""
        if self._closed:
            return False
        cpus = self._place.stage.cpus
        try:
            if old is not None:
                self._end(old)
            process = self._starting = StageProcess(self._place, cpus[index % len(cpus)] if cpus else None)
            self._end_if_closed(process)
            process.wait_ready(_START_S)
        except Exception as error:  # noqa: BLE001  without threads, memory or descriptors; it is tried again
            if self._starting is not None:
                self._starting.kill()
            self._failed(error)
            return False
        finally:
            with self._lock:
                self._starting = None
        with self._lock:
            self.restarts += old is not None
            self._fault, self._failures = "", 0
            self._all[index] = process
            self._idle.append(process)
            self._condition.notify()
        return True

    def _end(self, old: StageProcess) -> None:
        old.kill()
        _log.warning("stage %r: process %d has ended: starting another", self._name, old.pid)
        if self._place.has_changed:
            _log.warning("stage %r: its file has changed: the new process runs it as it is now", self._name)

    def _end_if_closed(self, process: StageProcess) -> None:
        """End a process of which `close` did not know yet."""
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
