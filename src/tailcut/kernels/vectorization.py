"""What numba's compiler made of a function: which loops run on vectors, how wide, and why the others do not.

A function is compiled once more with debug lines (nothing else differs, and it also works for functions from numba's
cache), its machine code is read, and the vectoriser's remarks are matched with it. Importing this module
loads numba.
"""

import inspect
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from numba.core import compiler, errors, sigutils, types
from numba.core.dispatcher import Dispatcher

from tailcut.errors import ArgumentTypeError, UnsupportedError, UsageError
from tailcut.kernels.advice import advise
from tailcut.kernels.isa import numba_isa
from tailcut.kernels.loops import Analysis, Loop, LoopFacts, SourceLines, match_loops, source_loops
from tailcut.kernels.machine_code import MachineLoop, innermost_loops, parse_assembly
from tailcut.kernels.prange import kernel_loops, starts_threads
from tailcut.kernels.remarks import Remark, compiler_remarks, why_scalar

_NEWLINE = "\n"

__all__ = ["analyse", "assert_vectorized", "numba_isa"]


def analyse(function: object, signature: str | None = None, *, reasons: bool = True) -> list[Analysis]:
    """Read the machine code of a numba function, for one signature (`float32[::1],int64`) or for all that are compiled.

    With `reasons`, standard error is collected while the compiler works (see `compiler_remarks`).

    Raises:
        UsageError: not a numba function, nothing compiled and no signature, or a signature that does not compile.
        UnsupportedError: the machine code is not x86-64's.
    """
    dispatcher = _dispatcher(function)
    if numba_isa() in {"neon", "sve", "none"}:
        raise UnsupportedError("machine code can be analysed on x86-64 only")
    signatures = [_parse(signature)] if signature is not None else list(dispatcher.signatures)
    if not signatures:
        raise UsageError(
            f"{_name(dispatcher)} has not been compiled yet: call it first, or pass argument types as a "
            "signature such as 'float32[::1],float32[::1]'"
        )
    return [_analyse(dispatcher, arguments, reasons=reasons) for arguments in signatures]


def assert_vectorized(function: Callable[..., object], lanes: int = 8, signature: str | None = None) -> None:
    """Fail unless every loop of a numba function runs on vectors of at least `lanes` elements, by its machine code.

    All compiled signatures are looked at, or the one named (`"float32[::1],float32[::1]"`), which is compiled where it
    is not yet. Lanes are elements of the loop's arithmetic: 8 for float32 in 256 bits. Also fails where nothing is
    compiled, and where no loop is left, because nothing is proven then.

    Raises:
        AssertionError: a loop is scalar or narrower; names the line, what was found, the compiler's reason and advice.
        UsageError: the signature does not parse or compile.
    """
    if signature is None and not getattr(function, "signatures", None):
        raise AssertionError(f"{_name(function)}: not compiled, so nothing can be verified: {_remedy(function)}")
    missing = [analysis for analysis in analyse(function, signature, reasons=False) if not _reaches(analysis, lanes)]
    if missing:
        explained = [analysis for analysis in analyse(function, signature) if not _reaches(analysis, lanes)]
        raise AssertionError("\n".join(_complaint(analysis, lanes) for analysis in explained or missing))


def _remedy(function: object) -> str:
    if isinstance(function, Dispatcher):
        return "call it first, or pass signature='float32[::1],float32[::1]'"
    return "it is not a numba function: decorate it with @numba.njit"


def _reaches(analysis: Analysis, lanes: int) -> bool:
    counts = [facts.loop.tally for facts in analysis.loops if facts.loop.tally is not None]
    return bool(counts) and all(count.lanes >= max(lanes, 2) for count in counts)


def _complaint(analysis: Analysis, lanes: int) -> str:
    head = f"{analysis.function}({analysis.signature})"
    short = [
        facts for facts in analysis.loops if facts.loop.tally is not None and facts.loop.tally.lanes < max(lanes, 2)
    ]
    if not short:
        return f"{head} has no loop in its machine code: there is nothing to vectorise"
    lines = [f"{head}: {len(short)} of {len(analysis.loops)} loops do not run on {lanes} lanes"]
    for facts in short:
        counts = facts.loop.tally
        assert counts is not None  # noqa: S101  chosen above
        where = (
            f"line {facts.loop.lines.first}: {facts.source.partition(_NEWLINE)[0]}"
            if facts.loop.lines
            else "a loop of unknown line"
        )
        lines.append(f"  {where}")
        lines.append(
            f"    {counts.lanes} lanes: {counts.packed} packed instructions beside {counts.scalar} scalar ones"
        )
        lines += [f"    the compiler: {reason}" for reason in facts.reasons]
        lines += [f"    advice: {text}" for text in facts.advice]
    return "\n".join(lines)


def _name(function: object) -> str:
    inner = getattr(function, "py_func", function)
    return f"{getattr(inner, '__module__', '?')}:{getattr(inner, '__qualname__', type(function).__name__)}"


