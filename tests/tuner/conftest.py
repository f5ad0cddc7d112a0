"""How the tests of this folder start the servers that a tune measures."""

import pytest


@pytest.fixture(autouse=True)
def launched(request: pytest.FixtureRequest) -> None:
    """All by fork; a real tune (marked slow) executes those that it does for a user."""
    if request.node.get_closest_marker("slow") is None:
        request.getfixturevalue("forked_trials")
