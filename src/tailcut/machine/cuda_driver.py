"""The CUDA driver's library, for what no engine offers: a device's PCI address, and memory of other processes.

Both come from `libcuda`, which every driver installs, and not from the runtime library, of which every engine brings
its own. The library is loaded at the first call of `driver`. Names and meanings are those of the CUDA Driver API; the
primary context is shared with the CUDA runtime of the same process.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from tailcut.errors import UnsupportedError

_LIBRARY = "libcuda.so.1"
_HANDLE_BYTES = 64  # CU_IPC_HANDLE_SIZE
_LAZY_PEER_ACCESS, _NON_BLOCKING = 1, 1
_BUS_CHARS = 32
_NOT_FOUND = 500  # CUDA_ERROR_NOT_FOUND
_OUT_OF_DEVICES = {100, 101}  # CUDA_ERROR_NO_DEVICE, CUDA_ERROR_INVALID_DEVICE


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * _HANDLE_BYTES),)


class CudaCallError(Exception):
    """A call of the driver failed.

    Args:
        code: of CUresult.
        name: of the code, such as CUDA_ERROR_INVALID_VALUE.
    """

    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.code = code


class Driver:
    """The library; its calls may be made by any thread.

    Args:
        library: its name or path.

    Raises:
        UnsupportedError: there is none, or no device that this process may use.
    """

    def __init__(self, library: str = _LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
            self.call("cuInit", ctypes.c_uint(0))
        except OSError:
            raise UnsupportedError("no CUDA driver is installed on this machine") from None
        except CudaCallError as error:
            raise UnsupportedError(f"the CUDA driver has no device for this process: {error}") from None

    def bus_of(self, index: int) -> str:
        """The device's PCI address, as the kernel writes it (0000:3b:00.0).

        Args:
            index: of the device, among those in CUDA_VISIBLE_DEVICES.

        Raises:
            UnsupportedError: there is no such device.
        """
        text = ctypes.create_string_buffer(_BUS_CHARS)
        self.call("cuDeviceGetPCIBusId", text, ctypes.c_int(_BUS_CHARS), self._device(index))
        return text.value.decode("ascii").lower()

    def open_memory(self, handle: bytes, index: int) -> "SharedDeviceMemory":
        """Open memory of another process on a device, by the handle that it got from `cudaIpcGetMemHandle`.

        Raises:
            UnsupportedError: there is no such device.
            CudaCallError: no live memory of another process has this handle.
            ValueError: the handle does not have 64 bytes.
        """
        if len(handle) != _HANDLE_BYTES:
            raise ValueError(f"a CUDA IPC handle has {_HANDLE_BYTES} bytes, not {len(handle)}")
        return SharedDeviceMemory(self, self._device(index), handle)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            CudaCallError: it failed, or this driver is too old to have it.
        """
        function = getattr(self._library, name, None)
        if function is None:
            raise CudaCallError(_NOT_FOUND, f"the driver has no {name}")
        code = function(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(text))
            raise CudaCallError(code, (text.value or b"an unknown error").decode("ascii", "replace"))

    @contextmanager
    def context(self, device: Any) -> Iterator[None]:
        """Make the device's primary context current on this thread for the duration of a `with` block."""
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self.call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        finally:
            self.call("cuDevicePrimaryCtxRelease_v2", device)

    def _device(self, index: int) -> Any:
        device = ctypes.c_int()
        try:
            self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        except CudaCallError as error:
            if error.code in _OUT_OF_DEVICES:
                raise UnsupportedError(f"there is no CUDA device {index}") from None
            raise UnsupportedError(f"CUDA device {index} cannot be used: {error}") from None
        return device


class SharedDeviceMemory:
    """An allocation of another process. Copies use a stream of their own, and wait for no kernel on another one."""

    def __init__(self, driver: Driver, device: Any, handle: bytes) -> None:
        self._driver, self._device = driver, device
        self._address, self._stream = ctypes.c_uint64(), ctypes.c_void_p()
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        retained = ctypes.c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(retained), device)  # as long as the memory is open
        try:
            with driver.context(device):
                given = _Handle.from_buffer_copy(handle)
                driver.call(
                    "cuIpcOpenMemHandle_v2", ctypes.byref(self._address), given, ctypes.c_uint(_LAZY_PEER_ACCESS)
                )
                try:
                    # The size is the driver's: nothing beyond it may be read.
                    driver.call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), self._address)
                    driver.call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))
                except CudaCallError:
                    driver.call("cuIpcCloseMemHandle", self._address)
                    raise
        except CudaCallError:
            driver.call("cuDevicePrimaryCtxRelease_v2", device)
            raise
        self.size = base.value + size.value - self._address.value

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a writable buffer with bytes of the memory.

        Raises:
            CudaCallError: the copy failed.
        """
        self._copy("cuMemcpyDtoHAsync_v2", _address_of(buffer), self._address_at(offset), len(buffer))

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes into the memory.

        Raises:
            CudaCallError: the copy failed.
        """
        self._copy("cuMemcpyHtoDAsync_v2", self._address_at(offset), _address_of(data), len(data))

    def close(self) -> None:
        """Close the allocation; a second call, or one after the device was lost, does nothing."""
        address, self._address = self._address, ctypes.c_uint64()
        if not address.value:
            return
        try:
            with self._driver.context(self._device):
                self._driver.call("cuStreamDestroy_v2", self._stream)
                self._driver.call("cuIpcCloseMemHandle", address)
            self._driver.call("cuDevicePrimaryCtxRelease_v2", self._device)
        except CudaCallError:
            return

    def _address_at(self, offset: int) -> Any:
        return ctypes.c_uint64(self._address.value + offset)

    def _copy(self, name: str, target: Any, source: Any, size: int) -> None:
        if not size:
            return
        with self._driver.context(self._device):
            self._driver.call(name, target, source, ctypes.c_size_t(size), self._stream)
            self._driver.call("cuStreamSynchronize", self._stream)


def _address_of(view: memoryview) -> Any:
    return ctypes.c_void_p(np.frombuffer(view, np.uint8).ctypes.data) if len(view) else None


@cache
def driver() -> Driver:
    """The driver's library of this machine, loaded once.

    Raises:
        UnsupportedError: as `Driver`.
    """
    return Driver()
