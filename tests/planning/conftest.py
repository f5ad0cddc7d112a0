"""Simulations that are as short as what a test asks of them allows."""

import pytest

from tailcut.planning import search


@pytest.fixture
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the requests, of which a hundred are beyond the 99th percentile."""
    monkeypatch.setattr(search, "_FEWEST", 10_000)
    monkeypatch.setattr(search, "_PER_SERVER", 500)
    monkeypatch.setattr(search, "_BEYOND", 100)
