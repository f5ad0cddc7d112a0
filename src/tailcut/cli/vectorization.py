"""`tailcut vectorization`: which loops of a function are vectorized, how wide, and why the others are not."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from tailcut.kernels.loops import Analysis


def vectorization(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="MODULE:FUNCTION or FILE.py:FUNCTION (numba), or ./LIB.so:SYMBOL.")
    ],
    signature: Annotated[
        str | None, typer.Option(help="Argument types to compile for, such as 'float32[::1],int64'.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show which loops of a function are vectorized: lanes, FMA and gathers per loop, with reasons and advice."""
    import msgspec

    from tailcut.errors import UsageError
    from tailcut.report.vectorization import vectorization_record, vectorization_text

    source, _, name = target.rpartition(":")
    if not source or not name:
        raise UsageError(f"{target!r} is not a function: write MODULE:FUNCTION, FILE.py:FUNCTION or ./LIB.so:SYMBOL")
    if _is_machine_code(Path(source)):
        isa, analyses = None, _of_library(Path(source), name, signature)
    else:
        isa, analyses = _of_numba(source, name, signature)
    record = vectorization_record(target, isa, analyses)
    if json:
        print_json(msgspec.json.encode(record))
    else:
        print(vectorization_text(record))
    if not record.vectorized:
        raise typer.Exit(1)


def _is_machine_code(path: Path) -> bool:
    """Whether the path is a library; decided by the name if the file does not exist."""
    if path.is_file() and path.suffix != ".py":
        return True
    return ".so" in path.suffixes or path.suffix in {".o", ".dylib", ".a"}


def _of_library(path: Path, symbol: str, signature: str | None) -> "list[Analysis]":
    from tailcut.errors import UsageError
    from tailcut.kernels.shared_object import analyse_symbol

    if signature is not None:
        raise UsageError("--signature is for numba functions: a library is already compiled")
    return [analyse_symbol(path, symbol)]


def _of_numba(source: str, name: str, signature: str | None) -> "tuple[str, list[Analysis]]":
    from tailcut.errors import UsageError

    try:
        from tailcut.kernels.vectorization import analyse, numba_isa
    except ImportError as error:
        raise UsageError(f"numba cannot be loaded: {error}") from None
    module = _load(source)
    try:
        function: Any = module
        for part in name.split("."):
            function = getattr(function, part)
    except AttributeError:
        raise UsageError(f"{source} has no function {name!r}") from None
    nothing_compiled = hasattr(function, "py_func") and not function.signatures
    if nothing_compiled and signature is None:
        raise UsageError(
            f"{source}:{name} has not been compiled yet: "
            "pass argument types with --signature, such as 'float32[::1],float32[::1]'"
        )
    return numba_isa(), analyse(function, signature)


def _load(source: str) -> Any:
    """Import a module by name or file; the current folder comes first, as with `python -m`."""
    import contextlib
    from importlib import import_module

    from tailcut.errors import UsageError

    is_file = source.endswith(".py")
    if is_file and not Path(source).is_file():
        raise UsageError(f"{source}: no such file")
    sys.path.insert(0, str(Path(source).parent.resolve()) if is_file else str(Path.cwd()))
    module = Path(source).stem if is_file else source
    try:
        with contextlib.redirect_stdout(sys.stderr):  # output of the module's import is not part of the result
            return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{source}.".startswith(f"{error.name}."):
            raise UsageError(
                f"no module named {error.name!r} in the current folder or among the installed packages"
            ) from None
        raise UsageError(f"{source} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  a user's module may raise anything
        raise UsageError(f"{source} cannot be imported: {type(error).__name__}: {error}") from None
