"""A loaded model, used from threads and loops at once, on both ways of dispatch."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import dynamic_sequence, gather_rows, identity, no_batch, two_in_two_out

from tailcut.engines.base import EngineOptions
from tailcut.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    QueueFullError,
    ReleasedError,
    TailcutError,
    TooLargeError,
)
from tailcut.memory.slab import RowState
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler, LoopDelivery
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType


def opened(path: Path, *, limits: Limits = Limits(), **batching: object) -> Model:  # noqa: B008  frozen
    settings = Settings(batching=msgspec.convert({"max_batch_size": 8} | batching, BatchingSettings))
    return Model.open(Profile.of_model(path, settings), limits=limits)


@pytest.fixture(params=["worker", "inline"])
def echo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    """The identity of 16 floats."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch=request.param) as model:
        yield model


def rows(*numbers: int) -> np.ndarray:
    return np.repeat(np.array(numbers, np.float32)[:, None], 16, axis=1)


def test_everyone_gets_their_own_rows(echo: Model) -> None:
    """Four threads and two loops at once: no answer is ever another's."""
    wrong: list[int] = []

    def blocking(base: int) -> None:
        numbers = range(base, base + 200)
        wrong.extend(n for n in numbers if (echo.infer_sync({"x": rows(n)})["y"] != n).any())

    async def one(number: int) -> None:
        if ((await echo.infer({"x": rows(number, -number)}))["y"] != rows(number, -number)).any():
            wrong.append(number)

    async def many(base: int) -> None:
        for start in range(0, 200, 20):
            await asyncio.gather(*(one(base + start + i) for i in range(20)))

    threads = [threading.Thread(target=blocking, args=(1000 * i,)) for i in range(4)]
    threads += [threading.Thread(target=lambda base=base: asyncio.run(many(base))) for base in (10_000, 20_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert echo.statistics()["requests"] == 4 * 200 + 2 * 200
    assert echo.statistics()["rows_in_use"] == 0


def test_concurrent_requests_share_batches(echo: Model) -> None:
    """What arrives in one pass of a loop is computed together."""

    async def burst() -> None:
        await asyncio.gather(*(echo.infer({"x": rows(i)}) for i in range(32)))

    asyncio.run(burst())
    assert echo.statistics()["batches"] < 32


def test_more_rows_than_the_largest_batch(echo: Model) -> None:
    """Split, answered, and put together again in order."""
    x = rows(*range(53))
    np.testing.assert_array_equal(echo.infer_sync({"x": x})["y"], x)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, ["x", "missing"]),
        ({"x": rows(1), "z": rows(1)}, ["z", "unknown"]),
        ({"x": np.zeros((1, 16))}, ["x", "FP32", "FP64"]),
        ({"x": np.zeros((1, 15), np.float32)}, ["x", "[-1, 16]", "[1, 15]"]),
        ({"x": np.zeros(16, np.float32)}, ["x", "[16]"]),
        ({"x": np.zeros((0, 16), np.float32)}, ["x", "0 rows"]),
        ({"x": [["a"] * 16]}, ["x", "FP32"]),
    ],
)
def test_wrong_inputs(echo: Model, inputs: dict, words: list[str]) -> None:
    """The message names the input, what was expected, and what came."""
    with pytest.raises(InvalidInputError) as caught:
        echo.infer_sync(inputs)
    for word in words:
        assert word in str(caught.value)


def test_lists_are_taken_as_the_models_dtype(echo: Model) -> None:
    """A Python list needs no dtype of its own."""
    assert echo.infer_sync({"x": [[1] * 16]})["y"].dtype == np.float32


