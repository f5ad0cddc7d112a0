"""Files that the user trusts: what could run code of its own is loaded from no others.

The list stands in an environment variable, so that the processes that a command starts (workers, the servers and
children of a tune) have it as well. It is the user's word about files, so no profile can carry it.
"""

import os
from pathlib import Path

_VARIABLE = "TAILCUT_TRUSTED_FILES"


def trust(path: Path) -> None:
    """Trust a file, or all files in a folder, from now on, in this process and those that it starts."""
    files = _files()
    if str(path.resolve()) not in files:
        os.environ[_VARIABLE] = os.pathsep.join([*files, str(path.resolve())])


def is_trusted(path: Path) -> bool:
    """Whether the user trusts it."""
    trusted, resolved = set(_files()), path.resolve()
    return any(str(folder) in trusted for folder in (resolved, *resolved.parents))


def _files() -> list[str]:
    return [name for name in os.environ.get(_VARIABLE, "").split(os.pathsep) if name]
