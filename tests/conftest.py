"""Fixtures and hooks that tests of several packages share."""

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
# Without this, threads of numpy's OpenBLAS poll when they come: a tenth of a second of CPU time in each process that
# imports numpy, of which the tests start hundreds.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


def pytest_configure() -> None:
    """Have SIGINT end commands that tests start, even when the tests run in the background, where it is ignored.

    Garbage collection is off until the tests are collected: it would walk all of their modules time and again.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()


def pytest_collection_finish() -> None:
    """Turn garbage collection on again, without walking the tests' modules, which stay."""
    gc.freeze()
    gc.enable()


def pytest_sessionstart() -> None:
    """Keep commands that run in this process from replacing pytest's own faulthandler."""
    faulthandler.enable = lambda *_, **__: None


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, sched: Any) -> None:
    """Name at once the test that crashed a process of pytest-xdist, and run only what that process had not yet run.

    With a file whose tests have all run, the next process would wait forever.
    """
    sys.stderr.write(f"\nthe process crashed in {crashitem}\n")
    for file, tests in [*sched.workqueue.items()]:
        if crashitem in tests:
            tests[crashitem] = True
        if all(tests.values()):
            del sched.workqueue[file]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Restore logging and signals, which commands that run in this process set up."""
    with logging_restored(), signals_restored():
        yield


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command with a mistake in this process; checks that it exits with 2, and returns its one line on stderr."""
    from tailcut.cli.main import main

    def run(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        assert main([*arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("tailcut: ")
        assert len(err.splitlines()) == 1
        return err

    return run


@pytest.fixture
def forked_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork all servers that this process measures (`tailcut.lab.trial`) from the tests' fork server."""
    fork_trials(monkeypatch)


@pytest.fixture
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a quarter of the usual requests in plans, so that a hundred are beyond the 99th percentile."""
    from tailcut.planning import search

    monkeypatch.setattr(search, "_FEWEST", 10_000)
    monkeypatch.setattr(search, "_PER_SERVER", 500)
    monkeypatch.setattr(search, "_BEYOND", 100)
