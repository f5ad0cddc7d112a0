"""The machine loops of the kernels that numba makes of `prange` loops and array expressions with `parallel=True`.

Pure: the compiler's texts in, values out. Threads run a kernel through a wrapper. Where the compiler has put the kernel
into the wrapper, its instructions have no line numbers any more; those of the kernel before inlining are used then.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tailcut.kernels.machine_code import MachineLoop, innermost_loops, parse_assembly
from tailcut.kernels.tally import operations

_MARK = "__gufunc__."  # what numba puts before a kernel's symbol to name its wrapper
_WRAPPER = re.compile(rf'^"?({re.escape(_MARK)}[^":\s]+)"?:', re.MULTILINE)
_START = "numba_parallel_for"  # the function that has threads run a wrapper


def starts_threads(text: str) -> bool:
    """Whether a function's machine code starts threads that run kernels."""
    return _START in text


def kernel_loops(text: str, libraries: Sequence[str]) -> list[MachineLoop]:
    """The innermost loops of all kernels in the machine code `text`; `libraries` hold them as compiled first."""
    wrappers = dict.fromkeys(_WRAPPER.findall(text))
    return [loop for wrapper in wrappers for loop in _loops_of_kernel(text, wrapper, libraries)]


def _loops_of_kernel(text: str, wrapper: str, libraries: Sequence[str]) -> Iterator[MachineLoop]:
    kernel = wrapper.removeprefix(_MARK)
    code = parse_assembly(text, kernel)
    if code:
        yield from innermost_loops(code)
        return
    first = [loop for library in libraries for loop in innermost_loops(parse_assembly(library, kernel)) if loop.lines]
    for loop in innermost_loops(parse_assembly(text, wrapper)):
        line = _line(loop, first)
        yield MachineLoop(tuple(replace(instruction, line=line) for instruction in loop.body))


def _line(loop: MachineLoop, first: Sequence[MachineLoop]) -> int:
    """The line of most instructions of the most similar loop in `first`; 0 if there is none."""
    if not first:
        return 0
    wanted = operations(loop.body)
    likest = max(first, key=lambda item: len(wanted & operations(item.body)) - len(wanted ^ operations(item.body)))
    return Counter(likest.lines).most_common(1)[0][0]
