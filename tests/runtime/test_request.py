"""Requests and batches as values: splitting, cutting outputs, and rows that change state."""

import numpy as np
import pytest

from tailcut.memory.slab import RowState, Slab
from tailcut.runtime.request import Batch, Request, move_rows
from tailcut.spec import DType, TensorSpec

SPEC = (TensorSpec("x", DType.FP32, (None, 2)),)


class Here:
    """A delivery to the calling thread, which keeps what it is told."""

    is_here = True

    def __init__(self) -> None:
        self.completed: list[tuple[Request, int]] = []
        self.failed: list[Request] = []

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        self.completed.append((request, index))

    def fail(self, request: Request, error: Exception) -> None:
        self.failed.append(request)


def request(count: int, row: int = -1, requests: int = 1) -> Request:
    here = Here()
    made = Request(here, here, count, requests=requests)
    made.row = row
    return made


@pytest.mark.parametrize(
    ("members", "start", "offsets"),
    [
        ([(2, 4)], 4, [0]),
        ([(2, 4), (3, 6), (1, 9)], 4, [0, 2, 5]),
        ([(2, 4), (3, 7)], -1, [0, 2]),
        ([(2, 6), (1, 5)], -1, [0, 2]),
        ([(1, -1), (1, -1)], -1, [0, 1]),
    ],
)
def test_a_batch_knows_whether_its_rows_are_neighbours(
    members: list[tuple[int, int]], start: int, offsets: list[int]
) -> None:
    """Then the engine computes on them in place."""
    batch = Batch(None, [request(count, row) for count, row in members])
    assert (batch.start, batch.offsets, batch.rows) == (start, offsets, sum(count for count, _ in members))


def test_each_request_gets_its_own_rows_of_the_outputs() -> None:
    """As arrays, and as bytes."""
    batch = Batch(None, [request(2), request(1), request(3)])
    batch.outputs = (np.arange(12, dtype=np.int32).reshape(6, 2),)
    assert [batch.arrays(index)[0].tolist() for index in range(3)] == [
        [[0, 1], [2, 3]],
        [[4, 5]],
        [[6, 7], [8, 9], [10, 11]],
    ]
    assert [np.frombuffer(batch.blob(index), np.int32).tolist() for index in range(3)] == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7, 8, 9, 10, 11],
    ]


def test_requests_queued_as_one_are_split_where_a_batch_ends() -> None:
    """Each part keeps its rows and its numbers in the answer; together they are what they were."""
    several = request(5, row=10, requests=5)
    first = several.split(2)
    assert [(part.row, part.count, part.offset, part.requests) for part in (first, several)] == [
        (10, 2, 0, 2),
        (12, 3, 2, 3),
    ]
    assert [(part.row, part.offset) for part in several.singles()] == [(12, 2), (13, 3), (14, 4)]


def test_a_handler_that_raises_costs_no_other_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The fault is logged; a cancelled request is not answered."""
    here = Here()
    members = [Request(here, here, 1) for _ in range(4)]
    members[1].cancelled = True
    members[2].handler = None
    Batch(None, members).hand_out(here)
    assert here.completed == [(members[0], 0), (members[3], 3)]
    assert "an answer could not be delivered" in caplog.text


@pytest.mark.parametrize("neighbours", [True, False])
def test_rows_of_clients_that_left_only_go_free(neighbours: bool) -> None:
    """They are abandoned while the engine has them, and free when the batch is."""
    slab = Slab(SPEC, SPEC, 8, block=4)
    rows = [slab.take(1), slab.take(1)]
    for row in rows:
        slab.move(row, 1, RowState.FILLING, RowState.READY)
        slab.move(row, 1, RowState.READY, RowState.RUNNING)
    members = [request(1, row) for row in (rows if neighbours else rows[::-1])]
    batch = Batch(None, members)
    members[0].cancelled = True
    slab.move(members[0].row, 1, RowState.RUNNING, RowState.ABANDONED)
    move_rows(slab, batch, RowState.RUNNING, RowState.DONE)
    assert [slab.state(member.row) for member in members] == [RowState.ABANDONED, RowState.DONE]
    move_rows(slab, batch, RowState.DONE, RowState.FREE)
    assert slab.in_use == 0


def test_an_interrupted_answer_costs_no_other_request_its_answer() -> None:
    """A signal's handler raises while one is copied: that request fails, and the others are complete."""

    class Interrupted(Here):
        def complete(self, request: Request, batch: Batch, index: int) -> None:
            super().complete(request, batch, index)
            if index == 1:
                raise KeyboardInterrupt

    here = Interrupted()
    members = [Request(here, here, 1) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt):
        Batch(None, members).hand_out(here)
    assert [index for _, index in here.completed] == [0, 1, 2]
    assert here.failed == [members[1]]
