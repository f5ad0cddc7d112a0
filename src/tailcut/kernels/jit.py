"""How kernels are compiled: at their first call for a dtype, or all at once by `prepare`, and kept in numba's cache.

All release the GIL and none uses numba's own threads. `prepare` belongs before worker threads start, so that no request
waits for a compiler. Importing this module loads numba.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tailcut.kernels.cache import compiled

FUSED = frozenset({"contract", "reassoc"})  # multiply and add in one instruction, sums in any order
EXACT = frozenset({"contract"})

_F = TypeVar("_F", bound=Callable[..., None])
_PREPARED: list[tuple[Any, tuple[str, ...]]] = []


def kernel(*signatures: str, fastmath: frozenset[str] = EXACT) -> Callable[[_F], _F]:
    """Make a kernel of a loop; `prepare` compiles it for these argument types, written as `float32[::1],int64`."""

    def declare(function: _F) -> _F:
        dispatcher = compiled(fastmath=set(fastmath), error_model="numpy")(function)
        _PREPARED.append((dispatcher, signatures))
        return dispatcher

    return declare


def prepared() -> dict[str, tuple[str, ...]]:
    """The kernels of every module that is loaded, by name, with the signatures that `prepare` compiles."""
    return {dispatcher.py_func.__name__: signatures for dispatcher, signatures in _PREPARED}


def prepare() -> None:
    """Compile the kernels of every module that is loaded, or load them from the cache."""
    for dispatcher, signatures in _PREPARED:
        for signature in signatures:
            dispatcher.compile(f"void({signature})")


@intrinsic  # type: ignore[untyped-decorator]
def as_float32(context: Any, bits: Any) -> Any:  # noqa: ARG001  numba's protocol
    """The float32 that has these 32 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic  # type: ignore[untyped-decorator]
def larger(context: Any, value: Any, other: Any) -> Any:  # noqa: ARG001  numba's protocol
    """The larger of two float32 that are not NaN: in the one form that LLVM takes for a maximum in any order."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        flags = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(">", *arguments, flags=flags), *arguments, flags=flags)

    return types.float32(types.float32, types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def as_bits(context: Any, value: Any) -> Any:  # noqa: ARG001  numba's protocol
    """The 32 bits of a float32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate
