"""Finds a pipeline by its import path, `embed.py:pipeline`, in the server and in each of its stages' processes alike.

The file is executed under a name of its own, with its folder on the import path as `python embed.py` has it. What goes
wrong in it is one line that names the file and the line.
"""

import hashlib
import sys
import traceback
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from tailcut.errors import MissingFileError, UsageError
from tailcut.pipelines.stage import Pipeline


@dataclass(frozen=True, slots=True)
class PipelinePath:
    """The file that a pipeline is in, and the name of the variable that holds it."""

    file: Path
    attribute: str

    def __str__(self) -> str:
        return f"{self.file}:{self.attribute}"


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
    """Execute the file and return its pipeline.

    Raises:
        MissingFileError: the file is missing.
        UsageError: it raises, or there is no such variable in it, or it is no Pipeline.
    """
    module = _execute(path.file)
    if not hasattr(module, path.attribute):
        found = [name for name, value in vars(module).items() if isinstance(value, Pipeline)]
        there = f"there is {', '.join(found)}" if found else "it has no Pipeline"
        raise UsageError(f"{path.file}: has no variable {path.attribute!r}; {there}")
    pipeline = getattr(module, path.attribute)
    if not isinstance(pipeline, Pipeline):
        kind = type(pipeline).__name__
        raise UsageError(f"{path.file}: {path.attribute} is a {kind}, not a tailcut.Pipeline")
    return pipeline


def _execute(file: Path) -> ModuleType:
    if not file.is_file():
        raise MissingFileError(f"{file}: no such file")
    name = f"tailcut_pipeline_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    spec = spec_from_loader(name, _FreshLoader(name, str(file)))
    if spec is None:
        raise UsageError(f"{file}: cannot be imported")
    module = module_from_spec(spec)
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and typing look a function's module up there
    try:
        _FreshLoader(name, str(file)).exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's file raises
        if before is not None:
            sys.modules[name] = before
        raise UsageError(_one_line(file, error)) from None
    return module


class _FreshLoader(SourceFileLoader):
    """Compiles the file as it is now: a cached compilation is taken for fresh where an edit keeps second and size."""

    def get_code(self, fullname: str) -> object:  # type: ignore[override]  # typeshed has CodeType, which compile gives
        """Compile the source."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _one_line(file: Path, error: BaseException) -> str:
    """What went wrong in a file, and where: the file's own line, however deep the error was raised."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = f":{frames[-1].lineno}" if frames else ""
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{file}{line}: {kind}{message}"
