"""What tests of several packages ask in the same way."""

from collections.abc import Callable
from pathlib import Path

import pytest


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
