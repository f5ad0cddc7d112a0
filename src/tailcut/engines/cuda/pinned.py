"""Host memory that is registered with CUDA: which engines hold it, and when it is given back. Pure.

Registering is the process's: memory can be registered once, and engines of one model (its workers' own, or the old and
the new one of a reload) bind the same rows. So it stays registered for as long as one of them holds it.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class _Held:
    root: np.ndarray  # its memory must not go before it is unregistered
    owners: set[Hashable] = field(default_factory=set)


class PinnedMemory:
    """What this process has registered.

    Args:
        register: takes address and bytes; whether it was registered.
        unregister: takes the address.
    """

    def __init__(self, register: Callable[[int, int], bool], unregister: Callable[[int], None]) -> None:
        self._register, self._unregister = register, unregister
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()

    def hold(self, array: np.ndarray, owner: Hashable) -> None:
        """Register the whole memory that an array is a part of; where that is refused, nothing is held."""
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
        """Give back what an owner holds; nothing of it may still be copied."""
        with self._lock:
            for address, held in list(self._held.items()):
                held.owners.discard(owner)
                if not held.owners:
                    self._unregister(address)
                    del self._held[address]
