"""A shared-memory region of our own: made in /dev/shm, mapped, named to a server by its key, and unlinked when done.

What a server does with the regions of others stands in `shared.py`. Here the memory is ours, and so it is mapped. Two
things can go wrong on our side:

- /dev/shm is full (a container has 64 MB unless told otherwise). Writing to a mapped page that has no room there ends
  the process with SIGBUS, so the pages are reserved when the region is made, and a lack of room is an error then.
- Its maker is killed. Each file is locked with flock(2) while its maker lives, and the kernel drops the lock with the
  process; `sweep` removes the files whose lock is free. Process ids would not do: containers that share /dev/shm count
  them apart.
"""

import fcntl
import mmap
import os
import re
import secrets
import weakref
from contextlib import suppress
from pathlib import Path

from tailcut import forks
from tailcut.errors import CapacityError, InvalidInputError, UnsupportedError

_FOLDER = Path("/dev/shm")  # noqa: S108  where Linux keeps what shm_open(3) makes
_MARK = "own-"
_LONGEST_PREFIX = 128
_TRIES = 8  # a file that is swept between being made and being locked is made again


class OwnRegion:
    """Bytes shared under a key of `prefix` and a random number; unlinked by `close`, or with the object.

    Args:
        prefix: what the server takes; a leading slash does not count.
        size: in bytes.
        reserve: take the memory now. Without, it must not be touched through `view`: other processes write to it.

    Raises:
        InvalidInputError: no such prefix can be.
        UnsupportedError: there is no /dev/shm, or it cannot be written.
        CapacityError: it has no room for this many bytes.
    """

    def __init__(self, prefix: str, size: int, *, reserve: bool = True, folder: Path = _FOLDER) -> None:
        plain = check_prefix(prefix)
        self.size = size
        self.name, file = _make(plain, folder)
        self._file = file
        self._finalizer = weakref.finalize(self, _remove, folder / self.name, file)
        forks.watch(self)
        try:
            if reserve:
                os.posix_fallocate(file, 0, size)
            else:
                os.truncate(file, size)
            self._map = mmap.mmap(file, size)
        except OSError:
            self._finalizer()
            raise CapacityError(f"{folder} has no room for another {size:,} bytes of shared memory") from None
        self.view = memoryview(self._map)

    @property
    def key(self) -> str:
        """What shm_open(3) calls it."""
        return f"/{self.name}"

    def close(self) -> None:
        """Unlink it; processes that have it open keep it until they close it. A second call does nothing."""
        self._finalizer()
        self._unmap()

    def forked(self) -> None:
        """In a forked child: the region is the parent's, which alone removes it and holds its lock."""
        if self._finalizer.detach() is not None:
            os.close(self._file)
            with suppress(AttributeError):  # another thread was about to map it
                self._unmap()  # a mapping has a descriptor of its own, which would hold the lock

    def _unmap(self) -> None:
        with suppress(BufferError):  # a view of a part of it is still open: the mapping goes with it
            self.view.release()
            self._map.close()


def check_prefix(prefix: str) -> str:
    """A prefix of keys without its slash.

    Raises:
        InvalidInputError: it names a folder, is too long, or has invisible characters.
    """
    plain = prefix.removeprefix("/")
    if not plain.isprintable() or "/" in plain or len(plain.encode()) > _LONGEST_PREFIX:
        raise InvalidInputError(
            f"a shared-memory prefix has at most {_LONGEST_PREFIX} printable bytes and no slash, got {prefix!r}"
        )
    return plain


def sweep(prefix: str, folder: Path = _FOLDER) -> None:
    """Remove the regions that makers of this prefix left behind when they were killed."""
    pattern = re.compile(re.escape(check_prefix(prefix)) + _MARK + "[0-9a-f]{16}")
    try:
        names = [entry.name for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        with suppress(OSError):  # another's, or locked: its maker lives
            file = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()
            finally:
                os.close(file)


def _make(prefix: str, folder: Path) -> tuple[str, int]:
    """A new locked file; its name and descriptor."""
    for _ in range(_TRIES):
        name = f"{prefix}{_MARK}{secrets.token_hex(8)}"
        try:
            file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UnsupportedError(f"no shared memory can be made in {folder}: {error.strerror}") from None
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return name, file
        os.close(file)  # a sweep was quicker
    raise UnsupportedError(f"shared memory made in {folder} is removed as soon as it is created")


def _remove(path: Path, file: int) -> None:
    with suppress(OSError):
        path.unlink()
    os.close(file)
