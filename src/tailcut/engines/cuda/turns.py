"""What may run concurrently in a process with a CUDA device: launches, captures, and PyTorch's switch. Pure.

While a graph is captured, CUDA allows neither a launch on the captured stream nor waiting for the whole device: either
fails and invalidates the capture ("CUDA Graphs", Programming Guide). PyTorch also allows only one capture per process
(`torch.cuda.graph`). Compiling may wait for the device at any time, and takes minutes; so meanwhile, captures are left
to a later batch, instead of making everything wait.

Where both are held, the switch must be taken first.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CaptureGate:
    """Lets launches and warm-ups run concurrently, and a capture alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._launching = self._warming = self._waiting = 0
        self._capturing = False

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Hold this to launch steps or wait for the device; entered after captures that run or wait."""
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
        """Hold this to compile or compute what is captured later, for as long as that takes."""
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
        """Hold this to capture, after current launches have ended; yields False at once during a warm-up."""
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
        """Whether there is a warm-up, so that a capture would be refused."""
        return self._warming > 0

    def _is_open(self) -> bool:
        return not self._capturing and not self._waiting


class Switch:
    """A setting of the process, which callers with the same value can hold together; different values take turns.

    Args:
        set_to: sets the value.
        put_back: restores the original value.
    """

    def __init__(self, set_to: Callable[[bool], None], put_back: Callable[[], None]) -> None:
        self._set_to, self._put_back = set_to, put_back
        self._changed = threading.Condition()
        self._value = False
        self._holders = 0
        self._waiting = {False: 0, True: 0}

    @contextmanager
    def held(self, *, value: bool) -> Iterator[None]:
        """Hold the setting at a value: the first holder calls `set_to`, and the last `put_back`."""
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
