"""Named shared-memory regions that clients register with the server: read and written by system calls, never mapped.

A client may shrink or delete its file at any moment. Touching a mapped page behind the new end of a file ends the
process with SIGBUS, and checking before the access does not help, because the file may shrink in between. `preadv` and
`pwrite` are merely incomplete, so a vanished region only fails its own request with 400. The price is one copy, which
is needed for the batch anyway. See docs/decisions/010-shared-memory-by-system-calls.md.

Regions on a CUDA device are copied by calls of its driver, which refuses those that are gone. Both kinds share names
and limits; see docs/decisions/064-cuda-shared-memory.md.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from tailcut.errors import InvalidInputError, NotFoundError, UnsupportedError

_FOLDER = Path("/dev/shm")  # noqa: S108  where shm_open(3) makes files on Linux
_REGIONS = 1024  # registered at most: each keeps a file open
_LARGEST = 1 << 62
_OFF = "shared memory is off: start the server with --shared-memory PREFIX"
_TAKEN = "a region needs a name that is not registered yet: unregister it first"
_NO_CUDA = "CUDA shared memory is not available on this server"


class RegionSlice(NamedTuple):
    """A range of bytes in a registered region; `offset` counts from the start of the region."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SharedRegion:
    """A registered region: bytes `offset` to `offset + size` of the file with the name `key` for shm_open(3)."""

    name: str
    key: str
    offset: int
    size: int
    file: int

    @property
    def is_gone(self) -> bool:
        """Whether its file was deleted, so that no process can open it any more."""
        return os.fstat(self.file).st_nlink == 0

    def check(self, upto: int) -> None:
        """Check that the file still exists and has `upto` bytes behind the region's offset.

        Raises:
            InvalidInputError: it does not.
        """
        status = os.fstat(self.file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink == 0:
            raise InvalidInputError(f"region {self.name[:64]!r}: its shared memory has been deleted")
        if status.st_size < self.offset + upto:
            raise self._shrunk()

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer.

        Raises:
            InvalidInputError: the memory has been shrunk.
        """
        done = 0
        while done < len(buffer):
            count = os.preadv(self.file, [buffer[done:]], self.offset + offset + done)
            if count == 0:
                raise self._shrunk()
            done += count

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset in the region.

        Raises:
            InvalidInputError: they cannot be written.
        """
        at = self.offset + offset
        try:
            while data:
                count = os.pwrite(self.file, data, at)
                data, at = data[count:], at + count
        except OSError:
            raise InvalidInputError(f"region {self.name[:64]!r} cannot be written") from None

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            os.close(self.file)

    def _shrunk(self) -> InvalidInputError:
        return InvalidInputError(f"region {self.name[:64]!r}: its shared memory is smaller than it was registered with")


class DeviceMemory(Protocol):
    """Memory of another process on a device; a copy that fails raises an error of the driver."""

    size: int

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer."""

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes there."""

    def close(self) -> None:
        """Close the memory."""


@dataclass(frozen=True, slots=True)
class CudaRegion:
    """A registered region: the first `size` bytes of an allocation on a device."""

    name: str
    device: int
    size: int
    memory: DeviceMemory

    @property
    def is_gone(self) -> bool:
        """False: the driver keeps the memory for as long as a process has it open."""
        return False

    def check(self, upto: int) -> None:
        """Do nothing: memory on a device keeps its size."""

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer.

        Raises:
            InvalidInputError: the device refused the copy.
        """
        try:
            self.memory.read(offset, buffer)
        except Exception as error:  # noqa: BLE001  an error of the driver, which this module does not import
            raise InvalidInputError(f"region {self.name[:64]!r} cannot be read from its device: {error}") from None

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset in the region.

        Raises:
            InvalidInputError: the device refused the copy.
        """
        try:
            self.memory.write(offset, data)
        except Exception as error:  # noqa: BLE001  as in read
            raise InvalidInputError(f"region {self.name[:64]!r} cannot be written on its device: {error}") from None

    def close(self) -> None:
        """Close the memory."""
        self.memory.close()


Kind = TypeVar("Kind", SharedRegion, CudaRegion)
OpenMemory = Callable[[bytes, int], DeviceMemory]  # arguments: a handle, and the index of the device


class SharedRegions:
    """The registered regions by name, including those on devices.

    Args:
        prefix: of the keys that may be registered; None: shared memory is off, also on devices.
        folder: where the files of keys are.
        open_memory: opens memory on a device.
    """

    def __init__(
        self, prefix: str | None = None, folder: Path = _FOLDER, open_memory: OpenMemory | None = None
    ) -> None:
        self._prefix = prefix
        self._folder = folder
        self._open_memory = open_memory
        self._regions: dict[str, SharedRegion | CudaRegion] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Register a region: open its file and check its size. Deleted regions are unregistered.

        Raises:
            InvalidInputError: shared memory is off, the name or key is not allowed, or there is no such file.
        """
        self._check_new(name)
        plain = key.removeprefix("/")
        if not plain.startswith(self._prefix or "") or "/" in plain or "\0" in plain or plain in {".", ".."}:
            raise InvalidInputError(f"the key of a region must start with {self._prefix!r} and contain no folder")
        if offset < 0 or size <= 0 or offset + size > _LARGEST:
            raise InvalidInputError("a region's offset must be 0 or more, and its byte_size 1 or more")
        try:
            file = os.open(self._folder / plain, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            raise InvalidInputError("no shared memory with that key exists, or this server may not open it") from None
        self._add(SharedRegion(name, key, offset, size, file))

    def register_cuda(self, name: str, handle: bytes, device: int, size: int) -> None:
        """Register memory of a client on a device. May be called on any thread, because a device may take seconds.

        Args:
            name: of the region.
            handle: 64 bytes, from `cudaIpcGetMemHandle`.
            device: index of the device among those visible to this server (CUDA_VISIBLE_DEVICES).
            size: how many bytes requests may use.

        Raises:
            InvalidInputError: shared memory is off, the name is taken, or there is no such device or memory.
        """
        self._check_new(name)
        if size <= 0:
            raise InvalidInputError("a region's byte_size must be 1 or more")
        if self._open_memory is None:
            raise InvalidInputError(f"{_NO_CUDA}: register system shared memory")
        try:
            memory = self._open_memory(handle, device)
        except UnsupportedError as error:
            raise InvalidInputError(f"{_NO_CUDA}: {error}: register system shared memory") from None
        except Exception as error:  # noqa: BLE001  as in CudaRegion.read
            raise InvalidInputError(
                f"no memory of another process has this handle on device {device}: {error}"
            ) from None
        if size > memory.size:
            memory.close()
            raise InvalidInputError(f"region {name[:64]!r}: its memory has {memory.size} bytes, not {size}")
        self._add(CudaRegion(name, device, size, memory))

    def unregister(self, name: str = "") -> None:
        """Unregister a region, or all where no name is given; an unknown name is ignored."""
        self._forget(SharedRegion, name)

    def unregister_cuda(self, name: str = "") -> None:
        """As `unregister`, for regions on devices."""
        self._forget(CudaRegion, name)

    def close(self) -> None:
        """Unregister all regions of both kinds."""
        self.unregister()
        self.unregister_cuda()

    def status(self, name: str = "") -> list[SharedRegion]:
        """The registered regions, or the one of that name.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._of(SharedRegion, name)

    def status_cuda(self, name: str = "") -> list[CudaRegion]:
        """As `status`, for regions on devices."""
        return self._of(CudaRegion, name)

    def read(self, region_slice: RegionSlice) -> memoryview:
        """A copy of some bytes of a region.

        Raises:
            InvalidInputError: unknown region, bytes past its end, or the memory has been shrunk or deleted.
        """
        region = self._find(region_slice)
        buffer = np.empty(region_slice.size, np.uint8).data  # aligned, unlike a bytearray
        region.read(region_slice.offset, buffer)
        return buffer.toreadonly()

    def write(self, region_slice: RegionSlice, data: bytes | memoryview) -> None:
        """Write bytes at the start of a slice of a region.

        Raises:
            InvalidInputError: as in `read`, or the data are larger than the slice.
        """
        if len(data) > region_slice.size:
            raise InvalidInputError(
                f"region {region_slice.region[:64]!r}: the output has {len(data)} bytes, "
                f"but its slice only {region_slice.size}"
            )
        self._find(region_slice).write(region_slice.offset, memoryview(data))

    def _check_new(self, name: str) -> None:
        """Check that a region with this name may be registered.

        Raises:
            InvalidInputError: shared memory is off, the name is taken or empty, or there are too many.
        """
        if self._prefix is None:
            raise InvalidInputError(_OFF)
        self._forget_deleted()
        if not name or name in self._regions:
            raise InvalidInputError(_TAKEN)
        if len(self._regions) >= _REGIONS:
            raise InvalidInputError(f"{_REGIONS} regions are registered: unregister one first")

    def _add(self, region: SharedRegion | CudaRegion) -> None:
        """Register an open region, unless it is too small, or another thread has registered the name."""
        try:
            region.check(region.size)
        except InvalidInputError:
            region.close()
            raise
        if self._regions.setdefault(region.name, region) is not region:
            region.close()
            raise InvalidInputError(_TAKEN)

    def _of(self, kind: type[Kind], name: str) -> list[Kind]:
        regions = [
            region for region in self._regions.values() if isinstance(region, kind) and name in {"", region.name}
        ]
        if name and not regions:
            raise NotFoundError(f"no region {name[:64]!r} is registered")
        return regions

    def _forget(self, kind: type[SharedRegion | CudaRegion], name: str) -> None:
        for region in list(self._regions.values()):
            if isinstance(region, kind) and name in {"", region.name}:
                del self._regions[region.name]
                region.close()

    def _forget_deleted(self) -> None:
        """Unregister regions whose file was deleted: a killed client cannot do that."""
        for region in list(self._regions.values()):
            if region.is_gone:
                self.unregister(region.name)

    def _find(self, region_slice: RegionSlice) -> SharedRegion | CudaRegion:
        region = self._regions.get(region_slice.region)
        if region is None:
            raise InvalidInputError(
                _OFF
                if self._prefix is None
                else f"no region {region_slice.region[:64]!r} is registered: register it first"
            )
        if region_slice.offset < 0 or region_slice.size < 0 or region_slice.offset + region_slice.size > region.size:
            raise InvalidInputError(
                f"region {region.name[:64]!r} has {region.size} bytes: "
                f"{region_slice.size} at {region_slice.offset} are past its end"
            )
        region.check(region_slice.offset + region_slice.size)
        return region
