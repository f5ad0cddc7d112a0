"""The child that `lab/instructions.py` runs under callgrind: `python -m tailcut.lab.counted TARGET SETUP LOOPS`.

By client requests (valgrind.h, callgrind.h), it tells callgrind when to begin, when to write its counts, and when to
end, so that the interpreter's start runs uninstrumented. A client request is a fixed sequence of instructions without
effect on a processor; it is in a page of our own, so that no compiler is needed. A function of the C library cannot
mark the region instead (`--toggle-collect`), because callgrind does not see calls made by libffi.
"""

import ctypes
import gc
import mmap
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import repeat
from typing import Any

_RUNNING_ON_VALGRIND = 0x1001
_DUMP, _START, _STOP = 0x43540000, 0x43540004, 0x43540005  # ('C', 'T'): the requests of callgrind
_WARM_UP = 64  # calls after which CPython's adaptive interpreter has specialised the bytecode (PEP 659)
_X86_64 = bytes.fromhex(
    "4889f8"  # mov %rdi, %rax: the request and its arguments
    "31d2"  # xor %edx, %edx: the answer outside valgrind
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol $3, $13, $61, $51, %rdi: 128 bits in all
    "4887db"  # xchg %rbx, %rbx
    "4889d0 c3"  # mov %rdx, %rax; ret
)


def find(name: str) -> Any:
    """The object that `module:name` or `module:Class.name` names."""
    module, _, path = name.partition(":")
    target: Any = import_module(module)
    for part in path.split("."):
        target = getattr(target, part)
    return target


def main(target: str, setup: str, loops: int) -> None:
    """Count `loops` calls and then twice as many: the difference is that of `loops` calls alone."""
    function: Callable[..., object] = find(target)
    arguments: tuple[Any, ...] = tuple(find(setup)()) if setup else ()
    ask = _client_requests()
    for _ in repeat(None, _WARM_UP):
        function(*arguments)
    gc.collect()
    gc.disable()  # a collection belongs to no single call, and would fall into one region or the other
    ask(_START)
    for calls in (loops, loops, 2 * loops):  # the first pays one-time costs
        for _ in repeat(None, calls):
            function(*arguments)
        ask(_DUMP)
    ask(_STOP)


def _client_requests() -> Callable[[int], int]:
    if platform.machine() != "x86_64":
        raise SystemExit(f"instructions are counted on x86_64 only, and this is {platform.machine()}")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_X86_64)
    code = ctypes.c_char.from_buffer(page)
    send = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64))(ctypes.addressof(code))
    words = (ctypes.c_uint64 * 6)()

    def ask(request: int, _page: object = code) -> int:  # keeps the page alive
        words[0] = request
        return int(send(words))

    if not ask(_RUNNING_ON_VALGRIND):
        raise SystemExit("this is not running under valgrind: call tailcut.lab.instructions instead")
    return ask


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
