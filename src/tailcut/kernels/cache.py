"""Where compiled kernels are cached from one start to the next.

Numba keeps them beside the source where that can be written, else below the user's home, and raises where neither can
be, as in a container whose image is read-only and whose user has no home. It unpickles what it finds there, so a folder
is used only if it is this user's and no other user can write to it.
"""

import logging
import os
import pickle
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

_log = logging.getLogger("tailcut")
_F = TypeVar("_F", bound=Callable[..., Any])
_UNREADABLE = (OSError, EOFError, ValueError, pickle.UnpicklingError)


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """Numba's cache, except that code which cannot be read or written is compiled without it, and loading is fast."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The cached code for a signature, or None.

        Numba's own first loads everything that the compiler needs, a quarter of a second of CPU time. Compiled code
        only needs the symbols of the runtime; compiling something later loads the rest anyway.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with suppress(*_UNREADABLE):
            yield


def compiled(*signatures: Any, **options: object) -> Callable[[_F], _F]:
    """`numba.njit` with the GIL released; for these signatures only, if any are given.

    The machine code is cached if there is a folder for it.
    """

    def declare(function: _F) -> _F:
        dispatcher = njit(nogil=True, **options)(function)
        _keep(dispatcher)
        for signature in signatures:
            dispatcher.compile(signature)
        if signatures:
            dispatcher.disable_compile()
        kept: _F = dispatcher
        return kept

    return declare


def _keep(dispatcher: Any) -> None:
    before = config.CACHE_DIR
    if not before and not beside_is_writable(Path(dispatcher.py_func.__code__.co_filename).parent):
        folder = user_folder()
        if folder is None:
            return
        config.CACHE_DIR = str(folder)
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)  # noqa: SLF001  as numba's `enable_caching` does
    except RuntimeError:  # numba found no folder after all
        _not_kept()
    finally:
        config.CACHE_DIR = before


def beside_is_writable(package: Path) -> bool:
    """Whether compiled code can be cached in the package's own folder."""
    folder = package / "__pycache__"
    return os.access(folder if folder.is_dir() else package, os.W_OK | os.X_OK)


@cache
def user_folder() -> Path | None:
    """A folder that only this user can write to: in the cache folder or the home, else among temporary files."""
    candidates = [Path(os.environ.get("XDG_CACHE_HOME", "")) / "tailcut"]
    with suppress(RuntimeError):  # no HOME, and no passwd entry either
        home = Path.home()
        candidates += [home / ".cache" / "tailcut"] if home.is_dir() else []
    with suppress(OSError):  # no folder for temporary files
        candidates.append(Path(tempfile.gettempdir()) / f"tailcut-{os.geteuid()}")
    for folder in candidates:
        if folder.is_absolute() and _is_ours(folder):
            return folder
    _not_kept()
    return None


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    private = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and private and os.access(folder, os.W_OK | os.X_OK)


@cache
def _not_kept() -> None:
    """Warn, once per process, that kernels cannot be cached."""
    _log.warning(
        "compiled kernels cannot be kept, so that each start compiles them again: "
        "set NUMBA_CACHE_DIR to a folder that this user can write"
    )
