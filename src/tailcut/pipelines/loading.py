"""Finds a pipeline by its import path, `embed.py:pipeline`, in the server and in each of its stages' processes alike.

The file is executed under a name of its own. Its folder comes first on the import path, as `python embed.py` has it,
but behind the standard library: a module `queue` beside it would else be taken for the standard one by all that the
process imports later. What the file imports from its folder is the folder's own: pipelines of two folders may have a
module `words` each. What goes wrong in it is one line that names the file and the line.

An execution is kept for what asks about a pipeline before it is opened, and for its opening: whatever a file does when
it is executed, such as making a counter of a name, it does once for each.
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
_INSTALLED = ("/site-packages/", "/dist-packages/", "/lib/python")  # in the path, from the folder on, of what is kept
_STANDARD = {
    folder + tail
    for folder in (sysconfig.get_path("stdlib"), os.path.dirname(os.__file__))  # noqa: PTH120  as it is on the path
    for tail in ("", "/lib-dynload")
}
_STANDARD_ZIP = f"/python{sys.version_info.major}{sys.version_info.minor}.zip"
_lock = threading.RLock()  # `sys.modules` has the modules of one folder at a time
_active: list[str] = []  # the folder whose modules it has
_own: dict[str, frozenset[str]] = {}  # by folder: modules of it that the program had before its first pipeline
_aside: dict[str, dict[str, ModuleType]] = {}  # by folder: its modules, while another folder is the active one
_versions: dict[str, dict[str, tuple[int, int] | None]] = {}  # by folder and module: its file, when it was loaded
_added: set[str] = set()  # folders that are on the import path because of a pipeline


@dataclass(frozen=True, slots=True)
class PipelinePath:
    """The file that a pipeline is in, and the name of the variable that holds it."""

    file: Path
    attribute: str

    def __str__(self) -> str:
        return f"{self.file}:{self.attribute}"


@dataclass(slots=True)
class _Execution:
    """A file that has been executed."""

    module: ModuleType
    source: bytes
    opened: set[str] = field(default_factory=set)  # the pipelines of it that were opened


_executions: dict[Path, _Execution] = {}  # the newest of each file


def parse_path(text: str) -> PipelinePath:
    """`embed.py:pipeline` apart, the file absolute.

    Raises:
        UsageError: it names no variable.
    """
    file, _, attribute = text.rpartition(":")
    if not file.endswith(".py") or not attribute.isidentifier():
        raise UsageError(f"{text!r} is not a pipeline: write FILE.py:VARIABLE, such as embed.py:pipeline")
    return PipelinePath(Path(file).absolute(), attribute)


def load_pipeline(path: PipelinePath) -> Pipeline:
    """The pipeline of a file, which is executed where its last execution is out of date.

    It is where the file, or a module that it has imported from its folder, has changed, and where the pipeline has been
    opened since.

    Raises:
        MissingFileError: the file is missing.
        UsageError: it raises, or there is no such variable in it, or it is not a Pipeline.
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
    """Execute the file at the next call in any case."""
    _executions.pop(path.file, None)


def import_path() -> list[str]:
    """The import path of this program, for another process of it: the standard library first, no pipelines' folders."""
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
    """Whether the file, or what it has imported from its folder, whose modules are then in place, is another one."""
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
    try:
        with redirect_stdout(sys.stderr):  # what a command prints there is read by programs
            loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's file raises
        if before is not None:
            sys.modules[name] = before
        sys.modules.update(dropped)
        raise UsageError(_one_line(file, error)) from None
    _versions[folder] = {title: _version(module) for title, module in _modules_in(folder).items()}
    return _Execution(module, loader.source)


def _standard_first(entries: Iterable[str]) -> list[str]:
    """An import path with the entries of the standard library before all others."""
    return sorted(entries, key=lambda entry: entry not in _STANDARD and not str(entry).endswith(_STANDARD_ZIP))


def _activate(folder: str) -> None:
    """Have `import` find the modules of this folder, and none that pipelines of another one have from theirs."""
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
    """Have the modules that pipelines of this folder have imported from it be imported anew where one has changed.

    Those that were there before the first of its pipelines are the program's own, and stay. What is dropped is
    returned; functions that are running keep it.
    """
    changed = _changed(folder)
    if changed:
        invalidate_caches()
    for title in changed:
        del sys.modules[title]
    return changed


def _changed(folder: str) -> dict[str, ModuleType]:
    """The modules that pipelines of this folder have imported from it: all of them where one has changed, else none."""
    there = _modules_in(folder)
    own = _own.setdefault(folder, frozenset(there))
    imported = {title: module for title, module in there.items() if title not in own}
    known = _versions.get(folder, {})
    return {} if all(known.get(title) == _version(module) for title, module in imported.items()) else imported


def _modules_in(folder: str) -> dict[str, ModuleType]:
    """The modules of Python files in a folder, without installed packages and pipelines themselves."""
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
    """The folders of a package without a file."""
    try:
        return list(getattr(module, "__path__", ()))
    except Exception:  # noqa: BLE001  some modules compute their attributes
        return []


def _version(module: ModuleType) -> tuple[int, int] | None:
    """What tells that a module's file has changed; None of a package that has none."""
    try:
        status = Path(str(module.__file__)).stat() if getattr(module, "__file__", None) else None
    except OSError:
        return (0, 0)
    return None if status is None else (status.st_mtime_ns, status.st_size)


class _FreshLoader(SourceFileLoader):
    """Compiles the file as it is now: a cached compilation is taken for fresh where an edit keeps second and size."""

    source = b""

    def get_code(self, fullname: str) -> object:  # type: ignore[override]  # typeshed has CodeType, which compile gives
        """Compile the source."""
        self.source = self.get_data(self.path)
        return self.source_to_code(self.source, self.path)


def _one_line(file: Path, error: BaseException) -> str:
    """What went wrong in a file, and where: the file's own line, however deep the error was raised."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = f":{frames[-1].lineno}" if frames else ""
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{file}{line}: {kind}{message}"
