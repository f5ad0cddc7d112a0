"""What a supervisor does about its workers, cell by cell and story by story: no process, no clock."""

import pytest

from tailcut.errors import IllegalMoveError
from tailcut.server.workers.fleet import MOVES, Action, Do, Fleet, RestartPolicy, WorkerEvent, WorkerState

PATIENCE = RestartPolicy(limit=4, pause_s=1.0, longest_s=3.0, stable_s=100.0)


def serving(size: int) -> Fleet:
    """A fleet whose workers 0 to size-1 serve at posts 0 to size-1 since time 0."""
    fleet = Fleet(size, PATIENCE)
    fleet.begin(0.0)
    for worker in range(size):
        fleet.ready(worker, 0.0)
    return fleet


def kinds(actions: list[Action]) -> list[Do]:
    return [action.do for action in actions]


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize("event", WorkerEvent)
def test_every_cell(state: WorkerState, event: WorkerEvent) -> None:
    """A move of the table leads where it says; any other raises and changes nothing."""
    fleet = Fleet(1, PATIENCE)
    post = fleet._posts[0]
    post.state, post.serving, post.loading = state, 7, 8
    if (state, event) in MOVES:
        fleet._move(post, event, 0.0)
        assert post.state is MOVES[state, event][0]
    else:
        with pytest.raises(IllegalMoveError, match=f"{state.name} cannot handle the event {event.name}"):
            fleet._move(post, event, 0.0)
        assert post.state is state


def test_the_first_worker_goes_ahead() -> None:
    """One worker starts; when it is ready, the others do; when all are, the fleet is announced, once."""
    fleet = Fleet(3, PATIENCE)
    assert fleet.begin(0.0) == [Action(Do.START, 0, 0)]
    assert fleet.ready(0, 1.0) == [Action(Do.START, 1, 1), Action(Do.START, 2, 2)]
    assert fleet.ready(2, 2.0) == []
    assert fleet.ready(1, 2.5) == [Action(Do.ANNOUNCE)]


def test_a_worker_that_cannot_load_ends_the_start_with_its_code() -> None:
    """The first worker's exit code is the fleet's, and nobody else is started; a signal counts as 1."""
    fleet = Fleet(3, PATIENCE)
    fleet.begin(0.0)
    assert fleet.lost(0, 1.0, 2) == [Action(Do.EXIT, code=2)]
    fleet = Fleet(1, PATIENCE)
    fleet.begin(0.0)
    assert fleet.lost(0, 1.0, -9) == [Action(Do.NOT_BEGUN, post=0), Action(Do.EXIT, code=1)]


def test_a_second_worker_that_cannot_load_stops_the_first() -> None:
    """Before the fleet is whole, any loss ends it: the others finish, and then it exits."""
    fleet = Fleet(2, PATIENCE)
    fleet.begin(0.0)
    fleet.ready(0, 1.0)
    assert fleet.lost(1, 2.0, 2) == [Action(Do.DRAIN, 0)]
    assert fleet.lost(0, 3.0, 0) == [Action(Do.EXIT, code=2)]


def test_a_worker_that_is_killed_before_all_serve_is_named() -> None:
    """It cannot say itself why the fleet ends."""
    fleet = Fleet(2, PATIENCE)
    fleet.begin(0.0)
    fleet.ready(0, 1.0)
    assert fleet.lost(0, 2.0, -9) == [Action(Do.NOT_BEGUN, post=0), Action(Do.DRAIN, 1)]
    assert fleet.lost(1, 3.0, 0) == [Action(Do.EXIT, code=1)]


def test_a_lost_worker_is_followed_at_once() -> None:
    """The first loss waits for nothing."""
    fleet = serving(2)
    assert fleet.lost(1, 10.0, -9) == [Action(Do.FAIL, post=1), Action(Do.START, 2, 1)]
    assert fleet.due() is None


