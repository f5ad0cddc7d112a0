"""SIGTERM as an interrupt: of the block it is taken in, once, and in no process that is forked there."""

import os
import signal
import sys
from pathlib import Path

import pytest
import typer
from tests.processes import interrupted

from tailcut.cli.main import INTERRUPTED
from tailcut.cli.termination import TERMINATED, interrupted_by_sigterm, nothing_found_code

HELD = """
import sys, tempfile, time
from tailcut.cli.termination import interrupted_by_sigterm
with interrupted_by_sigterm(), tempfile.TemporaryDirectory(prefix="held-", dir="."):
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
    with interrupted_by_sigterm():
        assert nothing_found_code() == INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert nothing_found_code() == TERMINATED
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(typer.Exit) as left, interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.exit_code == TERMINATED
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGINT)


def test_a_process_that_is_forked_ends_at_once() -> None:
    """It has the handler of its parent, and nothing to tidy up."""
    with interrupted_by_sigterm():
        number = os.fork()
        if not number:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(number, 0)[1]) == signal.SIGTERM
