"""Hashes the content of an application's files: a new revision replaces all of its replicas.

A pipeline is not run to find its files, since that would need everything its stages need. Instead, its models are taken
to be the files that string literals in its Python file name, relative to its folder. The modules and packages of its
folder that it imports are hashed too, with the files that they name. For anything else, such as files that a data file
names, the caller passes a text that changes with it.
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
        return _of_python(file, file.parent, set())
    return [file_hash(file)] if is_profile(file) else [model_hash(file), str(external_weights_hash(file))]


def _of_python(file: Path, root: Path, seen: set[Path]) -> list[str]:
    """Hashes of a Python file, of the modules below `root` that it imports, and of the files that they name."""
    seen.add(file)
    hashes = [file_hash(file)]
    for path in sorted(set(_paths_in(file, root))):
        if path in seen or not _exists(path):
            continue
        seen.add(path)
        hashes += _of_python(path, root, seen) if path.suffix == ".py" else _of_file(path)
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


def _paths_in(file: Path, root: Path) -> Iterator[Path]:
    """The paths, existing or not, that the string literals and import statements of a Python file may name.

    Args:
        file: the Python file.
        root: the pipeline's folder, in which Python looks for modules.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the replicas will report it
        return
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text) if len(text) <= _MOST_TEXT and "\0" not in text:
                yield root / text
                yield file.parent / text
            case ast.Import(names=names):
                for name in names:
                    yield from _module_files(root, name.name)
            case ast.ImportFrom(module=module, names=names, level=level) if level <= len(file.parents):
                folder = file.parents[level - 1] if level else root
                for name in names:  # a name may be a module of the package
                    yield from _module_files(folder, f"{module}.{name.name}" if module else name.name)


def _module_files(folder: Path, name: str) -> Iterator[Path]:
    """Where a module with this dotted name, and the packages that contain it, may lie in a folder."""
    for part in name.split("."):
        yield folder / f"{part}.py"
        folder /= part
        yield folder / "__init__.py"


def _exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False