def test_a_cancelled_task_takes_its_work_along(echo: Model) -> None:
    """Its rows come back, and the next request is answered."""

    async def leave() -> None:
        tasks = [asyncio.ensure_future(echo.infer({"x": rows(i)})) for i in range(6)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 3
        assert (results[1]["y"] == 1).all()

    asyncio.run(leave())
    assert echo.statistics()["rows_in_use"] == 0


def test_closing_fails_what_waits(tmp_path: Path) -> None:
    """Nobody waits for ever; closing twice is once."""
    model = opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"))
    model.close()
    model.close()
    with pytest.raises(ReleasedError):
        model.infer_sync({"x": rows(1)})
    with pytest.raises(ReleasedError):
        model.entry.lend(1)


def test_a_deadline_that_has_passed(tmp_path: Path) -> None:
    """Work that expired in the queue is dropped before it is computed."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline") as model:
        handler = EventHandler()
        model.entry.start({"x": rows(1)}, Request(handler, AnyThreadDelivery(), 1, deadline_ns=1))
        model.entry.notify()
        assert isinstance(handler.error, DeadlineExceededError)
        assert model.statistics() | {"expired": 1, "batches": 0, "rows_in_use": 0} == model.statistics()


def test_a_full_queue(tmp_path: Path) -> None:
    """What finds no row is refused at once and told when to come again; nothing is lost or leaked."""
    path = identity(DType.FP32, (None, 16), tmp_path / "echo.onnx")
    with opened(path, dispatch="inline", max_batch_size=2, limits=Limits(queue_rows=4)) as model:
        handlers = [EventHandler() for _ in range(4)]
        for number, handler in enumerate(handlers):
            model.entry.start({"x": rows(number)}, Request(handler, AnyThreadDelivery(), 1))
        with pytest.raises(QueueFullError) as caught:
            model.entry.start({"x": rows(9)}, Request(EventHandler(), AnyThreadDelivery(), 1))
        assert 0.001 <= caught.value.retry_after_s < 1  # half of the queue takes microseconds
        assert not caught.value.late
        assert caught.value.opens_ns <= time.monotonic_ns() + 5_000_000  # a refusal stands for milliseconds at most
        with pytest.raises(TooLargeError, match=r"5 rows, and the queue of model 'echo' holds 4: .* --queue"):
            model.infer_sync({"x": rows(*range(5))})
        model.entry.notify()
        assert [int(handler.outputs[0][0, 0]) for handler in handlers if handler.outputs] == [0, 1, 2, 3]
        assert model.statistics()["rows_in_use"] == 0


def test_at_once_past_the_queue(tmp_path: Path) -> None:
    """A request that is alone is computed where it is, counted like the others, and gives its rows back."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline") as model:
        assert model.entry.scheduler.slab is not None
        lease = model.entry.lend(5, some=True)
        model.entry.scheduler.slab.write(lease.row, memoryview(rows(7, 8, 9).tobytes()))
        handler = EventHandler()
        request = Request(handler, AnyThreadDelivery(), 3, time.monotonic_ns() + 60_000_000_000, requests=3)
        assert not model.entry.settle(lease, 3, request, at_once=True)
        assert handler.outputs is not None
        assert handler.outputs[0][:, 0].tolist() == [7, 8, 9]
        counts = model.statistics()
        assert counts | {"requests": 3, "rows": 3, "batches": 1, "queued": 0, "rows_in_use": 0} == counts
        assert model.batches_by_rows()[3][0] == 1


def test_not_past_others(tmp_path: Path) -> None:
    """Where something waits or computes, is waited for, or a worker is to compute, a request is queued."""

    def settled(model: Model) -> tuple[bool, EventHandler]:
        handler = EventHandler()
        lease = model.entry.lend(1)
        return model.entry.settle(lease, 1, Request(handler, AnyThreadDelivery(), 1), at_once=True), handler

    path = identity(DType.FP32, (None, 16), tmp_path / "echo.onnx")
    with opened(path, dispatch="inline") as model:
        model.entry.start({"x": rows(1)}, Request(EventHandler(), AnyThreadDelivery(), 1))
        assert settled(model)[0]
        batch = model.entry.scheduler.next_batch(time.monotonic_ns())
        assert isinstance(batch, Batch)
        assert batch.rows == 2
        assert settled(model)[0]
        model.entry.executor.run(batch)
        assert model.entry.scheduler.finish(batch)
        model.entry.notify()
        to_notify, handler = settled(model)
        assert not to_notify
        assert handler.outputs is not None
        assert model.statistics()["requests"] == 4
        lease = model.entry.lend(1)
    with pytest.raises(ReleasedError):
        model.entry.settle(lease, 1, Request(EventHandler(), AnyThreadDelivery(), 1), at_once=True)
    assert model.statistics()["rows_in_use"] == 0
    for way in ({"dispatch": "worker"}, {"dispatch": "adaptive", "max_queue_delay_us": 100}):
        with opened(path, **way) as model:
            to_notify, handler = settled(model)
            assert to_notify
            model.entry.notify()
            assert handler.event.wait(20)


