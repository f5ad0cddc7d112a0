"""Runs work that would block the event loop for too long on the loop itself, a little at a time.

One pass of the loop receives from many connections, and what each needs is short only by itself. So their time is
limited in total: messages are processed at once while `has_time` is true, and the rest goes to the end of a queue that
has a millisecond of each pass. A job in that queue is a generator that pauses after every small step. Threads would not
help: parsing JSON holds the interpreter's lock all the time.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

AT_ONCE_NS = 2_500_000  # of a pass, for what its connections receive
TURN_NS = 1_000_000  # of a pass, for the queue
SLICE_NS = 100_000  # for one entry of the queue, before the next one
LITTLE_BYTES = 2048  # a message of this size is read in less than a millisecond, whatever it contains
_log = logging.getLogger("tailcut")
_now_ns = time.monotonic_ns


class Job:
    """A generator in progress; `done` is called with its result, or with the exception that it raised."""

    __slots__ = ("cancelled", "done", "steps")

    def __init__(self, steps: Generator[None, None, Any], done: Callable[[Any, Exception | None], None]) -> None:
        self.steps = steps
        self.done = done
        self.cancelled = False

    def cancel(self) -> None:
        """Close the generator; `done` is not called."""
        self.cancelled = True
        self.steps.close()


class StepRunner:
    """Divides the time of one loop, and has the queue of what waits for more of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._new: deque[Callable[[], None]] = deque()  # those that have not had a slice yet
        self._begun: deque[Callable[[], None]] = deque()
        self._new_is_next = True
        self._end_ns = 0  # when the time of this pass ends; 0: nothing has run in it
        self._due = False
        self.is_over = False  # whether the time of this pass is used up, as the last `has_time` found
        self.now_ns = 0  # the time of the last `has_time`, on the monotonic clock

    def has_time(self) -> bool:
        """Whether the caller may go on for a moment (under a millisecond) before it asks again or calls `later`."""
        self.now_ns = now_ns = _now_ns()
        if not self._end_ns:
            self._end_ns = now_ns + AT_ONCE_NS
            self._be_due()
            return True
        if now_ns < self._end_ns:
            return True
        self.is_over = True
        return False

    def later(self, go_on: Callable[[], None], *, begun: bool = False) -> None:
        """Call `go_on` when its turn has come, with a slice of time.

        Work that has `begun` before, and so needs more than a slice, waits behind other such work: a request that needs
        little time is soon served, however much of that there is.
        """
        (self._begun if begun else self._new).append(go_on)
        self._be_due()

    def start(
        self, steps: Generator[None, None, Any], done: Callable[[Any, Exception | None], None], *, begun: bool = True
    ) -> Job:
        """Run a generator from the loop's next pass on; pass `begun=False` where it needs little time (see `later`)."""
        job = Job(steps, done)
        self.later(lambda: self._step(job), begun=begun)
        return job

    def _be_due(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        now_ns = _now_ns()
        end_ns = now_ns + TURN_NS
        while now_ns < end_ns and (self._new or self._begun):
            self._end_ns = now_ns + SLICE_NS
            queue = self._new if self._new and (self._new_is_next or not self._begun) else self._begun
            self._new_is_next = queue is self._begun
            try:
                queue.popleft()()
            except Exception:  # noqa: BLE001  it must affect only itself
                _log.exception("a callback of the step runner failed")
            now_ns = _now_ns()
        self._end_ns, self.is_over = 0, False
        if self._new or self._begun:
            self._be_due()

    def _step(self, job: Job) -> None:
        if job.cancelled:
            return
        try:
            next(job.steps)
        except StopIteration as end:
            job.done(end.value, None)
        except Exception as error:  # noqa: BLE001  the caller of the job handles it
            job.done(None, error)
        else:
            self._begun.append(lambda: self._step(job))
