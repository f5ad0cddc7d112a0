"""The loops of a function in a compiled library, read with objdump (of binutils).

Without debug information (`-g`) there are no lines: a scalar loop that does the same work as a vectorised one is then
taken for its remainder. The compiler's reasons are not in a library: `gcc -fopt-info-vec-missed` prints them.
"""

import shutil
import subprocess
from pathlib import Path

from tailcut.errors import MissingFileError, UnsupportedError, UsageError
from tailcut.kernels.loops import Analysis, LoopFacts, match_loops
from tailcut.kernels.machine_code import innermost_loops, parse_disassembly

_MEND = "compile with -O3 -march=native; gcc -fopt-info-vec-missed and clang -Rpass-analysis=loop-vectorize say why not"


def analyse_symbol(path: Path, symbol: str) -> Analysis:
    """Read the machine code of a function in a shared object, an object file or a program.

    Raises:
        UsageError: no such file, no machine code in it, or no such function.
        UnsupportedError: objdump is not installed, or the code is not x86-64's.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    if (objdump := shutil.which("objdump")) is None:
        raise UnsupportedError("reading a library needs objdump: install binutils (Debian: apt install binutils)")
    done = subprocess.run(  # noqa: S603  objdump reads the file and runs nothing of it
        [objdump, "-d", "-l", "--no-show-raw-insn", f"--disassemble={symbol}", "--", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UsageError(f"{path}: objdump found no machine code in it")
    if "file format elf64-x86-64" not in done.stdout:
        raise UnsupportedError(f"{path}: machine code can be analysed for x86-64 only")
    code = parse_disassembly(done.stdout)
    if not code:
        raise UsageError(f"{path} has no function {symbol!r}: `nm -D --defined-only {path}` lists them")
    loops = match_loops(innermost_loops(code))
    facts = (LoopFacts(loop, "", (), () if loop.vectorized else (_MEND,)) for loop in loops)
    return Analysis(f"{path.name}:{symbol}", "", tuple(facts))