def test_the_loop_answers_before_it_counts(tmp_path: Path) -> None:
    """Where all of a batch is for its own clients."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline") as model:
        counted: list[int | float] = []

        class Note:
            def complete(self, request: Request, batch: Batch, index: int) -> None:
                counted.append(model.statistics()["requests"])

            def fail(self, request: Request, error: TailcutError) -> None:
                raise AssertionError(error)

        async def ask() -> None:
            here = LoopDelivery(asyncio.get_running_loop())
            model.entry.start({"x": rows(1)}, Request(Note(), here, 1))
            model.entry.start({"x": rows(2)}, Request(Note(), AnyThreadDelivery(), 1))
            model.entry.start({"x": rows(3)}, Request(Note(), here, 1))
            model.entry.notify()
            assert counted == [3, 3, 3]  # beside another thread's, those of the loop's clients are counted first, too
            model.entry.start({"x": rows(4)}, Request(Note(), here, 1))
            model.entry.start({"x": rows(5)}, Request(Note(), here, 1))
            model.entry.notify()
            assert counted[3:] == [3, 3]
            assert model.statistics() | {"batches": 2, "requests": 5, "rows_in_use": 0} == model.statistics()

        asyncio.run(ask())


def test_a_bad_row_past_the_queue_costs_only_itself(tmp_path: Path) -> None:
    """When the engine refuses requests that were computed at once, each gets a try of its own."""
    heard: dict[int, bool] = {}

    class Crowd:
        def complete(self, request: Request, batch: Batch, index: int) -> None:
            heard[request.offset] = True

        def fail(self, request: Request, error: TailcutError) -> None:
            heard[request.offset] = False

    with opened(gather_rows(tmp_path / "gather.onnx"), dispatch="inline") as model:
        assert model.entry.scheduler.slab is not None
        lease = model.entry.lend(3, some=True)
        model.entry.scheduler.slab.inputs[0][lease.row : lease.row + 3] = [[0], [999_999], [2]]
        assert not model.entry.settle(lease, 3, Request(Crowd(), AnyThreadDelivery(), 3, requests=3), at_once=True)
        assert heard == {0: True, 1: False, 2: True}
        assert model.statistics()["rows_in_use"] == 0


def test_a_client_that_leaves_while_its_batch_computes(tmp_path: Path) -> None:
    """Its row is quarantined until the engine has returned; its neighbour is answered."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline") as model:
        handlers = [EventHandler(), EventHandler()]
        requests = [Request(handler, AnyThreadDelivery(), 1) for handler in handlers]
        for number, request in enumerate(requests):
            model.entry.start({"x": rows(number)}, request)
        batch = model.entry.scheduler.next_batch(time.monotonic_ns())
        assert isinstance(batch, Batch)
        model.entry.cancel(requests[0])
        assert model.entry.scheduler.slab is not None
        assert model.entry.scheduler.slab.state(requests[0].row) is RowState.ABANDONED
        model.entry.executor.run(batch)
        model.entry.scheduler.finish(batch)
        assert handlers[0].outputs is None
        assert (handlers[1].outputs[0] == 1).all()
        assert model.statistics()["rows_in_use"] == 0


