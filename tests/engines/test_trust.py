"""Files that the user trusts."""

import os
from pathlib import Path

import pytest

from tailcut.engines.trust import is_trusted, trust


@pytest.fixture(autouse=True)
def own_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILCUT_TRUSTED_FILES", "")


def test_nothing_is_trusted_without_the_option(tmp_path: Path) -> None:
    """A file says nothing of the one beside it; a folder speaks for all that is below it."""
    trust(tmp_path / "a" / "one.pkl")
    trust(tmp_path / "b")
    assert is_trusted(tmp_path / "a" / "one.pkl")
    assert not is_trusted(tmp_path / "a" / "two.pkl")
    assert is_trusted(tmp_path / "b" / "deep" / "two.pkl")
    assert not is_trusted(tmp_path / "bc")


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    """A link in a trusted folder does not make its target trusted."""
    (tmp_path / "safe").mkdir()
    (tmp_path / "other.pkl").touch()
    (tmp_path / "safe" / "link.pkl").symlink_to(tmp_path / "other.pkl")
    trust(tmp_path / "safe")
    assert not is_trusted(tmp_path / "safe" / "link.pkl")


def test_processes_that_are_started_have_the_list_once(tmp_path: Path) -> None:
    """In the environment, each file once."""
    trust(tmp_path)
    trust(tmp_path)
    assert os.environ["TAILCUT_TRUSTED_FILES"] == str(tmp_path.resolve())
