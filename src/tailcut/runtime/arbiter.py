"""The models of one process taking turns on its cores: the lock around `batching.share`, and the waking."""

import threading
from collections.abc import Hashable
from typing import Protocol

from tailcut import forks
from tailcut.batching.share import Share


class Contender(Hashable, Protocol):
    """A model, as far as its turn is concerned."""

    def kick(self) -> object:
        """Have an idle worker look for a batch."""


class Arbiter:
    """Shared by models that compute on worker threads; called without a model's lock, or with the caller's own only."""

    def __init__(self, slots: int) -> None:
        self._share: Share[Contender] = Share(slots)
        self._lock = threading.Lock()
        forks.watch(self)

    def forked(self) -> None:
        """In a forked child: nothing computes here yet."""
        self._share = Share(self._share.slots)
        self._lock = threading.Lock()

    def take(self, model: Contender, need: int) -> bool:
        """Start a batch of so many threads now (0: all); False: the model is kicked when it is its turn."""
        with self._lock:
            return self._share.take(model, need or self._share.slots)

    def give(self, model: Contender, need: int, took_ns: int, *, more: bool) -> None:
        """A batch has ended, and more is ready behind it; whose turn it is now is kicked."""
        with self._lock:
            told = self._share.give(model, need or self._share.slots, took_ns, more=more)
        for one in told:
            one.kick()

    def decline(self, model: Contender) -> None:
        """The model's turn came and it has nothing to compute."""
        with self._lock:
            told = self._share.decline(model)
        for one in told:
            one.kick()

    def leave(self, model: Contender) -> None:
        """The model was closed."""
        with self._lock:
            told = self._share.leave(model)
        for one in told:
            one.kick()
