"""Host memory that is registered with CUDA: which engines hold it, and when it is unregistered. Pure.

A process can register memory only once, but several engines of a model (those of its workers, or the old and the new
one at a reload) bind the same rows. So memory stays registered for as long as one of them holds it.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class _Held:
    root: np.ndarray  # kept, because memory must not be freed before it is unregistered
    owners: set[Hashable] = field(default_factory=set)


class PinnedMemory:
    """The registered memory of this process.

    Args:
        register: called with an address and a size in bytes; returns whether it was registered.
        unregister: called with the address.
    """

    def __init__(self, register: Callable[[int, int], bool], unregister: Callable[[int], None]) -> None:
        self._register, self._unregister = register, unregister
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()

    def hold(self, array: np.ndarray, owner: Hashable) -> None:
        """Register the whole memory of which an array is a part, for an owner; if that is refused, nothing is held."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if not root.nbytes:
            return
        address = root.ctypes.data
        with self._lock:
            held = self._held.get(address)
            if held is None:
                if not self._register(address, root.nbytes):
                    return
                held = self._held[address] = _Held(root)
            held.owners.add(owner)

    def release(self, owner: Hashable) -> None:
        """Release everything that an owner holds; no copy from or to it may be in progress."""
        with self._lock:
            for address, held in list(self._held.items()):
                held.owners.discard(owner)
                if not held.owners:
                    self._unregister(address)
                    del self._held[address]
