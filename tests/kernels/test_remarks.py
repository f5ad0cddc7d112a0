"""The vectoriser's remarks are read from what LLVM prints, and nothing else of standard error is lost."""

import os

import numba
import pytest

from tailcut.kernels.remarks import Remark, compiler_remarks, parse_remarks, why_scalar

PRINTED = """\
remark: a.py:7:1: vectorized loop (vectorization width: 16, interleaved count: 4)
a log line of another library
remark: a.py:9:1: loop not vectorized: unsafe dependent memory operations in loop. Use #pragma clang loop \
distribute(enable) to allow loop distribution to attempt to isolate the offending operations into a separate loop
Backward loop carried data dependence. Memory location is the same as accessed at a.py:9:1
remark: a.py:8:1: loop not vectorized
"""


def test_parse():
    """Each remark has its line; a reason of two lines is one; advice about pragmas goes; the rest stays."""
    remarks, rest = parse_remarks(PRINTED)
    assert [(remark.line, remark.vectorized) for remark in remarks] == [(7, True), (9, False), (8, False)]
    assert remarks[1].message == (
        "loop not vectorized: unsafe dependent memory operations in loop: Backward loop carried data dependence. "
        "Memory location is the same as accessed at a.py:9:1"
    )
    assert rest == "a log line of another library\n"


def test_reasons():
    """A remark that only says no is no reason; one that says yes over scalar code tells that it was undone."""
    no, why = Remark("a.py", 1, "loop not vectorized"), Remark("a.py", 1, "loop not vectorized: because")
    assert why_scalar([no, why, why]) == ("because",)
    assert why_scalar([no]) == ()
    assert "split up" in why_scalar([Remark("a.py", 1, "vectorized loop (vectorization width: 4)")])[0]


def test_collecting(capfd: pytest.CaptureFixture[str]):
    """Remarks are collected inside the block only; what others write to standard error meanwhile comes out after it."""

    def double(x):
        for i in range(len(x)):
            x[i] *= 2

    with compiler_remarks() as remarks:
        numba.njit(double).compile("void(float32[::1])")
        os.write(2, b"another library\n")
    assert any(remark.vectorized for remark in remarks)
    numba.njit(double).compile("void(float64[::1])")
    assert capfd.readouterr().err == "another library\n"
