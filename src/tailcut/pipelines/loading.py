"""Loads a pipeline by its import path, `embed.py:pipeline`, both in the server and in the processes of its stages.

The file is executed under a unique module name. Its folder comes first on the import path, as with `python embed.py`,
but behind the standard library: otherwise a module `queue` beside it would replace the standard one in everything that
the process imports later. Modules that the file imports from its folder are separate per folder, so pipelines in two
folders may each have a module `words`. An error in the file becomes one line that names the file and the line.

An executed file is kept for questions about the pipeline before it is opened, and for opening it once. So side effects
of the file, such as registering a counter under a name, happen once per opened pipeline.
"""

import hashlib
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import invalidate_caches
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from tailcut.errors import MissingFileError, UsageError
from tailcut.pipelines.stage import Pipeline

_PREFIX = "tailcut_pipeline_"
_NOT_THEIRS = (_PREFIX, "tailcut.")
# Parts of a path, relative to the folder, that mark installed modules, which are not reloaded.
_INSTALLED = ("/site-packages/", "/dist-packages/", "/lib/python")
_STANDARD = {
    folder + tail
    for folder in (sysconfig.get_path("stdlib"), os.path.dirname(os.__file__))  # noqa: PTH120  spelled as on the path
    for tail in ("", "/lib-dynload")
}
_STANDARD_ZIP = f"/python{sys.version_info.major}{sys.version_info.minor}.zip"
_lock = threading.RLock()  # `sys.modules` holds the modules of one folder at a time
_active: list[str] = []  # the folder whose modules are in `sys.modules`
_own: dict[str, frozenset[str]] = {}  # by folder: its modules that the program had imported before its first pipeline
_aside: dict[str, dict[str, ModuleType]] = {}  # by folder: its modules, while another folder is the active one
_versions: dict[str, dict[str, tuple[int, int] | None]] = {}  # by folder and module: `_version` when loaded
_added: set[str] = set()  # folders that are on the import path because of a pipeline


@dataclass(frozen=True, slots=True)
class PipelinePath:
    """The file of a pipeline, and the name of the variable that holds it."""

    file: Path
    attribute: str

    def __str__(self) -> str:
        return f"{self.file}:{self.attribute}"


@dataclass(slots=True)
class _Execution:
    """A file that has been executed."""

    module: ModuleType
    source: bytes
    opened: set[str] = field(default_factory=set)  # its variables whose pipelines were opened


_executions: dict[Path, _Execution] = {}  # the latest of each file
_executing: set[Path] = set()  # files that are being executed


def parse_path(text: str) -> PipelinePath:
    """Split `embed.py:pipeline` into an absolute path and the name of a variable.

    Raises:
        UsageError: the text is not of this form.
    """
    file, _, attribute = text.rpartition(":")
    if not file.endswith(".py") or not attribute.isidentifier():
        raise UsageError(f"{text!r} is not a pipeline: write FILE.py:VARIABLE, such as embed.py:pipeline")
    return PipelinePath(Path(file).absolute(), attribute)


def load_pipeline(path: PipelinePath) -> Pipeline:
    """Load the pipeline of a file, which is executed again if its last execution is out of date.

    That is the case if the file, or a module that it has imported from its folder, has changed, or if the pipeline has
    been opened since.

    Raises:
        MissingFileError: the file is missing.
        UsageError: the file raises, it has no such variable, or the variable is not a Pipeline.
    """
    return _pipeline(path)[0]


def take_pipeline(path: PipelinePath) -> Pipeline:
    """As `load_pipeline`, to open it: the next call executes the file again.

    Raises:
        MissingFileError: the file is missing.
        UsageError: as `load_pipeline`.
    """
    pipeline, execution = _pipeline(path)
    execution.opened.add(path.attribute)
    return pipeline


def forget(path: PipelinePath) -> None:
    """Have the next call execute the file in any case."""
    _executions.pop(path.file, None)


def import_path() -> list[str]:
    """The import path for a stage's process: the standard library first, and without the folders of pipelines."""
    return _standard_first(entry for entry in sys.path if isinstance(entry, str) and entry not in _added)


def _pipeline(path: PipelinePath) -> tuple[Pipeline, _Execution]:
    with _lock:
        execution = _executions.get(path.file)
        if execution is None or path.attribute in execution.opened or _has_changed(path.file, execution):
            execution = _executions[path.file] = _execute(path.file)
    module = execution.module
    if not hasattr(module, path.attribute):
        names = [name for name, value in vars(module).items() if isinstance(value, Pipeline)]
        there = f"there is {', '.join(names)}" if names else "it has no Pipeline"
        raise UsageError(f"{path.file}: has no variable {path.attribute!r}; {there}")
    pipeline = getattr(module, path.attribute)
    if not isinstance(pipeline, Pipeline):
        kind = type(pipeline).__name__
        raise UsageError(f"{path.file}: {path.attribute} is a {kind}, not a tailcut.Pipeline")
    return pipeline, execution


