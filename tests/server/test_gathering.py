"""Requests that come in one pass of the loop and are queued as one: each gets its own answer, or its own refusal."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from tests.engines.models import gather_rows, identity
from tests.runtime.test_model import opened

from tailcut.errors import EngineError, QueueFullError, ReleasedError, TailcutError
from tailcut.runtime.delivery import LoopDelivery
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.tracing.timeline import pack_moments
from tailcut.server.gathering import PassGroup, RowGatherer
from tailcut.server.served_model import ServedModel
from tailcut.spec import DType

SECOND = 1_000_000_000


class Member:
    """Records the answers and errors that it receives."""

    group: PassGroup | None = None
    began_ns = 0
    answer_plainly: Callable[[bytes], bool] | None = None

    def __init__(self) -> None:
        self.received: list[list[bytes] | TailcutError | str] = []
        self.batch_rows = 0

    def complete_row(
        self, outputs: list[bytes], request: Request, batch: Batch, handed_ns: int, moments: bytes
    ) -> None:
        assert 0 < request.ready_ns <= batch.formed_ns <= batch.began_ns <= batch.ended_ns <= handed_ns
        assert moments == pack_moments(request.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns)
        self.received.append(outputs)
        self.batch_rows = batch.rows

    def refused(self, error: TailcutError) -> None:
        self.received.append(error)

    def fail(self, request: Request, error: TailcutError) -> None:
        self.received.append(str(error))


def row(number: int) -> bytes:
    return np.full(16, number, np.float32).tobytes()


def on_a_loop(use: Callable[[RowGatherer], Awaitable[None]]) -> list[int]:
    """Run with a gatherer; returns the moments of its answers."""
    answered: list[int] = []

    async def run() -> None:
        await use(RowGatherer(LoopDelivery(asyncio.get_running_loop()), answered.append))

    asyncio.run(asyncio.wait_for(run(), 30))
    return answered


async def all_answered(members: list[Member]) -> None:
    while not all(member.received for member in members):  # noqa: ASYNC110  they are told by callbacks
        await asyncio.sleep(0)


def later(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * SECOND)


def echo(folder: Path, **batching: object) -> Model:
    return opened(identity(DType.FP32, (None, 16), folder / "echo.onnx"), **batching)


def test_each_gets_its_own_row(tmp_path: Path) -> None:
    """Those of one pass share batches of at most the largest size, whichever thread computes them."""
    for dispatch in ("inline", "worker"):
        with echo(tmp_path, dispatch=dispatch) as model:
            served, members = ServedModel(model, "echo"), [Member() for _ in range(19)]

            async def use(rows: RowGatherer, served: ServedModel = served, members: list[Member] = members) -> None:
                for number, member in enumerate(members):
                    rows.add(member, served, row(number), 0, later(10))
                assert not any(member.received for member in members)  # never from inside add
                await all_answered(members)

            assert on_a_loop(use)
            assert [member.received for member in members] == [[[row(number)]] for number in range(19)]
            assert 1 < max(member.batch_rows for member in members) <= 8  # a stall teaches that less is cheaper
            given_back_by = time.monotonic() + 10  # a worker gives rows back after it has told
            while model.statistics()["rows_in_use"] and time.monotonic() < given_back_by:
                time.sleep(0.001)
            assert model.statistics() | {"requests": 19, "rows": 19, "rows_in_use": 0} == model.statistics()
            assert sum(served.latency.counts) == 19


def test_plain_answers(tmp_path: Path) -> None:
    """Requests that can be answered plainly get only their row, and are recorded; others take the usual way."""

    class Plain(Member):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.began_ns = number
            self.answer_plainly = self.answer

        def answer(self, row: bytes) -> bool:
            if self.began_ns % 5 == 0:
                return False
            self.received.append([row])
            return True

    with echo(tmp_path, dispatch="inline") as model:
        served, members = ServedModel(model, "echo"), [Plain(number) if number else Member() for number in range(22)]

        async def use(rows: RowGatherer) -> None:
            for number, member in enumerate(members):
                assert rows.add(member, served, row(number), 0, later(10)) is member.group
            await all_answered(members)

        on_a_loop(use)
        assert [member.received for member in members] == [[[row(number)]] for number in range(22)]
        records, _ = served.timeline.copy()
        assert sorted(records[:, 0].tolist()) == [number for number in range(22) if number % 5]
        assert (records[:, 10] == len(row(0))).all()
        assert (np.diff(records[:, 1:8], axis=1) >= 0).all()


def test_priorities_and_models_are_groups_of_their_own(tmp_path: Path) -> None:
    """What shares a group shares its model and its priority; the more urgent is computed first."""
    (tmp_path / "other").mkdir()
    with echo(tmp_path, dispatch="inline") as item, echo(tmp_path / "other", dispatch="inline") as two:
        models, members = [ServedModel(item, "one"), ServedModel(two, "two")], [Member() for _ in range(8)]

        async def use(rows: RowGatherer) -> None:
            groups = {
                id(rows.add(member, models[number % 2], row(number), number // 4, later(10)))
                for number, member in enumerate(members)
            }
            assert len(groups) == 4
            await all_answered(members)

        on_a_loop(use)
        assert [member.received for member in members] == [[[row(number)]] for number in range(8)]
        assert [model.statistics()["batches"] for model in (item, two)] == [1, 1]  # as before, priorities share it


def test_deadlines_that_are_far_apart_are_kept(tmp_path: Path) -> None:
    """A group is one request where its deadlines are close; what has more time is not late with the others."""
    with echo(tmp_path, dispatch="worker", max_batch_size=32) as model:
        served, members = ServedModel(model, "echo"), [Member() for _ in range(9)]
        waits = [10.0, 0.05, 10.1, 3.0, 10.2, 0.05, 3.1, 10.3, 60.0]

        async def use(rows: RowGatherer) -> None:
            model.entry.scheduler.paused = True
            for number, (member, seconds) in enumerate(zip(members, waits, strict=True)):
                rows.add(member, served, row(number), 0, later(seconds))
            await asyncio.sleep(0.01)
            queued = model.statistics()
            assert (queued["queued"], queued["queued_rows"]) == (4, 9)
            await asyncio.sleep(0.1)
            model.entry.scheduler.expire()
            await all_answered([members[1], members[5]])
            assert not any(member.received for number, member in enumerate(members) if number not in {1, 5})
            model.entry.scheduler.paused = False
            model.entry.notify()
            await all_answered(members)

        on_a_loop(use)
        late = [number for number, member in enumerate(members) if isinstance(member.received[0], str)]
        assert late == [1, 5]
        rest = [number for number in range(9) if number not in late]
        assert [members[number].received for number in rest] == [[[row(number)]] for number in rest]
        assert model.statistics()["expired"] == 2


def test_one_deadline_that_has_passed_already(tmp_path: Path) -> None:
    """It costs only itself."""
    with echo(tmp_path, dispatch="inline") as model:
        served, members = ServedModel(model, "echo"), [Member() for _ in range(4)]

        async def use(rows: RowGatherer) -> None:
            for number, member in enumerate(members):
                rows.add(member, served, row(number), 0, later(-1 if number == 2 else 10))
            await all_answered(members)

        on_a_loop(use)
        assert [member.received for number, member in enumerate(members) if number != 2] == [
            [[row(number)]] for number in (0, 1, 3)
        ]
        assert members[2].received != [[row(2)]]


def test_those_of_a_pass_are_answered_in_it(tmp_path: Path) -> None:
    """Where the loop computes for an idle model; what comes meanwhile waits, and one that is late is not computed."""
    with echo(tmp_path, dispatch="inline") as model:
        served, members, late, next_one = ServedModel(model, "echo"), [Member() for _ in range(5)], Member(), Member()

        async def use(rows: RowGatherer) -> None:
            class Asking(Member):
                def complete_row(
                    self, outputs: list[bytes], request: Request, batch: Batch, handed_ns: int, moments: bytes
                ) -> None:
                    super().complete_row(outputs, request, batch, handed_ns, moments)
                    rows.add(next_one, served, row(7), 0, later(10))

            members[2] = Asking()
            for number, member in enumerate(members):
                rows.add(member, served, row(number), 0, later(10))
            await asyncio.sleep(0)
            assert [member.received for member in members] == [[[row(number)]] for number in range(5)]
            assert not next_one.received
            await all_answered([next_one])
            rows.add(late, served, row(1), 0, later(-1))
            await all_answered([late])

        on_a_loop(use)
        assert next_one.received == [[row(7)]]
        assert isinstance(late.received[0], str)
        assert model.statistics() | {"requests": 6, "expired": 1, "rows_in_use": 0} == model.statistics()


def test_clients_that_leave(tmp_path: Path) -> None:
    """Before their group is queued and while it waits: they are told nothing, and the others get their own rows."""
    with echo(tmp_path, dispatch="worker") as model:
        served, members = ServedModel(model, "echo"), [Member() for _ in range(6)]

        async def use(rows: RowGatherer) -> None:
            model.entry.scheduler.paused = True
            groups = [rows.add(member, served, row(number), 0, later(10)) for number, member in enumerate(members)]
            groups[1].withdraw(members[1])
            await asyncio.sleep(0.01)
            groups[4].withdraw(members[4])
            assert model.statistics()["queued_rows"] == 5
            model.entry.scheduler.paused = False
            model.entry.notify()
            await all_answered([member for number, member in enumerate(members) if number not in {1, 4}])
            alone = Member()
            rows.add(alone, served, row(7), 0, later(10)).withdraw(alone)
            await asyncio.sleep(0.01)
            assert not alone.received

        on_a_loop(use)
        assert [member.received for member in members] == [
            [] if number in {1, 4} else [[row(number)]] for number in range(6)
        ]
        assert model.statistics() | {"cancelled": 3, "rows": 5, "rows_in_use": 0} == model.statistics()


def test_a_bad_row_costs_only_itself(tmp_path: Path) -> None:
    """When the engine refuses a group, each of them gets a try of its own."""
    with opened(gather_rows(tmp_path / "gather.onnx"), dispatch="inline") as model:
        served, members = ServedModel(model, "gather"), [Member() for _ in range(3)]
        size = model.spec.inputs[0].dtype.numpy

        async def use(rows: RowGatherer) -> None:
            for member, number in zip(members, (0, 999_999, 2), strict=True):
                rows.add(member, served, np.array([number], size).tobytes(), 0, later(10))
            await all_answered(members)

        on_a_loop(use)
        assert [isinstance(member.received[0], list) for member in members] == [True, False, True]
        assert model.statistics()["rows_in_use"] == 0


def test_what_finds_no_rows_is_refused(tmp_path: Path) -> None:
    """A full queue refuses what is over it, each by itself, and counts it."""
    path = identity(DType.FP32, (None, 16), tmp_path / "echo.onnx")
    with opened(path, dispatch="worker", max_batch_size=2, limits=Limits(queue_rows=4)) as model:
        served, members = ServedModel(model, "echo"), [Member() for _ in range(7)]

        async def use(rows: RowGatherer) -> None:
            model.entry.scheduler.paused = True
            for number, member in enumerate(members):
                rows.add(member, served, row(number), 0, later(10))
            await asyncio.sleep(0.01)
            assert [bool(member.received) for member in members] == [False] * 4 + [True] * 3
            model.entry.scheduler.paused = False
            model.entry.notify()
            await all_answered(members)

        on_a_loop(use)
        assert all(isinstance(member.received[0], QueueFullError) for member in members[4:])
        assert model.statistics()["refused"] == 3


def test_one_clients_fault_costs_no_other(tmp_path: Path) -> None:
    """A member that raises is logged; those behind it are answered."""

    class Faulty(Member):
        def complete_row(
            self, outputs: list[bytes], request: Request, batch: Batch, handed_ns: int, moments: bytes
        ) -> None:
            super().complete_row(outputs, request, batch, handed_ns, moments)
            raise EngineError("of this client's own")

    with echo(tmp_path, dispatch="inline") as model:
        served, members = ServedModel(model, "echo"), [Member(), Faulty(), Member()]

        async def use(rows: RowGatherer) -> None:
            for number, member in enumerate(members):
                rows.add(member, served, row(number), 0, later(10))
            await all_answered(members)

        on_a_loop(use)
        assert [member.received for member in members] == [[[row(number)]] for number in range(3)]


def test_a_model_that_was_closed(tmp_path: Path) -> None:
    """Those that were gathered for it meanwhile are refused."""
    with echo(tmp_path, dispatch="worker") as model:
        served, member = ServedModel(model, "echo"), Member()

        async def use(rows: RowGatherer) -> None:
            rows.add(member, served, row(1), 0, later(10))
            model.entry.scheduler.close()
            await all_answered([member])

        on_a_loop(use)
        assert isinstance(member.received[0], ReleasedError)
