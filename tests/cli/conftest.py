"""What tests of several commands ask in the same way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tailcut.cli.main import main


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says to a mistake, run in a folder: exit code 2, nothing on stdout, and one line of Tailcut's."""

    def said(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        assert main([*arguments]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("tailcut: ")
        assert len(err.splitlines()) == 1
        return err

    return said