def _has_changed(file: Path, execution: _Execution) -> bool:
    """Whether the file, or a module that it has imported from its folder, has changed; activates the folder."""
    try:
        if file.read_bytes() != execution.source:
            return True
    except OSError:
        return True
    folder = str(file.parent)
    _activate(folder)
    return bool(_changed(folder))


def _execute(file: Path) -> _Execution:
    if not file.is_file():
        raise MissingFileError(f"{file}: no such file")
    if file in _executing:
        raise UsageError('it opens its own pipeline while it is imported: write that below if __name__ == "__main__":')
    name = f"{_PREFIX}{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    loader = _FreshLoader(name, str(file))
    spec = spec_from_loader(name, loader)
    if spec is None:
        raise UsageError(f"{file}: cannot be imported")
    module = module_from_spec(spec)
    folder = str(file.parent)
    _activate(folder)
    dropped = _drop_changed(folder)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and typing look a function's module up there
    _executing.add(file)
    try:
        with redirect_stdout(sys.stderr):  # programs read the command's stdout
            loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a user's file may raise anything
        if before is not None:
            sys.modules[name] = before
        sys.modules.update(dropped)
        raise UsageError(_one_line(file, error)) from None
    finally:
        _executing.discard(file)
    _versions[folder] = {title: _version(module) for title, module in _modules_in(folder).items()}
    return _Execution(module, loader.source)


def _standard_first(entries: Iterable[str]) -> list[str]:
    """An import path with the entries of the standard library before all others."""
    return sorted(entries, key=lambda entry: entry not in _STANDARD and not str(entry).endswith(_STANDARD_ZIP))


def _activate(folder: str) -> None:
    """Have `import` find the modules of this folder, and none that pipelines imported from another folder."""
    if _active != [folder]:
        for other in _active:
            modules = {title: module for title, module in _modules_in(other).items() if title not in _own[other]}
            _aside[other] = modules
            for title in modules:
                del sys.modules[title]
        sys.modules.update(_aside.pop(folder, {}))
        _active[:] = [folder]
    if folder not in sys.path:
        _added.add(folder)
    sys.path[:] = _standard_first([folder, *(entry for entry in sys.path if entry != folder)])


def _drop_changed(folder: str) -> dict[str, ModuleType]:
    """Drop the modules that pipelines have imported from this folder if one has changed, so that they are reimported.

    Modules imported before the folder's first pipeline belong to the program, and stay. Returns the dropped modules;
    functions that are running keep using them.
    """
    changed = _changed(folder)
    if changed:
        invalidate_caches()
    for title in changed:
        del sys.modules[title]
    return changed


def _changed(folder: str) -> dict[str, ModuleType]:
    """The modules that pipelines have imported from this folder: all of them if one has changed, else none."""
    there = _modules_in(folder)
    own = _own.setdefault(folder, frozenset(there))
    imported = {title: module for title, module in there.items() if title not in own}
    known = _versions.get(folder, {})
    return {} if all(known.get(title) == _version(module) for title, module in imported.items()) else imported


def _modules_in(folder: str) -> dict[str, ModuleType]:
    """The imported modules of a folder, by name, without installed packages and the pipelines' own files."""
    modules = {}
    for title, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None)] if getattr(module, "__file__", None) else _paths(module)
        paths = [path for path in places if isinstance(path, str) and path.startswith(f"{folder}/")]
        inside = [path.removeprefix(folder) for path in paths]
        installed = any(path.endswith(".so") or any(part in path for part in _INSTALLED) for path in inside)
        if inside and not installed and title != "__main__" and not title.startswith(_NOT_THEIRS):
            modules[title] = module
    return modules


def _paths(module: ModuleType) -> list[object]:
    """The folders of a namespace package."""
    try:
        return list(getattr(module, "__path__", ()))
    except Exception:  # noqa: BLE001  some modules compute their attributes
        return []


def _version(module: ModuleType) -> tuple[int, int] | None:
    """Modification time and size of a module's file, which tell whether it has changed; None without a file."""
    try:
        status = Path(str(module.__file__)).stat() if getattr(module, "__file__", None) else None
    except OSError:
        return (0, 0)
    return None if status is None else (status.st_mtime_ns, status.st_size)


class _FreshLoader(SourceFileLoader):
    """Always compiles the file: cached bytecode would pass for fresh after an edit that keeps time (in s) and size."""

    source = b""

    def get_code(self, fullname: str) -> object:  # type: ignore[override]  # typeshed: CodeType
        """Compile the file, and keep its source."""
        self.source = self.get_data(self.path)
        return self.source_to_code(self.source, self.path)


def _one_line(file: Path, error: BaseException) -> str:
    """One line that says what went wrong, and at which line of the file itself, however deep the error was raised."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = f":{frames[-1].lineno}" if frames else ""
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{file}{line}: {kind}{message}"
