"""Kernels that threads run: what numba makes of prange loops and array expressions is read like any other loop.

Compiling them starts numba's threads, so it happens in a process of its own.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code is read on x86-64 only")

FUNCTIONS = """import numba
import numpy as np
from numba import prange


@numba.njit(parallel=True)
def two(a, b, n):
    for i in prange(a.shape[0]):
        b[i] = a[i] * a[i]
    total = 0.0
    for k in range(n):
        total += b[k % 7]
    for i in numba.prange(a.shape[0]):
        x = a[i]
        while x > 1:
            x = x * 0.5 - 1
        b[i] += x
    return total


@numba.njit(parallel=True, fastmath=True)
def dot(a, b):
    s = np.float32(0)
    for i in prange(a.shape[0]):
        s += a[i] * b[i]
    return s


@numba.njit(parallel=True)
def rows(a, out):
    for i in prange(a.shape[0]):
        s = 0.0
        for j in range(a.shape[1]):
            s += a[i, j]
        out[i] = s


@numba.njit(parallel=True)
def expression(a, b):
    return a * 2 + b
"""
PROGRAM = """import json, sys, warnings
warnings.simplefilter("ignore")
import parallel
from tailcut.kernels.vectorization import analyse
one, two = "float32[::1]", "float32[:,::1]"
signatures = {"two": f"{one},{one},int64", "dot": f"{one},{one}", "rows": f"{two},{one}", "expression": f"{one},{one}"}
found = {}
for name, signature in signatures.items():
    (analysis,) = analyse(getattr(parallel, name), signature, reasons=False)
    found[name] = [(one.loop.lines.first, one.loop.vectorized, one.loop.tally.lanes) for one in analysis.loops]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Of each function, its loops: first line, whether on vectors, lanes."""
    folder: Path = tmp_path_factory.mktemp("prange")
    (folder / "parallel.py").write_text(FUNCTIONS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def line(text: str) -> int:
    return FUNCTIONS.splitlines().index(text) + 1


@pytest.mark.slow
def test_every_loop_of_a_function_is_there(result: dict[str, list]) -> None:
    """Loops over prange and between them, each once, at its own line; numba's loops over threads are left out."""
    vectors, between, inner = result["two"]
    assert vectors[:2] == [line("    for i in prange(a.shape[0]):"), True]
    assert vectors[2] >= 4
    assert between[:2] == [line("    for k in range(n):"), False]
    assert inner[:2] == [line("        while x > 1:"), False]


@pytest.mark.slow
def test_a_reduction_over_threads(result: dict[str, list]) -> None:
    """Where sums may be reordered the kernel is on vectors; otherwise the inner loop is reported as scalar."""
    assert [item[1] for item in result["dot"]] == [True]
    assert [item[:2] for item in result["rows"]] == [[line("        for j in range(a.shape[1]):"), False]]


@pytest.mark.slow
def test_array_expressions(result: dict[str, list]) -> None:
    """They become kernels too, at their own line."""
    assert [item[:2] for item in result["expression"]] == [[line("    return a * 2 + b"), True]]
