"""A question is answered whatever its handler raises, at once or later."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tailcut.server.http.plan import NO_PLAN, RequestKind, RequestPlan
from tailcut.server.http.questions import HttpQueries


def broken(_: object) -> bytes:
    raise RuntimeError("can't start new thread")


async def broken_later(_: object) -> bytes:
    await asyncio.sleep(0)
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("handler", [broken, broken_later])
def test_a_fault_of_the_server_is_answered_and_logged(caplog: pytest.LogCaptureFixture, handler: Any) -> None:
    """500, the reason in the log, and the connection goes on."""
    answers: list[bytes] = []

    async def run() -> None:
        state: Any = SimpleNamespace(context=None, loop=asyncio.get_running_loop())
        transport = SimpleNamespace(is_closing=lambda: False)
        writer: Any = SimpleNamespace(tell=lambda _, answer: answers.append(answer), transport=transport)
        connection: Any = SimpleNamespace(go_on=lambda: answers.append(b"on"), close=lambda: None, paused=False)
        queries = HttpQueries(state, writer, connection)
        queries.answer(RequestPlan(RequestKind.ANSWER, NO_PLAN.head, 0, handler), b"")
        for _ in range(5):  # turns of the loop
            await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR, "tailcut"):
        asyncio.run(run())
    assert answers[0].startswith(b"HTTP/1.1 500 ")
    assert b"the server failed on this message" in answers[0]
    assert "can't start new thread" in caplog.text
