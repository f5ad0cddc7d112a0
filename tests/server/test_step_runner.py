"""Work that is run on a loop in steps."""

import asyncio
import time
from collections.abc import Generator
from typing import Any

import uvloop

from tailcut.server.step_runner import TURN_NS, StepRunner


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
            if not all(one.done() for one in done):
                loop.call_soon(tick)

        loop.call_soon(tick)
        for future, name in zip(done, "ab", strict=True):
            runner.start(counting(40, log, name), lambda result, _error, future=future: future.set_result(result))
        assert [await one for one in done] == ["a", "b"]

    uvloop.run(run())
    said = "".join(log)
    assert said.replace(".", "")[:10] == "ababababab"
    assert said.count("a") == said.count("b") == 40
    assert len([piece for piece in said.split(".") if piece]) > 10  # of 80 steps of a quarter of a turn each


def test_an_error_is_told_and_a_job_that_is_given_up_ends() -> None:
    """What a generator raises goes to who started it; one that is cancelled sees it, and nobody is told."""
    told: list[tuple[Any, Exception | None]] = []
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
        job = runner.start(endless(), lambda *said: told.append(said))

        def done(*said: Any) -> None:
            told.append(said)
            job.cancel()
            finished.set()

        runner.start(raising(), done)
        await finished.wait()
        await asyncio.sleep(0)

    uvloop.run(run())
    assert [(result, str(error)) for result, error in told] == [(None, "wrong")]
    assert ended == [True]
