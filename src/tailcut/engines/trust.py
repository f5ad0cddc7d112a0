"""Files that the user trusts: only from these is anything loaded that could run code.

The list is in an environment variable, so that the processes that a command starts (workers, the servers and children
of a tune) have it, too. Only the user can trust a file, so no profile contains the list.
"""

import os
from pathlib import Path

_VARIABLE = "TAILCUT_TRUSTED_FILES"


def trust(path: Path) -> None:
    """Trust a file, or all files in a folder, in this process and in those that it starts from now on."""
    files = _files()
    if str(path.resolve()) not in files:
        os.environ[_VARIABLE] = os.pathsep.join([*files, str(path.resolve())])


def is_trusted(path: Path) -> bool:
    """Whether the user trusts this file or a folder that contains it."""
    trusted, resolved = set(_files()), path.resolve()
    return any(str(folder) in trusted for folder in (resolved, *resolved.parents))


def _files() -> list[str]:
    return [name for name in os.environ.get(_VARIABLE, "").split(os.pathsep) if name]
