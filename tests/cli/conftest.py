"""Fixtures for tests of several commands."""

import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from tailcut.cli.main import main


class Bench(Protocol):
    """Runs `tailcut bench` with these arguments."""

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str]) -> Bench:
    """Run `tailcut bench` in this process, which is faster than starting another one."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["bench", "--warmup", "50ms", *map(str, arguments)]
        code = main(command)
        return subprocess.CompletedProcess(command, code, *capfd.readouterr())

    return run
