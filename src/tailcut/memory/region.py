"""A shared-memory region of our own: made in /dev/shm, mapped, named to a server by its key, and unlinked at the end.

`shared.py` has what a server does with the regions of clients. This memory is our own, so it can be mapped. Two things
can go wrong:

- /dev/shm is full (a container has 64 MB by default). Writing to a mapped page for which there is no room ends the
  process with SIGBUS, so the pages are reserved when the region is made, where a lack of room is an error.
- The process that made it is killed. Each file is locked with flock(2) while its process lives, and the kernel releases
  the lock with the process; `sweep` removes the files whose lock is free. Process ids would not do: containers that
  share /dev/shm have separate ones.
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

_FOLDER = Path("/dev/shm")  # noqa: S108  where shm_open(3) makes files on Linux
_MARK = "own-"
_LONGEST_PREFIX = 128
_TRIES = 8  # attempts to make a file, which may be swept before it is locked


class OwnRegion:
    """Bytes shared under a key made of `prefix` and a random number; unlinked by `close`, or with the object.

    Args:
        prefix: one that the server accepts; a leading slash is ignored.
        size: in bytes.
        reserve: whether to allocate the memory now. Otherwise, only other processes may write to it, and `view` must
            not be used.

    Raises:
        InvalidInputError: the prefix is invalid.
        UnsupportedError: there is no /dev/shm, or it cannot be written.
        CapacityError: /dev/shm has no room for this many bytes.
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
        """Its name for shm_open(3)."""
        return f"/{self.name}"

    def close(self) -> None:
        """Unlink the region; processes that have it open keep it until they close it. A second call does nothing."""
        self._finalizer()
        self._unmap()

    def forked(self) -> None:
        """In a forked child, close it: only the parent removes the region and holds its lock."""
        if self._finalizer.detach() is not None:
            os.close(self._file)
            with suppress(AttributeError):  # another thread was just mapping it
                self._unmap()  # a mapping duplicates the descriptor, which would keep the lock

    def _unmap(self) -> None:
        with suppress(BufferError):  # a view is still in use: the mapping ends with it
            self.view.release()
            self._map.close()


def check_prefix(prefix: str) -> str:
    """A prefix of keys, without its leading slash.

    Raises:
        InvalidInputError: it contains a slash, is too long, or has unprintable characters.
    """
    plain = prefix.removeprefix("/")
    if not plain.isprintable() or "/" in plain or len(plain.encode()) > _LONGEST_PREFIX:
        raise InvalidInputError(
            f"a shared-memory prefix has at most {_LONGEST_PREFIX} printable bytes and no slash, got {prefix!r}"
        )
    return plain


def sweep(prefix: str, folder: Path = _FOLDER) -> None:
    """Remove the regions with this prefix that killed processes left behind."""
    pattern = re.compile(re.escape(check_prefix(prefix)) + _MARK + "[0-9a-f]{16}")
    try:
        names = [entry.name for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        with suppress(OSError):  # another user's, or locked: its process lives
            file = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()
            finally:
                os.close(file)


def _make(prefix: str, folder: Path) -> tuple[str, int]:
    """Make a new locked file; returns its name and descriptor."""
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
        os.close(file)  # a sweep removed it first
    raise UnsupportedError(f"shared memory made in {folder} is removed as soon as it is created")


def _remove(path: Path, file: int) -> None:
    with suppress(OSError):
        path.unlink()
    os.close(file)
