"""What tests of several packages ask in the same way, and what all of them start from."""

import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.in_process import fork_trials, logging_restored, signals_restored

os.environ.pop("COLUMNS", None)  # the line editor of the process that starts the workers sets it


def pytest_configure() -> None:
    """SIGINT ends a command that a test starts, also where these tests run in the background and it is ignored.

    Until the tests are collected there is no garbage collection: it would walk all of their modules time and again.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()


def pytest_collection_finish() -> None:
    """What the tests leave is collected as ever; their modules, which stay, are not walked for it."""
    gc.freeze()
    gc.enable()


def pytest_sessionstart() -> None:
    """A command that runs in this process leaves pytest's own handler of crashes, whose output is not captured."""
    faulthandler.enable = lambda *_, **__: None


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, sched: Any) -> None:
    """Name at once the test that ended a process of pytest-xdist, and run only what that process had not yet run.

    Given a file of which everything has run, the next process would wait for ever.
    """
    sys.stderr.write(f"\nthe process ended in {crashitem}\n")
    for file, tests in [*sched.workqueue.items()]:
        if crashitem in tests:
            tests[crashitem] = True
        if all(tests.values()):
            del sched.workqueue[file]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up logging and signals, which are not for the test after it."""
    with logging_restored(), signals_restored():
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


@pytest.fixture
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans simulate a quarter of the requests, of which a hundred are beyond the 99th percentile."""
    from tailcut.planning import search

    monkeypatch.setattr(search, "_FEWEST", 10_000)
    monkeypatch.setattr(search, "_PER_SERVER", 500)
    monkeypatch.setattr(search, "_BEYOND", 100)
