"""The files that a command writes: checked for writability before any time is spent."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tailcut.errors import UsageError

_SECRET = re.compile(r"(?is)\A((?:--header=)?(?:(?:proxy-)?authorization|cookie|x-api-key))\s*:.*")


def check_writable(*paths: Path | None) -> None:
    """Check that files can be written; None is ignored.

    Raises:
        UsageError: a folder is missing or read-only, or a path is itself a folder.
    """
    for path in paths:
        if path is None:
            continue
        folder = path.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder, cannot write {path.name}")
        if path.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"{path}: cannot be written: it is a folder, or the folder is read-only")


def refuse_overwriting(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """Refuse output files that are the same file as another output or an input.

    Args:
        outputs: by the options that name them.
        inputs: files that are read.

    Raises:
        UsageError: two are the same file.
    """
    taken = {path.resolve(): f"{path}, which is read" for path in inputs if path is not None}
    for option, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):  # such as /dev/stdout
            continue
        if path.resolve() in taken:
            raise UsageError(f"{option} {path} would overwrite {taken[path.resolve()]}: name another file")
        taken[path.resolve()] = f"the file of {option}"


def command_line() -> str:
    """The command line as given, for a result; values of headers with credentials are hidden."""
    given = [_SECRET.sub(r"\1: (hidden)", argument) for argument in sys.argv[1:]]
    return f"tailcut {shlex.join(given)}"
