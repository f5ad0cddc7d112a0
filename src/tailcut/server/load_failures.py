"""Messages about models that could not be loaded: for the log, and for clients, without the paths of files."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailcut.errors import TailcutError
from tailcut.server.served_model import ServedModel

_log = logging.getLogger("tailcut")
# The folders of an absolute path, which may be quoted. Names of tensors and nodes have slashes, too.
_FOLDERS = re.compile(r"(?<![^\s'\"`(\[=,:])(/[^\s'\"/]+)[^\s'\"]*/(?=\S)")


@dataclass(frozen=True, slots=True)
class FailedModel:
    """A model of a repository that could not be loaded.

    Args:
        reason: why, as clients are told.
        versions: those that were to be served; none where its folder cannot be read.
    """

    reason: str
    versions: Sequence[str] = ()


def log_failure(name: str, error: Exception, *, served: bool = False) -> None:
    """Log why a model could not be loaded: in one line, with a traceback where the error was unexpected.

    Args:
        name: of the model.
        error: the exception raised.
        served: whether an older version still answers.
    """
    after = "; the old version still answers" if served else ""
    _log.error("%s: not loaded: %s%s", name, _in_one_line(error), after, exc_info=unforeseen(error))


def unforeseen(error: Exception) -> Exception | None:
    """The error where it is unexpected, so that the log gets its traceback; None where it was raised on purpose."""
    return None if isinstance(error, (TailcutError, OSError)) else error


def without_folders(error: Exception, root: Path | None = None) -> str:
    """The error's message in one line without the folders of files; paths below `root` are relative to it."""
    first, *inside = _in_one_line(error).split(f"{root}/") if root is not None else [_in_one_line(error)]
    parts = [part.partition(" ") for part in inside]
    return _without_paths(first) + "".join(f"{path}{space}{_without_paths(rest)}" for path, space, rest in parts)


def without_folders_of(served: ServedModel, error: Exception) -> str:
    """The error's message about a model's file for clients: with the name of the file, without its folder."""
    message = _in_one_line(error)
    files = {Path(file) for file in (served.source, served.model.profile.model.path, served.model.profile.engine_file)}
    folders = {folder for file in files for folder in (file.parent, file.parent.resolve())} - {Path(), Path("/")}
    for folder in sorted(folders, key=lambda folder: len(str(folder)), reverse=True):
        if folder.is_absolute():  # replaced as a whole, because it may contain white space
            message = message.replace(f"{folder}/", "")
        for name in {file.name for file in files} - {""}:
            message = message.replace(f"{folder}/{name}", name)
    message = _without_paths(message)
    start, _, rest = message.partition(": ")
    return rest if start in {file.name for file in files} and start in rest else message


def _without_paths(text: str) -> str:
    """The text with absolute paths reduced to file names; a path differs from a node's name in that its root exists."""
    return _FOLDERS.sub(lambda path: "" if Path(path[1]).is_dir() else path[0], text)


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if unforeseen(error) else text
