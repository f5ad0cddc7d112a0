"""How the tests of this folder start the servers that a tune measures."""

import pytest


@pytest.fixture(autouse=True)
def launched(request: pytest.FixtureRequest) -> None:
    """From an imported process; a real tune (marked slow) executes them as a user's does."""
    if request.node.get_closest_marker("slow") is None:
        request.getfixturevalue("launched_trials")
