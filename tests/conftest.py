"""What tests of several packages ask in the same way, and what all of them start from."""

import logging
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def pytest_configure() -> None:
    """SIGINT ends a command that a test starts, also where these tests run in the background and it is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up logging, which is not for the test after it."""
    logger = logging.getLogger("tailcut")
    handlers, level, propagate = [*logger.handlers], logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says to a mistake, run in a folder and in this process: exit code 2, and nothing but one line."""
    from tailcut.cli.main import main

    def said(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        assert main([*arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("tailcut: ")
        assert len(err.splitlines()) == 1
        return err

    return said


@pytest.fixture
def launched_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers that this process measures (`tailcut.lab.trial`) come from `tests.servers.start`."""
    from tests.servers import start

    def popen(command: list[str], **options: Any) -> object:
        return start(command[3:], options["stderr"], {})  # after PYTHON -m tailcut

    stand_in = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr("tailcut.lab.trial.subprocess", stand_in)
