"""The instruction set that numba reaches is the one its machine code shows."""

import os
import platform
import subprocess
import sys

import pytest

from tailcut.kernels.vectorization import numba_isa

X86 = platform.machine().lower() in {"x86_64", "amd64"}


def isa_of(**settings: str) -> str:
    code = "from tailcut.kernels.vectorization import numba_isa; print(numba_isa())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | settings, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_here():
    """This machine's instruction set has a name, and asking twice gives the same."""
    assert numba_isa() == numba_isa() != "none"


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the names of x86-64 processors")
@pytest.mark.parametrize(
    ("name", "isa"), [("generic", "sse2"), ("nehalem", "sse4"), ("haswell", "avx2"), ("skylake-avx512", "avx512")]
)
def test_named_processor(name: str, isa: str):
    """A processor named in NUMBA_CPU_NAME counts with all that its name implies, and nothing of the host's."""
    assert isa_of(NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES="") == isa
