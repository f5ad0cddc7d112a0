"""What tests of several commands ask in the same way."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from tailcut.cli.main import main


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says to a mistake, run in a folder: exit code 2, nothing on stdout, and one line of Tailcut's."""

    def said(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        assert main([*arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("tailcut: ")
        assert len(err.splitlines()) == 1
        return err

    return said


class Bench(Protocol):
    """Runs `tailcut bench` with these arguments."""

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def bench(capfd: pytest.CaptureFixture[str]) -> Bench:
    """In this process, which saves the time that starting one takes; else alike."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["bench", "--warmup", "50ms", *map(str, arguments)]
        code = main(command)
        return subprocess.CompletedProcess(command, code, *capfd.readouterr())

    return run
