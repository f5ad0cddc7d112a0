"""What tests of several packages ask in the same way, and what all of them start from."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.in_process import fork_trials, logging_restored

os.environ.pop("COLUMNS", None)  # the line editor of the process that starts the workers sets it


def pytest_configure() -> None:
    """SIGINT ends a command that a test starts, also where these tests run in the background and it is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up logging, which is not for the test after it."""
    with logging_restored():
        yield


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
def forked_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """All servers that this process measures (`tailcut.lab.trial`) are forked, by the tests' own fork server."""
    fork_trials(monkeypatch)
