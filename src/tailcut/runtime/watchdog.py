"""Looks after a model at a slow beat: an engine that does not come back is given up, and what expired is told so.

A thread of its own, because everybody else may be stuck: a worker in its engine, an inline model in the loop.
"""

import threading
from typing import Protocol

_BEATS = 8  # in the time after which a call counts as hung
_SLOWEST_S = 1.0


class Patient(Protocol):
    """What is looked after: the model."""

    def look_after(self) -> None:
        """Give up what hangs, drop what is late."""


class Watchdog:
    """Calls `patient.look_after()` eight times in `engine_timeout_s`, at least once a second, until it is stopped."""

    def __init__(self, patient: Patient, engine_timeout_s: float, name: str) -> None:
        self._patient = patient
        self._beat_s = min(engine_timeout_s / _BEATS, _SLOWEST_S)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"{name}-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; when this returns, it looks no more."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._beat_s):
            self._patient.look_after()
