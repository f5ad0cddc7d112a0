"""What PyTorch needs to compile, by what is on the path and what is installed."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from tailcut.engines.compilers import missing_compiler, need_compiler
from tailcut.errors import UnsupportedError


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path with no compiler on it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", ["g++", "clang++"])
def test_the_cpu_needs_cpp(path: Path, name: str) -> None:
    """Either compiler, or that of CXX."""
    with pytest.raises(
        UnsupportedError, match=r"compiler 'inductor' needs a C\+\+ compiler, .* or use compiler 'eager'"
    ):
        need_compiler("inductor", "cpu")
    program(path / name)
    need_compiler("inductor", "cpu")


def test_a_compiler_may_be_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch takes it from the environment."""
    program(path / "mine")
    monkeypatch.setenv("CXX", str(path / "mine"))
    assert not missing_compiler("cpu")


def test_a_device_needs_triton_and_c(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each."""
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    assert missing_compiler("cuda").startswith("triton, which is not installed")
    triton = ModuleType("triton")
    triton.__spec__ = ModuleSpec("triton", None)
    monkeypatch.setitem(sys.modules, "triton", triton)
    assert missing_compiler("cuda").startswith("a C compiler")
    program(path / "gcc")
    assert not missing_compiler("cuda")
