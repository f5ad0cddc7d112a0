"""Named shared-memory regions that clients made and told the server of: read and written by system calls, never mapped.

A client may shrink or delete its file at any moment. A mapped page behind the new end of a file ends the process with
SIGBUS, and no check before the access helps, since the file may shrink between the two. `preadv` and `pwrite` on the
file simply come back short, so a vanished region costs its own request a 400. The price is one copy, which the way into
the batch needs anyway. See docs/decisions/010-shared-memory-by-system-calls.md.
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tailcut.errors import InvalidInputError, NotFoundError

_FOLDER = Path("/dev/shm")  # noqa: S108  where Linux keeps what shm_open(3) makes
_REGIONS = 1024  # each holds a file open
_LARGEST = 1 << 62
_OFF = "shared memory is off: start the server with --shared-memory PREFIX"


class Place(NamedTuple):
    """Some bytes of a registered region; `offset` counts from the region's own start."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Region:
    """A registered region: bytes `offset` to `offset + size` of the file that shm_open(3) calls `key`."""

    name: str
    key: str
    offset: int
    size: int
    file: int


class SharedRegions:
    """The regions by name. Only keys that begin with `prefix` may be registered; with None, none at all."""

    def __init__(self, prefix: str | None = None, folder: Path = _FOLDER) -> None:
        self._prefix = prefix
        self._folder = folder
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Open the region and check its size; a name that is taken is refused. Regions that were deleted are forgotten.

        Raises:
            InvalidInputError: shared memory is off, the name or key is not admitted, or no such region is there.
        """
        if self._prefix is None:
            raise InvalidInputError(_OFF)
        self._forget_deleted()
        if not name or name in self._regions:
            raise InvalidInputError("a region needs a name that is not registered yet: unregister it first")
        if len(self._regions) >= _REGIONS:
            raise InvalidInputError(f"{_REGIONS} regions are registered: unregister one first")
        plain = key.removeprefix("/")
        if not plain.startswith(self._prefix) or "/" in plain or "\0" in plain or plain in {".", ".."}:
            raise InvalidInputError(f"the key of a region must start with {self._prefix!r} and contain no folder")
        if offset < 0 or size <= 0 or offset + size > _LARGEST:
            raise InvalidInputError("a region's offset must be 0 or more, and its byte_size 1 or more")
        try:
            file = os.open(self._folder / plain, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            raise InvalidInputError("no shared memory with that key exists, or this server may not open it") from None
        region = Region(name, key, offset, size, file)
        try:
            _check(region, size)
        except InvalidInputError:
            os.close(file)
            raise
        self._regions[name] = region

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all of them; one that is not registered is forgotten already."""
        for region in list(self._regions.values()) if not name else filter(None, [self._regions.get(name)]):
            del self._regions[region.name]
            with suppress(OSError):
                os.close(region.file)

    def status(self, name: str = "") -> list[Region]:
        """The registered regions, or the one of that name.

        Raises:
            NotFoundError: there is none of that name.
        """
        if name and name not in self._regions:
            raise NotFoundError(f"no region {name[:64]!r} is registered")
        return [self._regions[name]] if name else list(self._regions.values())

    def read(self, place: Place) -> memoryview:
        """A copy of some bytes of a region.

        Raises:
            InvalidInputError: unknown region, bytes past its end, or the memory has been shrunk or deleted.
        """
        region = self._find(place)
        buffer = np.empty(place.size, np.uint8).data  # aligned, unlike a bytearray
        done = 0
        while done < place.size:
            count = os.preadv(region.file, [buffer[done:]], region.offset + place.offset + done)
            if count == 0:
                raise _shrunk(region)
            done += count
        return buffer.toreadonly()

    def write(self, place: Place, data: bytes | memoryview) -> None:
        """Put bytes at the start of a place.

        Raises:
            InvalidInputError: as for `read`, or the data are larger than the place.
        """
        if len(data) > place.size:
            raise InvalidInputError(
                f"region {place.region[:64]!r}: the output has {len(data)} bytes, its place {place.size}"
            )
        region = self._find(place)
        view = memoryview(data)
        at = region.offset + place.offset
        try:
            while view:
                count = os.pwrite(region.file, view, at)
                view, at = view[count:], at + count
        except OSError:
            raise InvalidInputError(f"region {place.region[:64]!r} cannot be written") from None

    def _forget_deleted(self) -> None:
        """Let go of regions whose file is gone, which no process can use: a killed client does not unregister."""
        for region in list(self._regions.values()):
            if os.fstat(region.file).st_nlink == 0:
                self.unregister(region.name)

    def _find(self, place: Place) -> Region:
        region = self._regions.get(place.region)
        if region is None:
            raise InvalidInputError(
                _OFF if self._prefix is None else f"no region {place.region[:64]!r} is registered: register it first"
            )
        if place.offset < 0 or place.size < 0 or place.offset + place.size > region.size:
            raise InvalidInputError(
                f"region {region.name[:64]!r} has {region.size} bytes: {place.size} at {place.offset} are past its end"
            )
        _check(region, place.offset + place.size)
        return region


def _check(region: Region, upto: int) -> None:
    """Check that the file is still there, and as long as it is needed."""
    status = os.fstat(region.file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink == 0:
        raise InvalidInputError(f"region {region.name[:64]!r}: its shared memory has been deleted")
    if status.st_size < region.offset + upto:
        raise _shrunk(region)


def _shrunk(region: Region) -> InvalidInputError:
    return InvalidInputError(f"region {region.name[:64]!r}: its shared memory is smaller than it was registered with")
