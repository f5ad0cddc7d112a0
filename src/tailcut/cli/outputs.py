"""The files that a command writes: whether they can be written is checked before any time is spent."""

import os
from pathlib import Path

from tailcut.errors import UsageError


def check_writable(*paths: Path | None) -> None:
    """Check that files can be written; None stands for one that was not asked for.

    Raises:
        UsageError: the folder of one is missing or read-only, or one is a folder.
    """
    for path in paths:
        if path is None:
            continue
        folder = path.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder, cannot write {path.name}")
        if path.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"{path}: cannot be written: it is a folder, or the folder is read-only")
