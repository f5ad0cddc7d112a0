"""Runs commands in the tests' own process and forks servers, which saves the time that starting them takes."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

import pytest

_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)  # `tailcut.cli.serving.process.EarlySignals`


@contextmanager
def logging_restored() -> Iterator[None]:
    """Restore logging after the block, because a command sets it up for its process."""
    logger = logging.getLogger("tailcut")
    handlers, level, propagate = [*logger.handlers], logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@contextmanager
def signals_restored() -> Iterator[None]:
    """Restore signal handlers after the block: a starting server ignores two signals, which child processes inherit."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def fork_trials(patch: pytest.MonkeyPatch) -> None:
    """Fork all servers that this process measures (`tailcut.lab.trial`) from the tests' fork server."""
    from tailcut.lab.fork_server import fork
    from tests.servers import MODULES

    patch.setattr("tailcut.lab.trial.execute", partial(fork, modules=MODULES))
    patch.setattr("tailcut.lab.trial.modules_of", lambda profile: MODULES)
    patch.setattr("tailcut.tuner.servers.modules_of", lambda profile: MODULES)
    patch.setattr("tailcut.tuner.session.prepare", lambda modules: None)


def ran(folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Run `tailcut ARGUMENTS` in a folder; its exit code and output. For fixtures that several tests share."""
    from tailcut.cli.main import main

    with (
        logging_restored(),
        signals_restored(),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["tailcut", *arguments])  # for what a record or a page says of its command
        code = main(arguments)
    return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
