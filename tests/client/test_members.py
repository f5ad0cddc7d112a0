"""Which server is next, which are paused, and what changes: no socket, no clock, given dice."""

from collections.abc import Callable, Iterator

import pytest

from tailcut.client.members import MOST_FAILURES, Members, ServerMember
from tailcut.client.policy import FailedError, RefusedError, StaleError
from tailcut.client.requests import ServerAddress
from tailcut.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    QueueFullError,
    TailcutError,
    UnreachableError,
)

A, B, C = (ServerAddress("h", port) for port in (1, 2, 3))


class Closed:
    """A connection."""

    def close(self) -> None: ...


def dice(*values: float) -> Callable[[], float]:
    given: Iterator[float] = iter(values)
    return lambda: next(given)


def chosen(members: Members, *values: float, now: float = 0.0, tried: tuple[ServerMember, ...] = ()) -> ServerAddress:
    """Who is asked; the call stays in flight."""
    return members.choose(now, dice(*values), tried).address


def fail(members: Members, address: ServerAddress, error: TailcutError, now: float = 0.0) -> None:
    member = next(member for member in members if member.address == address)
    member.in_flight += 1
    members.ended(member, error, now)


def test_of_two_the_one_with_fewer_calls_is_asked() -> None:
    """The dice draw two different ones; among equals the first."""
    members: Members = Members([A, B, C], "x")
    assert chosen(members, 0.0, 0.0) == A  # A and B
    assert chosen(members, 0.0, 0.0) == B
    assert chosen(members, 0.9, 0.9) == C  # C and B
    assert chosen(members, 0.9, 0.0) == C  # C and A, which are equal
    assert chosen(members, 0.9, 0.9) == B  # C has two now


def test_a_refused_connection_is_enough_for_a_pause() -> None:
    """For a second, then twice as long with each further one, up to half a minute; an answer ends that."""
    members: Members = Members([A, B], "x")
    fail(members, A, RefusedError("gone"), now=0.0)
    assert chosen(members, 0.0, 0.0, now=0.9) == B
    assert chosen(members, 0.0, 0.0, now=1.0) == A
    fail(members, A, RefusedError("gone"), now=1.0)
    assert chosen(members, 0.0, 0.0, now=2.9) == B
    for _ in range(10):
        fail(members, A, RefusedError("gone"), now=10.0)
    (paused,) = (member for member in members if member.address == A)
    assert paused.paused_until == 40.0
    members.learn(paused, None, 11.0)
    assert (paused.pauses, paused.paused_until) == (0, 0.0)


@pytest.mark.parametrize(
    "error", [DeadlineExceededError("late"), EngineError("bad"), UnreachableError("502"), FailedError("520")]
)
def test_failures_in_a_row_make_an_outlier(error: TailcutError) -> None:
    """A good answer among them begins the count anew."""
    members: Members = Members([A, B], "x")
    for _ in range(MOST_FAILURES - 1):
        fail(members, A, error)
    members.learn(next(iter(members)), None, 0.0)
    for _ in range(MOST_FAILURES - 1):
        fail(members, A, error)
    assert chosen(members, 0.0, 0.0) == A
    fail(members, A, error)
    assert chosen(members, 0.0, 0.0) == B


@pytest.mark.parametrize("error", [QueueFullError("full"), InvalidInputError("no"), StaleError("closed")])
def test_what_is_not_a_servers_fault_does_not_count(error: TailcutError) -> None:
    """A busy server, a wrong input, and a connection that was closed while it was idle."""
    members: Members = Members([A, B], "x")
    for _ in range(3 * MOST_FAILURES):
        fail(members, A, error)
    assert chosen(members, 0.0, 0.0) == A


def test_while_all_are_paused_the_first_to_return_is_asked() -> None:
    """A call is never failed for want of trying."""
    members: Members = Members([A, B], "x")
    fail(members, A, RefusedError("gone"), now=0.0)
    fail(members, B, RefusedError("gone"), now=0.5)
    assert chosen(members, 0.9, 0.9, now=0.6) == A
    assert not members.untried((), now=0.6)
    assert members.untried((), now=1.2)


def test_a_call_goes_to_a_server_that_it_was_not_sent_to() -> None:
    """Where there is one; else to any."""
    members: Members = Members([A, B, C], "x")
    first, second, third = members
    assert chosen(members, 0.0, 0.0, tried=(first, second)) == C
    assert not members.untried((first, second, third), now=0.0)
    assert chosen(members, 0.0, 0.0, 0.0, 0.0, tried=(first, second, third)) == A


def test_members_come_and_go() -> None:
    """Those that stay keep their state; those that leave give their connections back, and are asked no more."""
    members: Members = Members([A, B], "x")
    first, second = members
    kept, unused = Closed(), Closed()
    first.idle.append(kept)
    second.idle.append(unused)
    second.in_flight = 1
    assert members.update([C, A, C]) == [unused]
    assert members.addresses == (C, A)
    assert second.gone
    assert not first.gone
    assert next(member for member in members if member.address == A).idle[0] is kept
    members.ended(second, None, 0.0)
    assert second.in_flight == 0


def test_no_server_at_all() -> None:
    """Said by name; nothing was sent."""
    members: Members = Members([], "ray://app")
    with pytest.raises(RefusedError, match="ray://app has no server that is ready"):
        members.choose(0.0, dice())


def test_a_forked_child_begins_anew() -> None:
    """Connections and calls in flight are the parent's."""
    members: Members = Members([A, B], "x")
    member = members.choose(0.0, dice(0.0, 0.0))
    member.idle.append(Closed())
    members.forked()
    assert (member.in_flight, len(member.idle), len(members)) == (0, 0, 2)
