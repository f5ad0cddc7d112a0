"""Work that is run on a loop in steps."""

import asyncio
import time
from collections.abc import Generator
from typing import Any

import pytest
import uvloop

from tailcut.server.step_runner import AT_ONCE_NS, SLICE_NS, TURN_NS, StepRunner


def counting(steps: int, log: list[str], name: str) -> Generator[None, None, str]:
    for _ in range(steps):
        log.append(name)
        end = time.monotonic_ns() + TURN_NS // 4
        while time.monotonic_ns() < end:
            pass
        yield
    return name


def test_jobs_take_turns_among_themselves_and_with_the_loop() -> None:
    """Two jobs go step by step; a callback that asks again each time has its turn many times meanwhile."""
    log: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        runner = StepRunner(loop)
        done: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(2)]

        def tick() -> None:
            log.append(".")
            if not all(item.done() for item in done):
                loop.call_soon(tick)

        loop.call_soon(tick)
        for future, name in zip(done, "ab", strict=True):
            runner.start(counting(40, log, name), lambda result, _error, future=future: future.set_result(result))
        assert [await item for item in done] == ["a", "b"]

    uvloop.run(run())
    text = "".join(log)
    assert text.replace(".", "")[:10] == "ababababab"
    assert text.count("a") == text.count("b") == 40
    assert len([piece for piece in text.split(".") if piece]) > 10  # of 80 steps of a quarter of a turn each


def test_an_error_is_reported_and_an_abandoned_job_ends() -> None:
    """What a generator raises goes to who started it; one that is cancelled sees it, and nobody is told."""
    message: list[tuple[Any, Exception | None]] = []
    ended: list[bool] = []

    def raising() -> Generator[None, None, None]:
        yield
        raise ValueError("wrong")

    def endless() -> Generator[None, None, None]:
        try:
            while True:
                yield
        finally:
            ended.append(True)

    async def run() -> None:
        runner = StepRunner(asyncio.get_running_loop())
        finished = asyncio.Event()
        job = runner.start(endless(), lambda *text: message.append(text))

        def done(*text: Any) -> None:
            message.append(text)
            job.cancel()
            finished.set()

        runner.start(raising(), done)
        await finished.wait()
        await asyncio.sleep(0)

    uvloop.run(run())
    assert [(result, str(error)) for result, error in message] == [(None, "wrong")]
    assert ended == [True]


def work(runner: StepRunner) -> None:
    """As long as it may at a time."""
    while runner.has_time():
        pass


def test_a_pass_has_one_time_for_all() -> None:
    """What one callback of a pass has used up, the others do not have; the next pass has it again."""
    got: list[bool] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        runner = StepRunner(loop)
        over = loop.create_future()
        began = time.monotonic_ns()
        loop.call_soon(work, runner)
        for _ in range(3):
            loop.call_soon(lambda: got.append(runner.has_time()))
        loop.call_soon(lambda: loop.call_soon(lambda: over.set_result(runner.has_time())))
        assert await over
        assert time.monotonic_ns() - began >= AT_ONCE_NS

    uvloop.run(run())
    assert got == [False] * 3


def test_who_wants_little_is_soon_served() -> None:
    """Beside a hundred that take every slice that they get, a new one waits for one of them at most."""
    log: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        runner = StepRunner(loop)
        over = loop.create_future()

        def greedy() -> None:
            began = time.monotonic_ns()
            work(runner)
            assert time.monotonic_ns() - began >= SLICE_NS // 2
            log.append("g")
            if not over.done():
                runner.later(greedy, begun=True)

        def little() -> None:
            log.append("n")
            if log.count("n") < 5:
                loop.call_later(0.003, runner.later, little)
            else:
                over.set_result(None)

        for _ in range(100):
            runner.later(greedy, begun=True)
        runner.later(little)
        await over

    uvloop.run(run())
    assert log.index("n") <= 1
    assert log.count("n") == 5
    assert log.count("g") < 500  # of which five rounds would be as many


def test_a_piece_that_fails_costs_itself_only(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and those behind it have their turn."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        runner = StepRunner(loop)
        over = loop.create_future()
        runner.later(lambda: 1 // 0)
        runner.later(lambda: over.set_result(None))
        await asyncio.wait_for(over, 5)

    uvloop.run(run())
    assert "a callback of the step runner failed" in caplog.text
