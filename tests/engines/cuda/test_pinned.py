"""Host memory registered with CUDA: once, and for as long as an engine holds it."""

import numpy as np

from tailcut.engines.cuda.pinned import PinnedMemory


class Runtime:
    """What registers, in place of CUDA's: it refuses what is registered already, and what it is told to refuse."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.refuses = False

    def register(self, address: int, size_bytes: int) -> bool:
        if self.refuses or address in self.sizes:
            return False
        self.sizes[address] = size_bytes
        return True

    def unregister(self, address: int) -> None:
        del self.sizes[address]


def test_rows_of_two_engines_stay_until_both_gave_them_back() -> None:
    """The whole memory that they are parts of, once."""
    runtime = Runtime()
    pinned = PinnedMemory(runtime.register, runtime.unregister)
    slab, other = np.zeros((4, 8), np.float32), np.zeros(3)
    for rows in (slab[:2], slab[2:], slab):
        pinned.hold(rows, "old")
    pinned.hold(slab[1:], "new")
    pinned.hold(other, "new")
    assert runtime.sizes == {slab.ctypes.data: slab.nbytes, other.ctypes.data: other.nbytes}
    pinned.release("old")
    assert len(runtime.sizes) == 2
    pinned.release("new")
    pinned.release("new")
    assert not runtime.sizes


def test_what_was_refused_is_not_given_back() -> None:
    """Others may have registered it; and memory of no bytes is none."""
    runtime = Runtime()
    pinned = PinnedMemory(runtime.register, runtime.unregister)
    array = np.zeros(4)
    runtime.register(array.ctypes.data, array.nbytes)
    pinned.hold(array, "engine")
    pinned.hold(np.zeros(0), "engine")
    pinned.release("engine")
    assert len(runtime.sizes) == 1
    runtime.refuses = True
    pinned.hold(np.zeros(4), "engine")
    pinned.release("engine")
    assert len(runtime.sizes) == 1


def test_memory_outlives_its_arrays_until_it_is_given_back() -> None:
    """Otherwise another array could get an address that is registered with the old size."""
    runtime = Runtime()
    pinned = PinnedMemory(runtime.register, runtime.unregister)
    for size in range(1, 20):
        pinned.hold(np.zeros(1000 * size), "engine")
    assert sorted(runtime.sizes.values()) == [8000 * size for size in range(1, 20)]
