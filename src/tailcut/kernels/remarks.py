"""The remarks of LLVM's loop vectoriser about each loop.

LLVM prints remarks to standard error, whichever program compiles; there is no callback. `compiler_remarks` switches
them on and collects what is printed in the meantime. Importing this module loads llvmlite.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import binding as llvm
from numba.core.compiler_lock import global_compiler_lock

_REMARK = re.compile(r"remark: (.*):(\d+):(\d+): (.*)")
_CONTINUED = re.compile(
    r"[A-Z][a-z-]+ (?:loop |memory |write |\S+ ).*"
)  # LLVM's second lines: "Backward loop carried ..."
_PRAGMA = re.compile(r"\.? ?Use #pragma [^\n]*|;? ?(?:Try|try|and try)[^.\n]*#pragma[^\n]*")  # advice for C
_OPTIONS = ("-pass-remarks", "-pass-remarks-missed", "-pass-remarks-analysis")
_FAILED = "loop not vectorized"
_NOBODY = "no pass has this name"


@dataclass(frozen=True, slots=True)
class Remark:
    """One remark: where it points, what it says, and whether it reports success."""

    file: str
    line: int
    message: str

    @property
    def vectorized(self) -> bool:
        """Whether the loop was vectorised."""
        return self.message.startswith("vectorized loop")


def parse_remarks(text: str) -> tuple[list[Remark], str]:
    """Parse LLVM's output: the remarks, and the rest of the text. Advice about C pragmas is left out."""
    remarks: list[Remark] = []
    rest: list[str] = []
    may_continue = False
    for line in text.splitlines(keepends=True):
        plain = line.rstrip("\n")
        if match := _REMARK.match(plain):
            remarks.append(Remark(match[1], int(match[2]), _clean(match[4])))
            may_continue = "#pragma" in plain
        elif may_continue and _CONTINUED.match(plain):
            last = remarks.pop()
            remarks.append(Remark(last.file, last.line, f"{last.message}: {_clean(plain)}"))
            may_continue = False
        else:
            rest.append(line)
    return remarks, "".join(rest)


def why_scalar(remarks: Sequence[Remark]) -> tuple[str, ...]:
    """The reasons among the remarks on a loop whose machine code is scalar; empty if the compiler gives none."""
    if any(remark.vectorized for remark in remarks):
        return ("vectorised at first, then split up again: its operations have no vector instruction",)
    messages = dict.fromkeys(remark.message.removeprefix(_FAILED).lstrip(": ") for remark in remarks)
    return tuple(text for text in messages if text and "interleaving" not in text)


def _clean(message: str) -> str:
    return _PRAGMA.sub("", message).strip().rstrip(".")


@contextmanager
def compiler_remarks() -> Iterator[list[Remark]]:
    """Collect the vectoriser's remarks on what this thread compiles inside the block; the list is full after it.

    Other threads cannot compile meanwhile. What they print to standard error appears at the end of the block.
    """
    remarks: list[Remark] = []
    sys.stderr.flush()
    with global_compiler_lock, tempfile.TemporaryFile() as collected:
        kept = os.dup(2)
        os.dup2(collected.fileno(), 2)
        _set_remarks("loop-vectorize")
        try:
            yield remarks
        finally:
            _set_remarks(_NOBODY)
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            collected.seek(0)
            parsed, rest = parse_remarks(collected.read().decode(errors="replace"))
            remarks.extend(parsed)
            sys.stderr.write(rest)


def _set_remarks(name_of_pass: str) -> None:
    for option in _OPTIONS:
        llvm.set_option("tailcut", f"{option}={name_of_pass}")
