"""Files that a command is to write are checked before it does anything else."""

import os
from pathlib import Path

import pytest

from tailcut.cli.main import main
from tailcut.cli.outputs import check_writable, command_line
from tailcut.errors import UsageError


def test_what_can_be_written(tmp_path: Path) -> None:
    """A new file, an old one, and one that was not asked for."""
    old = tmp_path / "old"
    old.write_text("text")
    check_writable(tmp_path / "new", old, None)
    assert old.read_text() == "text"
    assert not (tmp_path / "new").exists()


def test_what_cannot(tmp_path: Path) -> None:
    """A folder, a file in a folder that is missing, and one in a folder that is read-only."""
    with pytest.raises(UsageError, match="missing: no such folder, cannot write f"):
        check_writable(None, tmp_path / "missing" / "f")
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(tmp_path)
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(UsageError, match="the folder is read-only"):
            check_writable(tmp_path / "f")


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "http://127.0.0.1:9", "-o", "none/f"),
        ("bench", "http://127.0.0.1:9", "--report", "none/f"),
        ("explain", "http://127.0.0.1:9", "--report", "none/f"),
        ("explain", "http://127.0.0.1:9", "--trace", "none/f"),
        ("microbench", "os:getpid", "--save", "none/f"),
        ("microbench", "os:getpid", "--report", "none/f"),
        ("plan", "none.toml", "--rate", "5", "--slo", "p99=5ms", "--report", "none/f"),
    ],
)
def test_commands_look_first(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Before they ask a server, time a function or read a profile."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.endswith("none: no such folder, cannot write f")


@pytest.mark.parametrize("given", [["--header", "authorization: Bearer s3cret"], ["--header=Cookie:s3cret"]])
def test_a_result_does_not_hold_what_a_header_authorises_with(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """The rest of the command is as it was given."""
    monkeypatch.setattr("sys.argv", ["tailcut", "bench", "http://a b", *given])
    assert command_line().startswith("tailcut bench 'http://a b' ")
    assert command_line().endswith(": (hidden)'")
    assert "s3cret" not in command_line()
