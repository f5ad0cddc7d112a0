"""What heads mean, and what is kept to know it again."""

import string
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import uvloop

from tailcut.runtime.model import Model
from tailcut.server.context import Context
from tailcut.server.http.plan import RequestKind, RequestPlan, find_plan
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.http1.events import RequestReceived
from tailcut.wire.http1.outlines import Outline

RAW = "POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\nInference-Header-Content-Length: 0\r\n"


def raw(*fields: str) -> bytes:
    return "\r\n".join([RAW + (fields[0] if fields else ""), *fields[1:], "", ""]).encode()


def with_state(models: Path, use: Callable[[ServerState], None]) -> None:
    async def run(model: Model) -> None:
        state = ServerState(Context(ModelRepository([ServedModel(model, "mlp")])), ServerLimits(), direct_bytes=65536)
        use(state)
        state.close()

    with Model.open(models / "mlp.onnx") as model:
        uvloop.run(run(model))


def test_heads_of_many_fields_cost_no_more_memory_than_their_plan(models: Path) -> None:
    """Whatever lengths they have: what is kept of the heads of all clients is bounded."""

    def use(state: ServerState) -> None:
        sizes = []
        for length in range(1, 800, 4):
            names = (item + two for item in "abcde" for two in string.ascii_letters[:18])
            head = raw(*(f"{name}: 1" for name in names), "Z: " + "z" * length)
            for _ in range(2):
                assert find_plan(state, head).outline is None
            if length == 1:
                tracemalloc.start()
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert sizes[-1] - sizes[0] < 200_000
        assert len(state.plans) == 1

    with_state(models, use)


def test_an_outline_is_learned_however_many_connections_came_before(models: Path) -> None:
    """A new connection finds those of others, and clients with equally long heads keep theirs."""

    def use(state: ServerState) -> None:
        def hear(wire: Http1Connection[RequestPlan], head: bytes) -> None:
            wire.receive(head + bytes(16), len(head) + 16)
            assert isinstance(wire.next_event(), RequestReceived)
            wire.hold()
            wire.answered()

        read: list[bytes] = []

        def connection() -> Http1Connection[RequestPlan]:
            def interpret(head: bytes) -> object:
                read.append(head)
                return find_plan(state, head)

            return Http1Connection(interpret)  # type: ignore[arg-type]

        for number in range(200):
            hear(connection(), raw(f"X-Id: {number % 10}"))
        outline = find_plan(state, raw("X-Id: 7")).outline
        assert isinstance(outline, Outline)
        assert find_plan(state, raw("X-Id: 8")).outline is outline
        clients = [(name, connection()) for name in ("X-Id", "A-Bc", "D-Ef", "G-Hi")]
        for number in range(10):
            for name, wire in clients:
                hear(wire, raw(f"{name}: {number % 10}"))
        assert len(read) == 200 + len(clients)
        longer = raw("X-Id: 12345")
        assert [find_plan(state, longer).outline is None, find_plan(state, longer).outline is None] == [False, False]

    with_state(models, use)


def test_only_requests_to_infer_have_outlines(models: Path) -> None:
    """Questions come too rarely."""

    def use(state: ServerState) -> None:
        for _ in range(3):
            result = find_plan(state, b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Id: 1\r\n\r\n")
            assert (result.meaning.kind, result.outline) == (RequestKind.ANSWER, None)

    with_state(models, use)


def test_outlines_end_with_their_plans(models: Path) -> None:
    """When models have changed, a head is planned again."""

    def use(state: ServerState) -> None:
        before = [find_plan(state, raw("X-Id: 1")) for _ in range(2)][1]
        assert before.outline is not None
        for told in state.context.models.changed:
            told()
        after = find_plan(state, raw("X-Id: 2"))
        assert after.outline is None
        assert after.meaning is not before.meaning

    with_state(models, use)
