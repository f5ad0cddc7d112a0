"""The tests that need a card are collected on every machine, so that it is known what was not run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hidden import without

HERE = Path(__file__).parent


@pytest.mark.slow
def test_without_pytorch_too(tmp_path: Path) -> None:
    """Both engines' tests: they are skipped, and say what is missing."""
    command = [sys.executable, "-m", "pytest", str(HERE), "-m", "gpu", "-rs", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        command, cwd=HERE.parents[2], env=without(tmp_path, "torch"), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"test_engine\.py:\d+: needs PyTorch: make test-torch", ended.stdout)
    assert "test_onnx.py" in ended.stdout
