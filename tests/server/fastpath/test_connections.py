"""Which connections are on the fast path: their rows, their generations, and what is on its way to those that left."""

from types import SimpleNamespace
from typing import Any

import pytest

from tailcut.kernels.socket_tables import GENERATION, HEAD_MOST, HELD, PENDING, PLAN, SEEN
from tailcut.server.fastpath.connections import FastConnections, Left


def connection() -> Any:
    return SimpleNamespace(fd=-1)


def test_a_descriptor_is_another_connections_later() -> None:
    """Its generation is not: what was owed to the first is never the second's."""
    connections, first, second = FastConnections(), connection(), connection()
    old = connections.add(first, 7, 3, b"", 5)
    assert (connections.here, first.fd, connections.is_here(7, old)) == ({7: first}, 7, True)
    assert connections.remove(first) == Left(old, 3, b"", b"")
    assert (connections.here, connections.late, first.fd) == ({}, {old: first}, -1)
    new = connections.add(second, 7, 3, b"", 6)
    assert new != old
    assert not connections.is_here(7, old)
    assert connections.is_waiting(7, old)  # at its own connection
    del connections.late[old]
    assert not connections.is_waiting(7, old)
    assert connections.is_waiting(7, new)


def test_who_is_owed_nothing_leaves_nothing() -> None:
    """Its row is free at once; a row that is free has no plan, so that nothing is read for it."""
    connections, item = FastConnections(), connection()
    connections.add(item, 9, 0, b"", 5)
    assert connections.busy(9)
    connections.answered_elsewhere(9)
    assert not connections.busy(9)
    assert connections.remove(item).owed is None
    assert connections.late == {}
    assert (connections.state[9, GENERATION], connections.state[9, PLAN]) == (0, -1)


def test_heads_and_beginnings_are_given_back() -> None:
    """The last head where it is the connection's own, or what is held of a message; compiled code writes either."""
    connections, item = FastConnections(), connection()
    connections.add(item, 4, 2, b"HEAD", 5)
    assert connections.last_head(4) == (2, b"HEAD")
    connections.state[4, [PENDING, HELD]] = 0, 2
    left = connections.remove(item)
    assert (left.plan, left.head, left.held) == (2, b"HEAD", b"HE")


@pytest.mark.parametrize("fd", [1023, 1024, 5000])
def test_the_tables_grow_with_the_descriptors(fd: int) -> None:
    """And keep what they hold."""
    connections = FastConnections()
    low = connections.add(connection(), 3, 1, b"LOW", 5)
    connections.add(connection(), fd, 1, b"x" * HEAD_MOST, 6)
    assert connections.is_here(3, low)
    assert connections.last_head(3) == (1, b"LOW")
    assert connections.last_head(fd) == (1, b"x" * HEAD_MOST)
    assert connections.seen(fd) == 6 / 1e9


def test_messages_that_do_not_become_whole() -> None:
    """Only those that were begun too long ago, and are still not whole."""
    connections, members = FastConnections(), [connection() for _ in range(3)]
    for fd, member in enumerate(members):
        connections.add(member, fd, 0, b"", 0)
    connections.state[:3, SEEN] = 1_000_000_000, 3_000_000_000, 1_000_000_000
    connections.state[:3, HELD] = 5, 5, 0
    assert connections.held_since(2.0) == [members[0]]
