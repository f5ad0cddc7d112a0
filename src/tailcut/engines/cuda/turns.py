"""What may go on beside each other in a process with a CUDA device: launches, captures, and PyTorch's switch. Pure.

While a graph is captured, CUDA allows neither a launch on the stream that is captured nor waiting for the whole device:
either one fails and spoils the capture ("CUDA Graphs", Programming Guide). PyTorch has one capture per process besides
(`torch.cuda.graph`). Compiling waits for the device at moments of its own, and takes minutes; so a capture is left to a
later batch meanwhile, instead of having everything wait for it.

Where both are held, the switch is taken first.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CaptureGate:
    """Launches and warm-ups run beside each other, a capture runs alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._launching = self._warming = self._waiting = 0
        self._capturing = False

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Give the device steps, or wait for it; after a capture that goes on or waits."""
        with self._changed:
            self._changed.wait_for(self._is_open)
            self._launching += 1
        try:
            yield
        finally:
            with self._changed:
                self._launching -= 1
                self._changed.notify_all()

    @contextmanager
    def warming(self) -> Iterator[None]:
        """Compute what is captured later, and compile it, for as long as that takes."""
        with self._changed:
            self._changed.wait_for(self._is_open)
            self._warming += 1
        try:
            yield
        finally:
            with self._changed:
                self._warming -= 1
                self._changed.notify_all()

    @contextmanager
    def capturing(self) -> Iterator[bool]:
        """Capture alone, after the launches that go on; yields False, at once, where something is warmed up."""
        with self._changed:
            alone = not self._warming
            if alone:
                self._waiting += 1
                try:
                    self._changed.wait_for(lambda: not self._capturing and not self._launching)
                finally:
                    self._waiting -= 1
                self._capturing = True
        try:
            yield alone
        finally:
            if alone:
                with self._changed:
                    self._capturing = False
                    self._changed.notify_all()

    @property
    def is_warming(self) -> bool:
        """Whether a capture would be refused now."""
        return self._warming > 0

    def _is_open(self) -> bool:
        return not self._capturing and not self._waiting


class Switch:
    """A setting of the process, held by all callers that want the same value at a time; values take turns.

    Args:
        set_to: sets it.
        put_back: has it be what it was before.
    """

    def __init__(self, set_to: Callable[[bool], None], put_back: Callable[[], None]) -> None:
        self._set_to, self._put_back = set_to, put_back
        self._changed = threading.Condition()
        self._value = False
        self._holders = 0
        self._waiting = {False: 0, True: 0}

    @contextmanager
    def held(self, *, value: bool) -> Iterator[None]:
        """Hold it at a value: `set_to` is called by the first to hold it so, and `put_back` by the last."""
        with self._changed:
            self._waiting[value] += 1
            try:
                self._changed.wait_for(lambda: self._may_hold(value=value))
            finally:
                self._waiting[value] -= 1
            if not self._holders:
                self._set_to(value)
            self._value = value
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                if not self._holders:
                    self._put_back()
                self._changed.notify_all()

    def _may_hold(self, *, value: bool) -> bool:
        return not self._holders or (self._value is value and not self._waiting[not value])
