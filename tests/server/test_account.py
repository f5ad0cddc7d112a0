"""What a connection holds counts toward the limit of all connections, and goes when it does."""

import pytest

from tailcut.errors import QueueFullError
from tailcut.server.account import Account
from tailcut.server.limits import ServerLimits
from tailcut.server.metrics import ServerCounts


def test_bodies_of_all_connections_share_one_limit() -> None:
    """What one holds the other cannot have, until it is released; a refusal is counted."""
    counts, limits = ServerCounts(), ServerLimits(buffered_bytes=100)
    item, other = Account(counts, limits), Account(counts, limits)
    item.charge(60)
    assert other.has_room(40)
    assert not other.has_room(41)
    with pytest.raises(QueueFullError):
        other.charge_more(41)
    assert (counts.buffered_bytes, counts.bodies_refused) == (60, 2)
    item.release()
    other.charge_more(41)
    assert (counts.buffered_bytes, other.charged) == (41, 41)


def test_answers_that_are_not_read_are_held_apart() -> None:
    """Releasing a body leaves them charged; the newest size is what counts."""
    counts = ServerCounts()
    account = Account(counts, ServerLimits())
    account.charge(10)
    account.hold_unread(7)
    account.hold_unread(5)
    account.release()
    assert counts.buffered_bytes == 5
    account.hold_unread(0)
    assert counts.buffered_bytes == 0
