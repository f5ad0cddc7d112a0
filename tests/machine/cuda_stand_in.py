"""A library in the place of the CUDA driver's, compiled for the tests: device memory is a file, a handle its name."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("libcuda.c")


def library(folder: Path) -> Path:
    """The compiled library, called as the driver's; put its folder first in LD_LIBRARY_PATH to have it loaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, _SOURCE], check=True)
    return path


def handle(file: Path) -> bytes:
    """What the library takes for a file."""
    name = str(file).encode()
    assert len(name) < 64, f"{file}: too long a name for a handle"
    return name.ljust(64, b"\0")
