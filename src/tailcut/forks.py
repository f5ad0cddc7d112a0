"""What becomes of our objects in a forked child: connections, threads, locks and regions stay the parent's.

fork(2) copies a process's memory and descriptors, but of its threads only the one that calls it. Sockets are shared by
both sides from then on, so that one reads the answers of the other; a lock that another thread held stays locked; what
a thread was to do is never done. Objects that hold any of this register here, and are notified in the child before
fork returns there.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")


class Inherited(Protocol):
    """An object that holds what a forked child must not use."""

    def forked(self) -> None:
        """Let go of it. Called in the child, where no other thread runs; must not raise or wait."""


class Busy(Protocol):
    """An object whose threads hold locks of libraries while they work: one held at a fork stays locked in the child."""

    def pause(self) -> None:
        """Begin nothing new, and wait a moment for what is running. Must not raise."""

    def go_on(self) -> None:
        """Resume after the fork. Called in the parent."""


_watched: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()
_busy: WeakSet[Busy] = WeakSet()


def watch(inherited: Inherited) -> None:
    """Call the object's `forked` in every forked child, for as long as the object lives."""
    watch_by(inherited, type(inherited).forked)


def watch_by(inherited: T, forked: Callable[[T], None]) -> None:
    """As `watch`, with another method than `forked`, for an object whose public interface should not include it.

    Args:
        inherited: the object.
        forked: the method, as a function of its class: a bound method would keep the object alive.
    """
    _watched[inherited] = forked


def pause_for(busy: Busy) -> None:
    """Have the object pause, for as long as it lives, while this process forks."""
    _busy.add(busy)


def keep_for_good(value: object) -> None:
    """Never free an object, not even when the process ends: freeing it would wait for threads of the parent."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _before() -> None:
    for busy in list(_busy):
        busy.pause()


def _in_parent() -> None:
    for busy in list(_busy):
        busy.go_on()


def _in_child() -> None:
    for inherited, forked in list(_watched.items()):
        forked(inherited)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
