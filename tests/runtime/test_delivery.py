"""Answers that were computed elsewhere, handed out on their loop."""

import asyncio
import threading
from collections.abc import Callable

from tailcut.errors import TailcutError
from tailcut.runtime.delivery import LoopDelivery
from tailcut.runtime.request import Batch, Request

POSTED = 200


class Owner:
    """Counts what has been delivered."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def delivered(self, batch: Batch) -> None:
        self.batches.append(batch)


class ResponseHandler:
    """Notes the thread on which it is told."""

    def __init__(self, message: Callable[[], None]) -> None:
        self._told = message
        self.thread = 0

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        self.thread = threading.get_ident()
        self._told()

    def fail(self, request: Request, error: TailcutError) -> None:
        raise AssertionError(error)


def test_every_batch_is_handed_out_once_on_the_loops_thread() -> None:
    """In whatever order several threads post them, while the loop sleeps or hands others out."""
    owner = Owner()

    async def run() -> tuple[list[ResponseHandler], int]:
        loop = asyncio.get_running_loop()
        home, done, left = LoopDelivery(loop), asyncio.Event(), [POSTED * 4]

        def count_down() -> None:
            left[0] -= 1
            if not left[0]:
                done.set()

        handlers = [ResponseHandler(count_down) for _ in range(POSTED * 4)]

        def post(mine: list[ResponseHandler]) -> None:
            for handler in mine:
                home.post(Batch(owner, [Request(handler, home, 1)]))

        threads = [threading.Thread(target=post, args=(handlers[part::4],)) for part in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(done.wait(), 20)
        for thread in threads:
            thread.join()
        return handlers, threading.get_ident()

    handlers, loop_thread = asyncio.run(run())
    assert {handler.thread for handler in handlers} == {loop_thread}
    assert len(owner.batches) == len(set(map(id, owner.batches))) == len(handlers)


def test_a_closed_loop_leaves_nothing_lent() -> None:
    """What is posted to it is given back to the model, each time."""
    owner = Owner()

    async def make() -> LoopDelivery:
        return LoopDelivery(asyncio.get_running_loop())

    home = asyncio.run(make())

    def post() -> None:
        for _ in range(3):
            home.post(Batch(owner, [Request(ResponseHandler(lambda: None), home, 1)]))

    thread = threading.Thread(target=post)
    thread.start()
    thread.join()
    assert len(owner.batches) == 3


def test_what_is_gathered_is_queued_before_models_are_notified() -> None:
    """It hears whether it came alone, and its model is notified where it says so, once for all of a pass."""
    seen: list[str] = []

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def notify(self, until_ns: int = 0) -> bool:
            seen.append(f"notify {self.name}")
            return False

    def queue(name: str, *, notify: bool) -> Callable[[bool], bool]:
        def queued(alone: bool) -> bool:
            seen.append(f"queue {name}{' alone' if alone else ''}")
            return notify

        return queued

    async def run() -> None:
        home, first, second = LoopDelivery(asyncio.get_running_loop()), Entry("first"), Entry("second")

        async def passes() -> list[str]:
            seen.clear()
            await asyncio.sleep(0)
            assert home.idle
            return list(seen)

        home.gather(queue("a", notify=False), first)
        assert not home.idle
        assert await passes() == ["queue a alone"]
        home.gather(queue("a", notify=True), first)
        assert await passes() == ["queue a alone", "notify first"]
        home.gather(queue("a", notify=True), first)
        home.gather(queue("b", notify=True), first)
        assert await passes() == ["queue a", "queue b", "notify first"]
        home.gather(queue("a", notify=False), first)
        home.notify_soon(second)
        assert await passes() == ["queue a", "notify second"]

    asyncio.run(run())
