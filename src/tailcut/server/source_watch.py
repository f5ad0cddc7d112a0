"""Polls Python files for changes, for `serve --reload`, which is a development aid.

Each scan costs a stat(2) for each folder and each Python file. The content of a folder is listed again only when its
modification time has changed: there may be thousands of images beside a pipeline.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger("tailcut")
_LOOK_S = 0.3
_MOST_FOLDERS = 1000
_SETTLED_NS = 2_000_000_000  # after that, a further change gets another modification time on any file system
_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}
_ENVIRONMENT = "pyvenv.cfg"

Stamps = dict[Path, tuple[int, int]]


class SourceWatch:
    """Calls `changed` on the loop when a .py file in one of the folders was changed, added or removed.

    Args:
        folders: scanned with those below them; empty: nothing is scanned.
        changed: called once for all changes that one scan finds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, folders: Iterable[Path], changed: Callable[[], None]) -> None:
        self._loop = loop
        self._sources = Sources(folders)
        self._changed = changed
        self._known = self._sources.stamps()
        if self._sources.folders:
            loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        current = self._sources.stamps()
        if current != self._known:
            names = sorted({file.name for file, _ in current.items() ^ self._known.items()})
            _log.info("%s changed: reloading", ", ".join(names))
            self._known = current
            self._changed()
        self._loop.call_later(_LOOK_S, self._look)


@dataclass(frozen=True, slots=True)
class _Listing:
    """The content of a folder."""

    time_ns: int  # modification time of the folder
    settled: bool  # whether a later change would get another time
    files: tuple[Path, ...]
    folders: tuple[Path, ...]


class Sources:
    """The Python files in some folders and below, except hidden folders, installed packages and environments.

    Args:
        folders: they and the folders below them are scanned, a thousand at most, the nearest first.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(dict.fromkeys(folders))
        self._listings: dict[Path, _Listing] = {}
        self._told = False

    def stamps(self) -> Stamps:
        """The modification time and size of each file; one that disappears meanwhile is left out."""
        result: Stamps = {}
        seen: set[tuple[int, int]] = set()  # folders, because a link may lead back
        listings: dict[Path, _Listing] = {}
        waiting = deque(self.folders)
        while waiting and len(listings) < _MOST_FOLDERS:
            folder = waiting.popleft()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                listing = listings[folder] = self._listing(folder, status.st_mtime_ns)
            except OSError:
                continue
            waiting.extend(listing.folders)
            for file in listing.files:
                try:
                    status = file.stat()
                except OSError:
                    continue
                result[file] = status.st_mtime_ns, status.st_size
        if waiting and not self._told:
            self._told = True
            _log.warning("--reload watches only the first %d folders: %s is not watched", _MOST_FOLDERS, waiting[0])
        self._listings = listings
        return result

    def _listing(self, folder: Path, time_ns: int) -> _Listing:
        known = self._listings.get(folder)
        if known is not None and known.settled and known.time_ns == time_ns:
            return known
        settled = time.time_ns() - time_ns > _SETTLED_NS
        with os.scandir(folder) as entries:
            there = list(entries)
        if folder not in self.folders and any(entry.name == _ENVIRONMENT for entry in there):
            return _Listing(time_ns, settled, (), ())
        files = tuple(folder / entry.name for entry in there if entry.name.endswith(".py"))
        below = tuple(folder / entry.name for entry in there if _is_source_folder(folder, entry))
        return _Listing(time_ns, settled, files, below)


def _is_source_folder(parent: Path, entry: os.DirEntry[str]) -> bool:
    name = entry.name
    if name in _LEFT_OUT or name.startswith(".") or (parent.name == "lib" and name.startswith("python")):
        return False
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False
