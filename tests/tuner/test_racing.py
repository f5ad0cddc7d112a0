"""The load of a race: connections and lengths of blocks."""

import pytest

from tailcut.tuner.objective import Objective, ObjectiveKind
from tailcut.tuner.racing import LEAST_BLOCK_S, load_for


@pytest.mark.parametrize(
    ("kind", "rate", "clients"),
    [
        ("goodput", 1000.0, (1, 6)),  # as many as fill 0.6 of the limit
        ("goodput", 1e6, (16, 128)),
        ("goodput", 1.0, (1, 2)),
        ("throughput", 1000.0, (16, 128)),
        ("throughput", 10.0, (1, 5)),  # of a slow model, no more than half a second's worth
    ],
)
def test_connections_follow_rate_and_limit(kind: ObjectiveKind, rate: float, clients: tuple[int, ...]) -> None:
    """As many as bring the server to its limit, and an eighth of them."""
    load = load_for(Objective(kind, limit_ms=10.0), rate)
    assert load.clients == clients
    assert load.block_s >= LEAST_BLOCK_S
