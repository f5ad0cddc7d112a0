"""How busy devices are: real NVML where it is, and a library with the same functions and errors everywhere."""

from types import SimpleNamespace
from typing import Any

import pytest

from tailcut.machine.nvml import DeviceUse, Nvml, open_nvml


class Library:
    """Two devices, of which the second does not tell its power and has lost its rates."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802  NVML's own names
        self.ready = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        assert self.ready
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> Any:  # noqa: N802
        return "GPU-a" if handle == 0 else b"GPU-b"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 << 30, used=handle << 30, free=0)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(gpu=37, memory=3)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        if handle:
            raise self.NVMLError("Not Supported")
        return 312_500


def test_devices() -> None:
    """What each says; what it does not say is unknown, and costs nothing else."""
    assert Nvml(Library()).read() == [
        DeviceUse("GPU-a", 0.37, 0, 80 << 30, 312.5),
        DeviceUse("GPU-b", None, 1 << 30, 80 << 30, None),
    ]


def test_this_machine() -> None:
    """Without the package or a driver there is none; with both there is a device at least."""
    result = open_nvml()
    if result is None:
        pytest.skip("no NVML here, which is the answer")
    assert result.read()
