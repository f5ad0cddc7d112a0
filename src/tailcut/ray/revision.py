"""Hashes the content of an application's files: a new revision replaces all of its replicas.

A pipeline is not run to find its files, since that would need everything its stages need. Instead, its models are taken
to be the files that string literals in its Python file name, relative to its folder, and the modules of its folder that
it imports are hashed too. For anything else, such as files that a data file names, the caller passes a text that
changes with it.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tailcut.engines.file_hash import external_weights_hash, file_hash, model_hash
from tailcut.errors import ModelFileError
from tailcut.runtime.opening.source import is_profile
from tailcut.runtime.profile import Profile, is_pipeline

_MOST_TEXT = 1024  # characters of a path


def revision_of(sources: Sequence[str], profiles: Sequence[Profile | None], text: str = "") -> str:
    """Hash the files of some sources.

    Args:
        sources: paths of profiles, models and pipelines.
        profiles: the profile of each source; None if it is no profile.
        text: the user's own text.

    Raises:
        ModelFileError: a file cannot be read.
    """
    hashes = [text]
    for source, profile in zip(sources, profiles, strict=True):
        hashes += [*_hashes(source), *([] if profile is None else _hashes(profile.model.path))]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]


def file_of(source: str) -> Path:
    """The file of a source: for a pipeline, its path without the name of the object."""
    return Path(source.rpartition(":")[0] if is_pipeline(source) and not source.endswith(".py") else source)


def _hashes(source: str) -> list[str]:
    """Hashes of the file of a source and of everything that it names."""
    file = file_of(source)
    if is_pipeline(source):
        return _of_pipeline(file, set())
    return [file_hash(file)] if is_profile(file) else [model_hash(file), str(external_weights_hash(file))]


def _of_pipeline(file: Path, seen: set[Path]) -> list[str]:
    """Hashes of a Python file, of the modules of its folder that it imports, and of the files that they name."""
    seen.add(file)
    hashes, folder = [file_hash(file)], file.parent
    names = set(_names_in(file))
    for path in sorted({folder / name for name in names if len(name) <= _MOST_TEXT and "\0" not in name}):
        if path in seen or not _exists(path):
            continue
        seen.add(path)
        hashes += _of_pipeline(path, seen) if path.suffix == ".py" else _of_file(path)
    return hashes


def _of_file(path: Path) -> list[str]:
    """Hashes of a model with its weights, of a profile with its model, or of any other file; none of a plain folder."""
    if is_profile(path):
        with suppress(ValueError, LookupError, OSError):
            return [file_hash(path), *_hashes(Profile.load(path).model.path)]
    with suppress(ModelFileError):
        return [model_hash(path), str(external_weights_hash(path))]
    with suppress(ModelFileError):
        return [file_hash(path)] if path.is_file() else []
    return []


def _names_in(file: Path) -> Iterator[str]:
    """The string literals of a Python file, and the files of the modules that it imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the replicas will report it
        return
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text):
                yield text
            case ast.Import(names=names):
                yield from (f"{name.name.replace('.', '/')}.py" for name in names)
            case ast.ImportFrom(module=str() as module):
                yield f"{module.replace('.', '/')}.py"


def _exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False
