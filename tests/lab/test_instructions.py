"""Instruction counts, by a real valgrind where it is installed: they repeat, and grow with the work."""

import shutil
import sys
from pathlib import Path

import pytest

from tailcut.errors import UnsupportedError, UsageError
from tailcut.lab.counted import find, main
from tailcut.lab.instructions import count_command, count_instructions

needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
WORK = """
def arguments(): return ([0] * 100,)
def long_arguments(): return ([0] * 1100,)
def walk(values):
    for value in values:
        pass
def fail(): raise ValueError("of its own")
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counted_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
@needs_valgrind
@pytest.mark.usefixtures("work")
def test_a_count_repeats_and_grows_with_the_work() -> None:
    """Two counts of the same work are equal to the instruction; a thousand more steps cost some instructions each."""
    short = count_instructions("counted_work:walk", "counted_work:arguments", loops=20)
    assert short == count_instructions("counted_work:walk", "counted_work:arguments", loops=20)
    long = count_instructions("counted_work:walk", "counted_work:long_arguments", loops=20)
    assert 1_000 < long - short < 100_000
    assert 100 < short < 20_000


@pytest.mark.slow
@needs_valgrind
@pytest.mark.usefixtures("work")
def test_what_fails_is_named() -> None:
    """A function that raises gives the last line of its traceback."""
    with pytest.raises(UsageError, match="counted_work:fail failed: ValueError: of its own"):
        count_instructions("counted_work:fail")


@needs_valgrind
def test_a_command() -> None:
    """A whole program counts too; one that is not there is named."""
    assert count_command(["true"]) > 10_000
    with pytest.raises(UsageError, match="no-such-program"):
        count_command(["no-such-program"])
    with pytest.raises(UsageError, match="false failed"):
        count_command(["false"])


def test_without_valgrind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where valgrind is not installed, one line says so and how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="valgrind is not installed: install it") as raised:
        count_instructions("operator:add")
    assert "\n" not in str(raised.value)
    with pytest.raises(UnsupportedError, match="valgrind is not installed"):
        count_command([sys.executable])


def test_names() -> None:
    """A name leads to a function of a module, or of a class in it."""
    assert find("os.path:join").__name__ == "join"
    assert find("pathlib:Path.home").__name__ == "home"


def test_outside_valgrind() -> None:
    """The child refuses to pretend: without valgrind under it there is no count."""
    with pytest.raises(SystemExit, match=r"not running under valgrind|x86_64 only"):
        main("operator:add", "", 1)


def test_no_calls() -> None:
    """Nothing to count is refused."""
    with pytest.raises(UsageError, match="at least 1"):
        count_instructions("operator:add", loops=0)
