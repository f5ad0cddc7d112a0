"""The package's own face: few public names, loaded at first use."""

import subprocess
import sys

import pytest

import tailcut


@pytest.mark.parametrize("name", tailcut.__all__)
def test_public_name(name: str) -> None:
    """Every public name exists, carries a docstring, and is listed."""
    assert getattr(tailcut, name).__doc__
    assert name in dir(tailcut)


def test_unknown_name() -> None:
    """A name that is not there is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tailcut.nonsense  # noqa: B018  the look-up is the test


def test_import_is_cheap() -> None:
    """`import tailcut` loads neither numpy nor an engine; a buffer pool loads no engine and no compiler."""
    program = (
        "import sys, tailcut; heavy = {'numpy', 'onnx', 'onnxruntime', 'openvino', 'numba', 'asyncio'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "tailcut.BufferPool; heavy -= {'numpy'}; assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
