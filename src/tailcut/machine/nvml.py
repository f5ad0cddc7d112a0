"""How busy CUDA devices are now, through NVML, NVIDIA's management library: a call instead of running `nvidia-smi`.

The package `nvidia-ml-py` (extra `gpu`) and the driver's library are optional; without them nothing is known.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """One device: shares are 0 to 1, memory bytes, power watts; None where the device does not say."""

    uuid: str
    utilisation: float | None
    memory_used: int | None
    memory_total: int | None
    power_w: float | None


class Nvml:
    """Reads all devices; opened once.

    Args:
        library: `pynvml`, or what has its functions.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        library.nvmlInit()
        self._handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]

    def read(self) -> list[DeviceUse]:
        """The use of each device now; devices that are lost are left out."""
        return [use for use in map(self._use, self._handles) if use.uuid]

    def _use(self, handle: Any) -> DeviceUse:
        library = self._library
        memory, rates = (
            self._of(library.nvmlDeviceGetMemoryInfo, handle),
            self._of(library.nvmlDeviceGetUtilizationRates, handle),
        )
        power = self._of(library.nvmlDeviceGetPowerUsage, handle)
        uuid = self._of(library.nvmlDeviceGetUUID, handle) or ""
        return DeviceUse(
            uuid if isinstance(uuid, str) else uuid.decode(),
            None if rates is None else rates.gpu / 100,
            None if memory is None else memory.used,
            None if memory is None else memory.total,
            None if power is None else power / 1000,
        )

    def _of(self, read: Any, handle: Any) -> Any:
        """One value of a device; None if the device does not have it or is lost."""
        try:
            return read(handle)
        except self._library.NVMLError:
            return None


def open_nvml() -> Nvml | None:
    """NVML of this machine; None without the package, the driver's library, or a device."""
    try:
        library = import_module("pynvml")
    except ImportError:
        return None
    try:
        return Nvml(library)
    except library.NVMLError:
        return None
