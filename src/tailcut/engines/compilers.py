"""Finds out whether a machine has what PyTorch needs to compile programs, without loading PyTorch."""

import os
import shutil

from tailcut.engines.installed import is_installed
from tailcut.errors import UnsupportedError


def missing_compiler(device: str) -> str:
    """What is missing to compile programs for a device (cpu, cuda), and what to do; "" where nothing is missing.

    For the CPU, PyTorch writes C++; for CUDA, kernels in Triton, which calls them through C code.
    """
    if device == "cuda":
        if not is_installed("triton"):
            return "triton, which is not installed: pip install triton"
        if not _has(os.environ.get("CC", "gcc"), "clang"):
            return "a C compiler, which this machine does not have: install one (on Debian, apt install gcc)"
    elif not _has(os.environ.get("CXX", "g++"), "clang++"):
        return "a C++ compiler, which this machine does not have: install one (on Debian, apt install g++)"
    return ""


def need_compiler(compiler: str, device: str) -> None:
    """Check that programs can be compiled.

    Raises:
        UnsupportedError: something is missing; the message says what, and names a setting that needs nothing.
    """
    missing = missing_compiler(device)
    if missing:
        raise UnsupportedError(f"compiler {compiler!r} needs {missing}, or use compiler 'eager'")


def _has(*names: str) -> bool:
    return any(shutil.which(name) for name in names)
