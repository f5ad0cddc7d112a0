"""The command of another process of this Python, which finds the same modules as this one.

`python -m` looks for modules in the working folder first; the installed `tailcut` does not. A user's file in that
folder whose name is that of a module of the standard library or of an engine must not be imported by a child.
"""

import sys
from pathlib import Path


def python(*arguments: str) -> list[str]:
    """The command; the working folder is searched only if this process searches it, too."""
    return [sys.executable, *([] if _searches_working_folder() else ["-P"]), *arguments]


def _searches_working_folder() -> bool:
    try:
        here = Path.cwd().resolve()
        return here in {Path(entry).resolve() for entry in sys.path}  # '' is the working folder
    except OSError:  # it was removed
        return False