def _dispatcher(function: object) -> Any:
    if isinstance(function, Dispatcher):
        return function
    name = _name(function)
    if type(function).__name__ in {"DUFunc", "GUFunc"}:
        raise ArgumentTypeError(
            f"{name} is a numba ufunc, whose loop belongs to numba: put the loop into an @numba.njit function"
        )
    if inspect.isfunction(function):
        raise ArgumentTypeError(
            f"{name} is a plain Python function, which is not compiled: decorate it with @numba.njit"
        )
    raise ArgumentTypeError(f"{name} is not a numba function: decorate it with @numba.njit")


def _parse(signature: str) -> Any:
    text = signature.strip()
    if not text.endswith(")"):
        text = f"({text},)" if text else "()"
    elif not text.split("(")[0].strip():
        text = f"({text[1:-1]},)" if text[1:-1].strip() else "()"
    try:
        return sigutils.normalize_signature(text)[0]
    except Exception as error:  # noqa: BLE001  numba evaluates the text, so that anything may come
        raise UsageError(
            f"{signature!r} is not a signature: write types such as 'float32[::1],int64' ({error})"
        ) from None


def _analyse(dispatcher: Any, arguments: Sequence[Any], *, reasons: bool) -> Analysis:
    collecting: AbstractContextManager[list[Remark]] = compiler_remarks() if reasons else nullcontext([])
    with collecting as remarks:
        text, symbol, libraries = _compile_with_lines(dispatcher, arguments)
    source, own = _source(dispatcher.py_func)
    lines = range(min(source), max(source) + 1) if source else range(1, sys.maxsize)
    machine = innermost_loops(parse_assembly(text, symbol))
    if starts_threads(text):
        kernels = kernel_loops(text, libraries)
        if not kernels:
            raise UnsupportedError(
                f"{_name(dispatcher)}: the kernels of its prange loops were not found, so they cannot be analysed: "
                "compile it without parallel=True"
            )
        machine = [loop for loop in machine if not _starts_kernels(loop, own)] + kernels
    loops = match_loops(machine, own, lines)
    file = Path(dispatcher.py_func.__code__.co_filename).name
    heard = [remark for remark in remarks if Path(remark.file).name == file]
    strided = any(isinstance(argument, types.Array) and argument.layout == "A" for argument in arguments)
    facts = tuple(_facts(loop, source, own, heard, strided=strided) for loop in loops)
    return Analysis(_name(dispatcher), _types(arguments), facts)


def _compile_with_lines(dispatcher: Any, arguments: Sequence[Any]) -> tuple[str, str, list[str]]:
    """Assembly of the function, compiled with its own options and debug lines, and its symbol.

    Also the assembly of the libraries that it is linked with: for `parallel=True`, its kernels.
    """
    flags = compiler.Flags()
    description = dispatcher.targetdescr
    options = {"boundscheck": None, **dispatcher.targetoptions}
    options["boundscheck"] = bool(options["boundscheck"])  # unset, numba lets it follow debug information
    description.options.parse_as_flags(flags, options)
    flags.debuginfo = flags.dbg_directives_only = True
    flags.dbg_extend_lifetimes = False
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    function, arguments = dispatcher.py_func, tuple(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", errors.NumbaDebugInfoWarning
            )  # an array expression has no source of its own
            result = compiler.compile_extra(
                description.typing_context, description.target_context, function, arguments, None, flags, {}
            )
    except Exception as error:  # noqa: BLE001  numba has many ways to refuse a type
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"{_name(dispatcher)} does not compile for {_types(arguments)}: {reason}") from None
    text = result.library.get_asm_str()
    linked = getattr(result.library, "_linking_libraries", ()) if starts_threads(text) else ()
    return text, result.fndesc.llvm_func_name, [library.get_asm_str() for library in linked]


def _types(arguments: Sequence[Any]) -> str:
    return ", ".join(str(argument) for argument in arguments)


def _source(function: Callable[..., object]) -> tuple[dict[int, str], list[SourceLines]]:
    """The function's lines by number, and its loops; both empty if the source is not available."""
    try:
        lines, first = inspect.getsourcelines(function)
        loops = source_loops(textwrap.dedent("".join(lines)), first)
    except (OSError, TypeError, SyntaxError):
        return {}, []
    return {first + index: line.rstrip() for index, line in enumerate(lines)}, loops


def _facts(
    loop: Loop, source: dict[int, str], own: Sequence[SourceLines], remarks: Sequence[Remark], *, strided: bool
) -> LoopFacts:
    reasons: tuple[str, ...] = ()
    if loop.lines is not None and loop.tally is not None and not loop.vectorized:
        reasons = why_scalar([remark for remark in remarks if _innermost(remark.line, own) == loop.lines])
    text = [source.get(line, "") for line in range(loop.lines.first, loop.lines.last + 1)] if loop.lines else []
    return LoopFacts(
        loop, textwrap.dedent("\n".join(text)), reasons, tuple(advise(loop.tally, reasons, strided=strided))
    )


def _starts_kernels(loop: MachineLoop, own: Sequence[SourceLines]) -> bool:
    """Whether numba added the loop, to divide a prange loop among threads or to combine their results."""
    parallel = [statement for statement in own if statement.parallel]
    return not loop.lines or any(all(line in statement for line in loop.lines) for statement in parallel)


def _innermost(line: int, own: Sequence[SourceLines]) -> SourceLines:
    around = [lines for lines in own if line in lines]
    return min(around, key=lambda lines: lines.last - lines.first) if around else SourceLines(line, line)