def test_holes_are_closed_by_a_gather(tmp_path: Path) -> None:
    """Rows that are not neighbours still compute together, each with its own answer."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline") as model:
        assert model.entry.scheduler.slab is not None
        handlers = [EventHandler() for _ in range(3)]
        leases = [model.entry.lend(1, apart=True), model.entry.lend(1), model.entry.lend(1, apart=True)]
        for number, (lease, handler) in enumerate(zip(leases, handlers, strict=True)):
            model.entry.scheduler.slab.inputs[0][lease.row] = number
            model.entry.settle(lease, 1, Request(handler, AnyThreadDelivery(), 1))
        model.entry.notify()
        assert model.statistics()["batches"] == 1
        assert [int(handler.outputs[0][0, 0]) for handler in handlers if handler.outputs] == [0, 1, 2]


def test_a_bad_row_costs_only_itself(tmp_path: Path) -> None:
    """When the engine refuses a batch, each of its requests gets a try of its own."""
    with opened(gather_rows(tmp_path / "gather.onnx"), dispatch="inline") as model:
        handlers = [EventHandler() for _ in range(3)]
        for index, handler in zip((0, 999_999, 2), handlers, strict=True):
            model.entry.start({"index": np.array([[index]], np.int64)}, Request(handler, AnyThreadDelivery(), 1))
        model.entry.notify()
        assert [handler.error is None for handler in handlers] == [True, False, True]
        assert isinstance(handlers[1].error, EngineError)
        assert model.statistics()["rows_in_use"] == 0


def test_free_dimensions_batch_with_their_like(tmp_path: Path) -> None:
    """Sequences of one length compute together, others apart, all rightly."""
    with opened(dynamic_sequence(tmp_path / "seq.onnx"), dispatch="inline") as model:
        name = model.spec.input_names[0]

        async def ask() -> None:
            arrays = [np.random.default_rng(i).standard_normal((1, 3 + i % 2)).astype(np.float32) for i in range(8)]
            together = await asyncio.gather(*(model.infer({name: array}) for array in arrays))
            for array, answer in zip(arrays, together, strict=True):
                alone = await model.infer({name: array})
                for output, value in alone.items():
                    np.testing.assert_allclose(answer[output], value, rtol=1e-6)

        asyncio.run(ask())
        assert model.statistics()["batches"] == 2 + 8


def test_a_model_without_a_batch_dimension(tmp_path: Path) -> None:
    """Each request is a call of its own."""
    with opened(no_batch(tmp_path / "nb.onnx")) as model:
        inputs = {t.name: np.ones([d or 1 for d in t.shape], t.dtype.numpy) for t in model.spec.inputs}
        assert set(model.infer_sync(inputs)) == set(model.spec.output_names)
        assert model.entry.scheduler.max_batch_size == 1


def test_priority_and_deadline_decide_who_is_served_first(tmp_path: Path) -> None:
    """With the engine busy, an urgent request overtakes the queue, and a shorter deadline overtakes a longer one."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline", max_batch_size=1) as model:
        served: list[str] = []

        class Note(EventHandler):
            def __init__(self, name: str) -> None:
                super().__init__()
                self.name = name

            def complete(self, request: Request, batch: Batch, index: int) -> None:
                served.append(self.name)

        soon, later = (time.monotonic_ns() + seconds * 1_000_000_000 for seconds in (20, 40))
        wishes = [("idle", 0, 900), ("plain", 0, 0), ("later", later, 0), ("soon", soon, 0), ("urgent", 0, 1)]
        for name, deadline, priority in wishes:
            model.entry.start({"x": rows(1)}, Request(Note(name), AnyThreadDelivery(), 1, deadline, priority=priority))
        model.entry.notify()
        assert served == ["urgent", "soon", "later", "plain", "idle"]


