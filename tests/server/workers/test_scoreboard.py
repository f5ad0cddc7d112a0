"""The memory that workers share: connection counts and the sum of what each has counted."""

from collections.abc import Iterator

import pytest

from tailcut.errors import TooLargeError
from tailcut.server.workers.scoreboard import Occupant, Scoreboard
from tailcut.server.workers.sums import Counts


@pytest.fixture
def scoreboard() -> Iterator[Scoreboard]:
    scoreboard = Scoreboard.make(3)
    yield scoreboard
    scoreboard.close()


def counted(**server: int) -> Counts:
    """What a worker without a model has counted."""
    return {"at_ns": 9, "server": server, "models": {}}


def test_the_least_of_those_that_accept(scoreboard: Scoreboard) -> None:
    """Empty places and those that have left do not count; with nobody there it is 0."""
    assert scoreboard.least() == 0
    scoreboard.hold(1, 7)
    scoreboard.hold(3, 5)
    assert (scoreboard.least(), scoreboard.connections(1)) == (5, 7)
    scoreboard.leave(3)
    assert scoreboard.least() == 7


def test_totals_survive_their_worker(scoreboard: Scoreboard) -> None:
    """A worker's counts are in the sum while it lives; afterwards its totals still are, its moment is not."""
    scoreboard.publish(1, counted(accepted=5, connections=2))
    scoreboard.publish(2, counted(accepted=7, connections=1))
    assert scoreboard.totals() == counted(accepted=12, connections=3)
    scoreboard.fold(1)
    assert scoreboard.totals() == counted(accepted=12, connections=1)
    scoreboard.publish(1, counted(accepted=1, connections=1))
    scoreboard.fold(1)
    scoreboard.fold(2)
    assert scoreboard.totals() == counted(accepted=13, connections=0)


def test_a_shorter_snapshot_replaces_a_longer_one(scoreboard: Scoreboard) -> None:
    """Nothing of the old one is read."""
    scoreboard.publish(1, counted(**{f"name{index}": 1 for index in range(1000)}))
    scoreboard.publish(1, counted(a=1))
    assert scoreboard.totals() == counted(a=1)


def test_another_process_sees_the_same(scoreboard: Scoreboard) -> None:
    """Opened by its descriptor, as a worker does, the region shows what was written; changes show both ways."""
    import os

    other = Scoreboard(os.dup(scoreboard.descriptor), 3)
    scoreboard.publish(2, counted(a=1))
    other.hold(1, 4)
    assert other.totals() == counted(a=1)
    assert scoreboard.least() == 4
    other.close()


def test_a_half_written_snapshot_is_no_number(scoreboard: Scoreboard) -> None:
    """What a worker left when it was killed in the middle of writing counts as nothing."""
    scoreboard.publish(1, counted(a=1))
    at = bytes(scoreboard._map).index(b'{"a":1}')
    scoreboard._map[at + 5 : at + 6] = b"7"
    scoreboard.publish(2, counted(a=2))
    assert scoreboard.totals() == counted(a=2)


def test_too_many_models(scoreboard: Scoreboard) -> None:
    """Counts that do not fit are refused with the sizes, and the neighbour's place is untouched."""
    with pytest.raises(TooLargeError, match="65536"):
        scoreboard.publish(1, {"name": ["x" * 70_000]})
    assert scoreboard.totals() == {}


def test_the_workers_that_are_there(scoreboard: Scoreboard) -> None:
    """Each with its process, its post and its own counts, from its first publication until its place is emptied."""
    scoreboard.occupy(1, 4_194_304, 0)
    scoreboard.occupy(3, 77, 1)
    assert list(scoreboard.occupants()) == []
    scoreboard.publish(1, counted(accepted=5))
    scoreboard.publish(3, counted(accepted=6))
    assert list(scoreboard.occupants()) == [
        Occupant(4_194_304, 0, counted(accepted=5)),
        Occupant(77, 1, counted(accepted=6)),
    ]
    scoreboard.fold(1)
    assert [occupant.pid for occupant in scoreboard.occupants()] == [77]
    assert scoreboard.totals() == counted(accepted=11)
