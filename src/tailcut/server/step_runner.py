"""Work that would hold the event loop for too long: run on it a little at a time, all clients together.

One pass of the loop hears many connections, and each could take a moment that is short only by itself. So the moments
are counted together: what a connection brings is done at once while `has_time`, and what is left goes to the end of a
queue that has a millisecond of each pass. A generator that pauses after every small step is a job there. Threads would
not do: what reads JSON holds the interpreter's lock all the while.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

AT_ONCE_NS = 2_500_000  # of a pass, for what its connections bring
TURN_NS = 1_000_000  # of a pass, for the queue
SLICE_NS = 100_000  # for one entry of the queue, before the next one
LITTLE_BYTES = 2048  # of a message: it is read in less than a millisecond, whatever it is
_log = logging.getLogger("tailcut")
_now_ns = time.monotonic_ns


class Job:
    """A generator on its way; `done` is told its result, or what it raised."""

    __slots__ = ("cancelled", "done", "steps")

    def __init__(self, steps: Generator[None, None, Any], done: Callable[[Any, Exception | None], None]) -> None:
        self.steps = steps
        self.done = done
        self.cancelled = False

    def cancel(self) -> None:
        """Give it up, with whatever it holds; nothing is called."""
        self.cancelled = True
        self.steps.close()


class StepRunner:
    """The time of one loop, and the queue of what has to wait for more of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._new: deque[Callable[[], None]] = deque()  # before they have had a slice
        self._begun: deque[Callable[[], None]] = deque()
        self._new_is_next = True
        self._end_ns = 0  # of what runs now; 0: nothing has run in this pass
        self._due = False
        self.is_over = False  # the time of this pass, as a caller was told
        self.now_ns = 0  # when a caller asked last, on the monotonic clock

    def has_time(self) -> bool:
        """Whether the caller may do a little more now: less than a millisecond, then it asks again or calls `later`."""
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
        """Call it when its turn has come, with a slice of time.

        What has `begun` before, and wants more than a slice, waits behind others of its kind: a request that wants
        little is soon served beside any number of those.
        """
        (self._begun if begun else self._new).append(go_on)
        self._be_due()

    def start(
        self, steps: Generator[None, None, Any], done: Callable[[Any, Exception | None], None], *, begun: bool = True
    ) -> Job:
        """Run a generator from the loop's next pass on; as in `later`, where it wants little, it has not `begun`."""
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
            except Exception:  # noqa: BLE001  it must cost itself only
                _log.exception("a piece of work failed")
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
        except Exception as error:  # noqa: BLE001  the caller of the job decides what it means
            job.done(None, error)
        else:
            self._begun.append(lambda: self._step(job))
