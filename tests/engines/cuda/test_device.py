"""What a device does that has no stand-in: calls of CUDA's runtime, in a runtime's place."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")

from tailcut.engines.cuda import device  # noqa: E402  it needs PyTorch
from tailcut.engines.cuda.pinned import PinnedMemory  # noqa: E402  likewise


class Runtime:
    """A runtime that refuses, and keeps its last error as CUDA's does, until the check after a launch has raised it."""

    def __init__(self) -> None:
        self.last = 0
        self.refuses = True

    def cudaHostRegister(self, *_: int) -> int:  # noqa: N802  its name
        return self._call()

    def cudaHostUnregister(self, *_: int) -> int:  # noqa: N802  likewise
        return self._call()

    def _call(self) -> int:
        self.last = 1 if self.refuses else self.last
        return int(self.refuses)

    def launch(self, *_: Any, **__: Any) -> None:
        last, self.last = self.last, 0
        if last:
            raise RuntimeError("CUDA error: invalid argument")


def test_memory_that_is_refused_fails_no_later_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is forgotten at once, on the thread that has it; the copies of that memory take a detour."""
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch, "ones", runtime.launch)
    pinned = PinnedMemory(device._register, device._unregister)
    pinned.hold(np.zeros(4), "refused")
    runtime.launch()
    runtime.refuses = False
    pinned.hold(np.zeros(4), "taken")
    runtime.refuses = True
    pinned.release("taken")
    runtime.launch()
