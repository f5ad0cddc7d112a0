"""What objects learn of a fork."""

import weakref

from tailcut import forks
from tests.forked import fork, succeeded


class Held:
    """Counts its notifications."""

    def __init__(self) -> None:
        self.told = 0
        forks.watch(self)

    def forked(self) -> None:
        self.told += 1


def test_only_the_child_is_notified() -> None:
    """Once for each fork, before anything else runs there."""
    held = Held()

    def check() -> None:
        assert held.told == 1

    assert succeeded(fork(check))
    assert held.told == 0


def test_watching_keeps_nothing_alive() -> None:
    """A deleted object gets no notification."""
    gone = weakref.ref(Held())
    assert gone() is None
