"""Looks for changes of Python files, for `serve --reload`: a development aid, so it looks instead of being told."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

_log = logging.getLogger("tailcut")
_LOOK_S = 0.3

Stamps = dict[Path, tuple[int, int]]


class SourceWatch:
    """Calls `changed` on the loop when a .py file in one of the folders has changed, come or gone.

    Args:
        folders: looked at without those below them; none: nothing is looked at.
        changed: called once for all changes that one look finds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, folders: Iterable[Path], changed: Callable[[], None]) -> None:
        self._loop = loop
        self._folders = tuple(dict.fromkeys(folders))
        self._changed = changed
        self._known = stamps(self._folders)
        if self._folders:
            loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        current = stamps(self._folders)
        if current != self._known:
            names = sorted({file.name for file, _ in current.items() ^ self._known.items()})
            _log.info("%s changed: reloading", ", ".join(names))
            self._known = current
            self._changed()
        self._loop.call_later(_LOOK_S, self._look)


def stamps(folders: Iterable[Path]) -> Stamps:
    """The time and size of each .py file in the folders; one that goes meanwhile is left out."""
    result: Stamps = {}
    for folder in folders:
        for file in folder.glob("*.py"):
            try:
                status = file.stat()
            except OSError:
                continue
            result[file] = status.st_mtime_ns, status.st_size
    return result
