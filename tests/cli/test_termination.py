"""SIGTERM as an interrupt: of the block it is taken in, once, and in no process that is forked there."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import typer
from tests.processes import interrupted

from tailcut.cli.main import INTERRUPTED
from tailcut.cli.termination import TERMINATED, interrupted_once, nothing_found_code, nothing_written

HELD = """
import sys, tempfile, time
from tailcut.cli.termination import interrupted_once
with interrupted_once(), tempfile.TemporaryDirectory(prefix="held-", dir="."):
    print("held", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)
"""


def test_files_go_and_the_exit_code_is_that_of_the_signal(tmp_path: Path) -> None:
    """A program that does not take the interrupt leaves its blocks, and ends with the code of SIGTERM."""
    code, out, err = interrupted([sys.executable, "-c", HELD], tmp_path, "held", signal.SIGTERM)
    assert (out, list(tmp_path.iterdir())) == ("", [])
    assert code != -signal.SIGTERM
    assert "Exit" in err.splitlines()[-1]


def test_the_first_one_interrupts_and_others_do_not() -> None:
    """What takes it can write its result in peace; the handler that was there before is there again."""
    before = signal.getsignal(signal.SIGTERM)
    with interrupted_once():
        assert nothing_found_code() == INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert nothing_found_code() == TERMINATED
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(typer.Exit) as left, interrupted_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.exit_code == TERMINATED
    with pytest.raises(KeyboardInterrupt), interrupted_once():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_that_python_discards_comes_again(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a finalizer, as in a hook of fork, an exception goes no further: the signal would be lost."""

    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    def work() -> None:
        Last()
        time.sleep(20)

    began = time.monotonic()
    with interrupted_once():
        with pytest.raises(KeyboardInterrupt):
            work()
        assert nothing_found_code() == (TERMINATED if number is signal.SIGTERM else INTERRUPTED)
    assert time.monotonic() - began < 10
    assert "Exception ignored" not in capsys.readouterr().err


def test_a_process_that_is_forked_ends_at_once() -> None:
    """It has the handler of its parent, and nothing to tidy up."""
    with interrupted_once():
        number = os.fork()
        if not number:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(number, 0)[1]) == signal.SIGTERM


def test_a_second_control_c_soon_after_the_first_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    """What the first one began is done; a third one ends at once, and the handler is Python's again afterwards."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupted_once():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), nothing_written("it began"):
            os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == "tailcut: interrupted again before the files were written\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_later_control_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 2 s after the first, what is being done may have no end."""
    times = iter([10.0, 12.1])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with interrupted_once():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_control_c_that_is_ignored_stays_so() -> None:
    """As of a command in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupted_once():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_leaves_nothing_behind_says_so(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, whichever signal it was."""
    with pytest.raises((KeyboardInterrupt, typer.Exit)), interrupted_once(), nothing_written("it began"):
        os.kill(os.getpid(), number)
    assert capsys.readouterr().err == "tailcut: interrupted before it began: no file was written\n"
