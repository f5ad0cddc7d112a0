"""Sampled requests on the fast path: each leaves one record, whatever becomes of it, and no other leaves any."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines.models import gather_rows
from tests.server.fastpath.test_fastpath import Client, echo, running, until
from tests.server.opened import OpenedModel
from tests.servers import raw_request

from tailcut.runtime.tracing.timeline import MARKS
from tailcut.server.metrics import ServerCounts
from tailcut.server.state import ServerState
from tailcut.server.tracing.records import Failure, Record, TracedAnswer
from tailcut.server.tracing.sampler import Sampler
from tailcut.server.tracing.settings import Sampling
from tailcut.server.tracing.tracer import Tracer

__all__ = ["echo"]  # the fixture
SPAN = f"{7:016x}"


class Records:
    """Where a tracer puts them, in this process."""

    def __init__(self) -> None:
        self.all: list[Record] = []

    def hand_over(self, records: list[Record]) -> None:
        self.all += records

    def count(self, counts: ServerCounts) -> None:
        counts.spans_exported = len(self.all)

    def close(self) -> None:
        pass

    def traces(self, kind: type[Record]) -> list[int]:
        """The ids of traces with a record of this kind, as often as they have one."""
        return sorted(int(record.asked.origin.trace_id, 16) for record in self.all if isinstance(record, kind))


def tracing(records: Records, sampling: Sampling) -> Callable[[ServerState], Tracer]:
    return lambda state: Tracer(Sampler(sampling), records, state.loop.call_soon)


def request(client: Client, number: int, *, sampled: bool = True) -> bytes:
    """A request whose trace has the number as its id."""
    return raw_request("echo", client.row(), f"traceparent: 00-{number:032x}-{SPAN}-{int(sampled):02x}")


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_a_record_for_each_sampled_request(echo: OpenedModel, dispatch: str) -> None:
    """With the moments that the timeline has of it."""
    records = Records()

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(10)]

        async def talk(client: Client, first: int) -> None:
            for number in range(first, first + 40):
                await client.send(request(client, number, sampled=number % 4 == 0))
                assert (await client.read())[0] == 200

        await asyncio.gather(*(talk(client, 1000 * index) for index, client in enumerate(clients, 1)))
        assert state.context.counts.fast_path == 10
        await asyncio.sleep(0)
        stored = {tuple(row[: len(MARKS)]) for row in state.context.served("echo").timeline.copy()[0].tolist()}
        assert {record.moments for record in records.all if isinstance(record, TracedAnswer)} <= stored
        for client in clients:
            client.close()

    running(story, echo, dispatch=dispatch, tracer=tracing(records, Sampling(1.0)))
    wanted = [1000 * index + number for index in range(1, 11) for number in range(0, 40, 4)]
    assert records.traces(TracedAnswer) == wanted
    assert records.traces(Failure) == []
    assert {record.asked.target for record in records.all} == {"/v2/models/echo/infer"}


@pytest.mark.parametrize("follows", [True, False])
def test_a_share_of_those_without_a_context(echo: OpenedModel, follows: bool) -> None:
    """Counted down over passes; without regard to callers, the others go by the ids of their traces."""
    records = Records()
    dice = iter([0.5] * 1000)  # of a half: every second one

    async def story(state: ServerState) -> None:
        clients = [await Client(state, number).connect() for number in range(5)]
        for turn in range(1, 41):
            for index, client in enumerate(clients):
                high = (1 << 63) * (turn % 2)  # of the id's low half: taken where it is 0
                await client.send(
                    request(client, high + turn, sampled=False) if index == 0 else client.request(client.row())
                )
            for client in clients:
                assert (await client.read())[0] == 200
        assert state.context.counts.fast_path == 5
        for client in clients:
            client.close()

    sampler = Sampler(Sampling(0.5, follows_caller=follows), lambda: next(dice))
    running(story, echo, tracer=lambda state: Tracer(sampler, records, state.loop.call_soon))
    roots = [record for record in records.all if not record.asked.origin.parent_id]
    others = [record for record in records.all if record.asked.origin.parent_id]
    assert len(roots) == 80
    assert len({record.asked.origin.trace_id for record in roots}) == 80
    assert [int(record.asked.origin.trace_id, 16) for record in others] == ([] if follows else list(range(2, 41, 2)))


def test_refusals_and_failures(echo: OpenedModel, tmp_path: Path) -> None:
    """A request that finds no row, and one on which the engine fails."""
    records = Records()

    async def refused(state: ServerState) -> None:
        client = await Client(state).connect()
        await client.settle()
        model = state.context.served("echo").model
        taken = [model.entry.lend(1, apart=True) for _ in range(model.entry.slab.rows)]
        await client.send(request(client, 5))
        assert (await client.read())[0] == 503
        for lease in taken:
            model.entry.settle(lease, 0, None)
        await client.ask()
        client.close()

    running(refused, echo, rows=16, tracer=tracing(records, Sampling()))
    (failure,) = records.all
    assert isinstance(failure, Failure)
    assert (failure.status, failure.model, int(failure.asked.origin.trace_id, 16)) == (503, "echo", 5)
    records.all.clear()

    async def failed(state: ServerState) -> None:
        client = await Client(state).connect()
        for number in range(1, 9):
            await client.send(raw_request("echo", bytes(8), f"traceparent: 00-{number:032x}-{SPAN}-00"))
            assert (await client.read())[0] == 200
        assert state.context.counts.fast_path == 1
        await client.send(raw_request("echo", b"\xff" * 7 + b"\x0f", f"traceparent: 00-{9:032x}-{SPAN}-01"))
        assert (await client.read())[0] == 500
        client.close()

    with OpenedModel(gather_rows(tmp_path / "gather.onnx")) as model:
        running(failed, model, dispatch="worker", tracer=tracing(records, Sampling()))
    (failure,) = records.all
    assert isinstance(failure, Failure)
    assert (failure.status, failure.kind, int(failure.asked.origin.trace_id, 16)) == (500, "EngineError", 9)
    assert failure.began_ns <= failure.ended_ns


def test_clients_that_leave_or_hurry(echo: OpenedModel) -> None:
    """With a request that waits: one closes, one asks for something else before it has its answer."""
    records = Records()

    async def story(state: ServerState) -> None:
        model = state.context.served("echo").model
        gone, hasty = [await Client(state, number).connect() for number in range(2)]
        for client in (gone, hasty):
            await client.settle()
        assert state.context.counts.fast_path == 2
        model.entry.pause()
        await gone.send(request(gone, 1))
        await hasty.send(request(hasty, 2))
        await until(lambda: model.statistics()["queued_rows"] == 2)
        gone.close()
        await hasty.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: state.context.counts.fast_path == 0 and len(state.members) == 1)
        model.entry.go_on()
        assert (await hasty.read())[0] == 200
        assert (await hasty.read())[0] == 200
        hasty.close()

    running(story, echo, dispatch="worker", tracer=tracing(records, Sampling()))
    assert records.traces(TracedAnswer) == [2]
    assert records.traces(Failure) == [1]
    (failure,) = [record for record in records.all if isinstance(record, Failure)]
    assert (failure.status, failure.kind) == (0, "ClientDisconnected")
