"""Work that would hold the event loop for too long, run on it a millisecond at a time.

A generator that pauses after every small step is a job. All jobs of a loop take turns, and between two turns the loop
does everything else that is due. Threads would not do: what reads JSON holds the interpreter's lock all the while.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

TURN_NS = 1_000_000  # for jobs, or for what one client has pipelined, before the loop looks at everybody else
_now_ns = time.monotonic_ns


class Job:
    """A generator on its way; `done` is told its result, or what it raised."""

    __slots__ = ("cancelled", "done", "steps")

    def __init__(self, steps: Generator[None, None, Any], done: Callable[[Any, Exception | None], None]) -> None:
        self.steps = steps
        self.done = done
        self.cancelled = False

    def cancel(self) -> None:
        """Give it up, with whatever it holds; nobody is told."""
        self.cancelled = True
        self.steps.close()


class StepRunner:
    """The jobs of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: deque[Job] = deque()
        self._due = False

    def start(self, steps: Generator[None, None, Any], done: Callable[[Any, Exception | None], None]) -> Job:
        """Run a generator from the loop's next pass on."""
        job = Job(steps, done)
        self._jobs.append(job)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)
        return job

    def _turn(self) -> None:
        end_ns = _now_ns() + TURN_NS
        while self._jobs:
            job = self._jobs.popleft()
            if not job.cancelled:
                self._step(job)
            if _now_ns() >= end_ns:
                break
        self._due = bool(self._jobs)
        if self._due:
            self._loop.call_soon(self._turn)

    def _step(self, job: Job) -> None:
        try:
            next(job.steps)
        except StopIteration as end:
            job.done(end.value, None)
        except Exception as error:  # noqa: BLE001  the caller of the job decides what it means
            job.done(None, error)
        else:
            self._jobs.append(job)