def test_losses_in_a_row_wait_longer_and_longer_and_end() -> None:
    """0, 1, 2 seconds, and at the limit the fleet gives up: the others drain and it exits with 1."""
    fleet = serving(2)
    fleet.lost(1, 10.0, -9)
    assert fleet.lost(2, 10.0, 1) == [Action(Do.FAIL, post=1, seconds=1.0)]
    assert (fleet.due(), fleet.tick(10.9)) == (11.0, [])
    assert fleet.tick(11.0) == [Action(Do.START, 3, 1)]
    assert fleet.lost(3, 11.0, 1) == [Action(Do.FAIL, post=1, seconds=2.0)]
    fleet.tick(13.0)
    assert fleet.lost(4, 13.0, 1) == [Action(Do.GIVE_UP, post=1), Action(Do.DRAIN, 0)]
    assert fleet.lost(0, 14.0, 0) == [Action(Do.EXIT, code=1)]


def test_serving_well_ends_a_row() -> None:
    """Who served for `stable_s` is followed at once, however many fell before; who served shorter is not."""
    fleet = serving(1)
    fleet.lost(0, 0.0, -9)
    fleet.lost(1, 0.0, 1)
    fleet.tick(1.0)
    fleet.ready(2, 1.0)
    assert fleet.lost(2, 50.0, -9) == [Action(Do.FAIL, post=0, seconds=2.0)]
    fleet.tick(52.0)
    fleet.ready(3, 52.0)
    assert fleet.lost(3, 152.0, -9) == [Action(Do.FAIL, post=0), Action(Do.START, 4, 0)]


def test_the_longest_pause() -> None:
    """Pauses double up to a limit."""
    assert [PATIENCE.pause(losses) for losses in range(6)] == [0.0, 0.0, 1.0, 2.0, 3.0, 3.0]


def test_a_renewal_goes_from_post_to_post() -> None:
    """A successor loads while the old one serves; the next post follows when the old one has left."""
    fleet = serving(2)
    assert fleet.renew(1.0) == [Action(Do.START, 2, 0)]
    assert fleet.ready(2, 2.0) == [Action(Do.RETIRE, 0, 0)]
    assert fleet.lost(0, 3.0, 0) == [Action(Do.START, 3, 1)]
    assert fleet.ready(3, 4.0) == [Action(Do.RETIRE, 1, 1)]
    assert fleet.lost(1, 5.0, 0) == []
    assert fleet.due() is None


def test_a_renewal_that_cannot_load_changes_nothing() -> None:
    """The old workers go on serving, nobody is retired, and no further post is tried."""
    fleet = serving(2)
    fleet.renew(1.0)
    assert fleet.lost(2, 2.0, 2) == [Action(Do.ABANDON, post=0)]
    assert fleet.due() is None
    assert kinds(fleet.renew(3.0)) == [Do.START]


def test_a_server_lost_during_its_renewal_is_followed_by_its_successor() -> None:
    """No third process starts: the worker that loads takes the post, and the renewal goes on."""
    fleet = serving(2)
    fleet.renew(1.0)
    assert fleet.lost(0, 2.0, -9) == []
    assert fleet.ready(2, 3.0) == [Action(Do.START, 3, 1)]


def test_a_loader_is_renewed_once_it_serves() -> None:
    """Who loads while a renewal is asked for may have read the old file: it gets its turn later."""
    fleet = serving(1)
    fleet.lost(0, 1.0, -9)
    assert fleet.renew(2.0) == []
    assert fleet.ready(1, 3.0) == [Action(Do.START, 2, 0)]


def test_stopping() -> None:
    """Every worker drains, once; the lost are not followed; the retired are left to finish; the last one ends all."""
    fleet = serving(2)
    fleet.renew(1.0)
    fleet.ready(2, 2.0)
    assert fleet.stop(3.0) == [Action(Do.DRAIN, 1), Action(Do.DRAIN, 2)]
    assert fleet.stop(3.0) == fleet.renew(3.0) == fleet.ready(1, 3.0) == []
    assert fleet.lost(0, 4.0, 0) == fleet.lost(2, 4.0, -9) == []
    assert fleet.lost(1, 5.0, 0) == [Action(Do.EXIT)]