def test_what_cannot_make_its_deadline_is_not_admitted(tmp_path: Path) -> None:
    """By the learned cost of the rows that go before it; an urgent request has fewer of those, and is let in."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline", max_batch_size=1) as model:
        for _ in range(200):
            model.entry.scheduler.forecast.cost.observe(1, 1_000_000_000)  # a second a row
        for _ in range(3):
            model.entry.start({"x": rows(1)}, Request(EventHandler(), AnyThreadDelivery(), 1))
        due = time.monotonic_ns() + 2_500_000_000
        with pytest.raises(QueueFullError) as caught:
            model.entry.lend(1, due, 200)
        assert caught.value.retry_after_s == 1.2  # a part of the time that the request has
        assert str(caught.value) == "cannot meet the 2.5 s deadline: 3 s of work is ahead"
        assert caught.value.late
        assert 0 < caught.value.opens_ns - time.monotonic_ns() <= 5_000_000  # and what is learned meanwhile counts
        model.entry.start({"x": rows(1)}, Request(EventHandler(), AnyThreadDelivery(), 1, due, priority=1))
        counts = model.statistics()
        assert counts | {"refused": 1, "refused_late": 1, "queued_rows": 4} == counts
        assert 0 < counts["oldest_ns"] < time.monotonic_ns()


def test_answers_that_come_too_late_shorten_the_queue(tmp_path: Path) -> None:
    """What was promised two seconds and told so after its time takes trust; the next forecast keeps time in reserve."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), dispatch="inline", max_batch_size=1) as model:
        late = time.monotonic_ns() - 1
        request = Request(EventHandler(), AnyThreadDelivery(), 1, deadline_ns=late)
        model.entry.settle(model.entry.lend(1), 1, request)
        request.ready_ns = late - 2_000_000_000
        model.entry.notify()
        assert model.statistics()["expired"] == 1
        assert abs(model.entry.scheduler.forecast.safety_margin - 0.02) < 1e-9
        assert (model.infer_sync({"x": rows(4)}, timeout_s=10)["y"] == 4).all()
        assert 0.0 < model.entry.scheduler.forecast.safety_margin < 0.02


def test_a_model_whose_batch_is_fixed_at_one(tmp_path: Path) -> None:
    """Its rows live in the slab, and each is a call of its own on one of two instances."""
    path = identity(DType.FP32, (1, 16), tmp_path / "one.onnx")
    settings = Settings(engine=EngineOptions(threads=1, instances=2), batching=BatchingSettings(max_batch_size=8))
    with Model.open(Profile.of_model(path, settings)) as model:
        assert model.entry.scheduler.max_batch_size == 1
        assert model.entry.scheduler.slab is not None
        handlers = [EventHandler() for _ in range(6)]
        for number, handler in enumerate(handlers):
            model.entry.start({"x": rows(number)}, Request(handler, AnyThreadDelivery(), 1))
        model.entry.notify()
        for number, handler in enumerate(handlers):
            assert handler.event.wait(20)
            assert handler.outputs is not None
            np.testing.assert_array_equal(handler.outputs[0], rows(number))
        assert model.statistics() | {"batches": 6, "rows_in_use": 0} == model.statistics()
        with pytest.raises(InvalidInputError, match=r"\[1, 16\], got FP32 \[2, 16\]"):
            model.infer_sync({"x": rows(1, 2)})


def test_an_idle_model_refuses_nobody(tmp_path: Path) -> None:
    """However slow it is believed to be: a stall long ago must not keep requests out for ever."""
    with opened(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx")) as model:
        for _ in range(200):
            model.entry.scheduler.forecast.cost.observe(1, 100_000_000_000)
        assert (model.infer_sync({"x": rows(4)}, timeout_s=10)["y"] == 4).all()


def test_bodies_of_several_inputs(tmp_path: Path) -> None:
    """Each goes into its input's rows; a model that is closed takes none, and keeps no row that was lent."""
    a, b = np.full((2, 4), 5, np.float32), np.arange(8, dtype=np.float32).reshape(2, 4)
    bodies = [memoryview(array.tobytes()) for array in (a, b)]
    model = opened(two_in_two_out(tmp_path / "pair.onnx"), dispatch="inline")
    handler = EventHandler()
    slab = model.entry.scheduler.slab
    assert slab is not None
    lease = model.entry.lend(2)
    for number, body in enumerate(bodies):
        slab.write(lease.row, body, number)
    model.entry.settle(lease, 2, Request(handler, AnyThreadDelivery(), 2))
    model.entry.notify()
    assert [output.tolist() for output in handler.outputs or []] == [(a + b).tolist(), (a - b).tolist()]
    lease = model.entry.lend(2)
    model.close()
    with pytest.raises(ReleasedError):
        model.entry.settle(lease, 2, Request(handler, AnyThreadDelivery(), 2))
    assert model.statistics()["rows_in_use"] == 0
