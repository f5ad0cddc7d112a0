"""How wide results are printed: as the terminal, as the user says, or so that nothing is cut off."""

import subprocess
import sys

import pytest

from tailcut.report.terminal import output_console


@pytest.mark.parametrize("stderr", [False, True])
def test_without_a_terminal_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch, stderr: bool) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output_console(stderr=stderr).width == 170


def test_columns_are_what_the_user_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert output_console().width == 90


def test_a_table_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue of settings, which has a wide table, loses no word of it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    command = [sys.executable, "-m", "tailcut", "ladder"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert max(map(len, out.splitlines())) > 80
    assert "\u2026" not in out
