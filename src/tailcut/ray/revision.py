"""What tells one content of an application's files from another: another revision replaces all of its replicas.

A pipeline is not run for it, which would need what its stages need. So its models are the files that texts in its
Python file name, relative to its folder, and with them the modules of its folder that it imports. What it finds
otherwise, such as files that another file names, is for the caller to tell: by a text of their own.
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
    """A hash of the files of some sources.

    Args:
        sources: paths of profiles, models and pipelines.
        profiles: of each; None for what is none.
        text: of the user.

    Raises:
        ModelFileError: a file cannot be read.
    """
    hashes = [text]
    for source, profile in zip(sources, profiles, strict=True):
        hashes += [*_hashes(source), *([] if profile is None else _hashes(profile.model.path))]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]


def file_of(source: str) -> Path:
    """The file of a source."""
    return Path(source.rpartition(":")[0] if is_pipeline(source) and not source.endswith(".py") else source)


def _hashes(source: str) -> list[str]:
    """Of the file of a source, and of all that it names."""
    file = file_of(source)
    if is_pipeline(source):
        return _of_pipeline(file, set())
    return [file_hash(file)] if is_profile(file) else [model_hash(file), str(external_weights_hash(file))]


def _of_pipeline(file: Path, seen: set[Path]) -> list[str]:
    """Of a Python file, the modules of its folder that it imports, and the files that their texts name."""
    seen.add(file)
    hashes, folder = [file_hash(file)], file.parent
    names = set(_named(file))
    for path in sorted({folder / name for name in names if len(name) <= _MOST_TEXT and "\0" not in name}):
        if path in seen or not _exists(path):
            continue
        seen.add(path)
        hashes += _of_pipeline(path, seen) if path.suffix == ".py" else _of_file(path)
    return hashes


def _of_file(path: Path) -> list[str]:
    """Of a model with its weights, of a profile with its model, or of another file; nothing of another folder."""
    if is_profile(path):
        with suppress(ValueError, LookupError, OSError):
            return [file_hash(path), *_hashes(Profile.load(path).model.path)]
    with suppress(ModelFileError):
        return [model_hash(path), str(external_weights_hash(path))]
    with suppress(ModelFileError):
        return [file_hash(path)] if path.is_file() else []
    return []


def _named(file: Path) -> Iterator[str]:
    """The texts of a Python file, and the files of the modules that it imports."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # which its replicas say
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
