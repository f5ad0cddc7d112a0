"""Requests of more rows than a batch: every row comes back in its place, and nobody waits for all of them."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import dynamic_sequence, gather_rows, identity, perceptron

from tailcut import Model
from tailcut.engines import EngineOptions
from tailcut.errors import DeadlineExceededError, EngineError, QueueFullError, ReleasedError, TooLargeError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType

WAYS = [("inline", 1), ("adaptive", 1), ("worker", 1), ("worker", 2)]


def perceptron_of_4(path: Path) -> Path:
    return perceptron([4, 3], path)


def settings(dispatch: str, instances: int, max_batch_size: int = 8) -> Settings:
    batching = BatchingSettings(max_batch_size=max_batch_size, dispatch=dispatch)  # type: ignore[arg-type]
    return Settings(engine=EngineOptions(threads=1, instances=instances), batching=batching)


def opened(path: Path, way: tuple[str, int]) -> Model:
    return Model.open(Profile.of_model(path, settings(*way)))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("rows", [9, 16, 300, 5000])
def test_rows_come_back_in_their_places(tmp_path: Path, way: tuple[str, int], rows: int) -> None:
    """Numbers of any length and strings, from a thread that blocks and from a loop, also in company."""
    numbers = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    with opened(dynamic_sequence(tmp_path / "numbers.onnx"), way) as model:
        assert model.entry.scheduler.slab is None
        answer = model.infer_sync({"x": numbers})
        np.testing.assert_array_equal(answer["double"], 2 * numbers)
        np.testing.assert_array_equal(answer["total"], numbers.sum(axis=1, keepdims=True))

        async def several() -> list[dict[str, np.ndarray]]:
            return await asyncio.gather(*(model.infer({"x": numbers + index}) for index in range(3)))

        if rows <= 1024 // 3:
            for index, answer in enumerate(asyncio.run(several())):
                np.testing.assert_array_equal(answer["double"], 2 * (numbers + index))
    words = np.array([[f"word {number}".encode()] for number in range(rows)], object)
    with opened(identity(DType.BYTES, (None, None), tmp_path / "words.onnx"), way) as model:
        [same] = model.infer_sync({"x": words}).values()
        assert [_text(item) for [item] in same.tolist()] == [f"word {number}" for number in range(rows)]


def _text(item: str | bytes) -> str:
    return item.decode() if isinstance(item, bytes) else item


def test_rows_of_the_slab_are_reserved_at_once(tmp_path: Path) -> None:
    """More than the queue holds are refused, and what fits is answered."""
    with opened(perceptron([4, 3], tmp_path / "m.onnx"), ("worker", 1)) as model:
        assert model.infer_sync({"x": np.ones((900, 4), np.float32)})["y"].shape == (900, 3)
        with pytest.raises(TooLargeError, match="the queue of model 'm' holds"):
            model.infer_sync({"x": np.ones((70_000, 4), np.float32)})
        end = time.monotonic() + 10
        while model.statistics()["rows_in_use"]:  # the worker frees them when it has answered
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.mark.slow
def test_large_requests_are_admitted_as_before(tmp_path: Path) -> None:
    """Beside one that is under way, another is refused where both are more than the queue holds; one row is let in."""

    async def several(model: Model) -> None:
        first = asyncio.create_task(model.infer({"x": np.ones((50_000, 2), np.float32)}))
        await asyncio.sleep(0.005)
        with pytest.raises(QueueFullError):
            await model.infer({"x": np.ones((1000, 2), np.float32)})
        with pytest.raises(TooLargeError):
            await model.infer({"x": np.ones((2000, 2), np.float32)})
        assert (await model.infer({"x": np.ones((1, 2), np.float32)}))["double"].tolist() == [[2.0, 2.0]]
        assert not first.done()
        assert (await first)["double"].shape == (50_000, 2)
        assert (await model.infer({"x": np.ones((1000, 2), np.float32)}))["double"].shape == (1000, 2)

    for way in WAYS:
        with opened(dynamic_sequence(tmp_path / "m.onnx"), way) as model:
            asyncio.run(several(model))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_few_parts_wait_at_a_time(tmp_path: Path, way: tuple[str, int]) -> None:
    """The queue holds a few batches of a large request, so that others have their turns between them."""
    most = 0
    with opened(dynamic_sequence(tmp_path / "m.onnx"), way) as model:
        done = threading.Event()

        def ask() -> None:
            model.infer_sync({"x": np.ones((20_000, 2), np.float32)})
            done.set()

        threading.Thread(target=ask).start()
        while not done.is_set():
            most = max(most, model.statistics()["queued_rows"])
        for _ in range(3):
            assert model.infer_sync({"x": np.ones((1, 2), np.float32)})["double"].tolist() == [[2.0, 2.0]]
    assert most <= 2 * way[1] * 8


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_a_request_that_is_given_up_ends(tmp_path: Path, dispatch: str) -> None:
    """Its client has left: what is under way is the last of it."""
    with opened(dynamic_sequence(tmp_path / "m.onnx"), (dispatch, 1)) as model:

        async def leave() -> None:
            task = asyncio.create_task(model.infer({"x": np.ones((200_000, 2), np.float32)}))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(leave())
        computed = model.statistics()["rows"]
        assert computed < 200_000
        end = time.monotonic() + 5
        while model.statistics()["computing"] and time.monotonic() < end:
            pass
        assert model.statistics()["queued_rows"] == 0
        assert model.infer_sync({"x": np.ones((2000, 2), np.float32)})["double"].shape == (2000, 2)
        assert model.infer_sync({"x": np.ones((1, 2), np.float32)})["double"].tolist() == [[2.0, 2.0]]


def test_a_loop_has_its_turns_beside_a_large_request(tmp_path: Path) -> None:
    """Inline, 25,000 rows take a long time: the loop goes on between the batches."""
    longest, x = 0.0, np.ones((25_000, 2), np.float32)

    async def beside(model: Model) -> None:
        nonlocal longest
        task = asyncio.create_task(model.infer({"x": x}))
        while not task.done():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
        assert (await task)["double"].shape == x.shape

    with opened(dynamic_sequence(tmp_path / "m.onnx"), ("inline", 1)) as model:
        asyncio.run(beside(model))
    assert longest < 0.05


def test_a_closed_model_fails_the_whole(tmp_path: Path) -> None:
    """Once, with the reason, also when parts were still to be queued."""
    with opened(dynamic_sequence(tmp_path / "m.onnx"), ("worker", 1)) as model:

        async def close_meanwhile() -> None:
            task = asyncio.create_task(model.infer({"x": np.ones((100_000, 2), np.float32)}))
            await asyncio.sleep(0.01)
            model.close()
            with pytest.raises(ReleasedError, match="was closed"):
                await task

        asyncio.run(close_meanwhile())


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("make", [perceptron_of_4, dynamic_sequence])
def test_an_answer_counts_once(tmp_path: Path, way: tuple[str, int], make: Callable[[Path], Path]) -> None:
    """Rows and batches are those of its parts; its time in the queue and at the engine are all that it took."""
    with opened(make(tmp_path / "m.onnx"), way) as model:
        before = model.statistics()
        began = time.monotonic_ns()
        for _ in range(3):
            model.infer_sync({"x": np.ones((20, 4), np.float32)})
        model.infer_sync({"x": np.ones((2, 4), np.float32)})
        took_ns = time.monotonic_ns() - began
        grown = {name: value - before[name] for name, value in model.statistics().items()}
    assert (grown["requests"], grown["rows"], grown["batches"]) == (4, 62, 10)
    assert 0 < grown["served_ns"] <= grown["compute_ns"]
    assert grown["served_ns"] < grown["queue_ns"] + grown["served_ns"] < took_ns
    assert {grown[name] for name in ("failed", "expired", "cancelled", "late", "refused")} == {0}


@pytest.mark.parametrize("dispatch", ["inline", "worker"])
def test_what_has_no_answer_counts_once(tmp_path: Path, dispatch: str) -> None:
    """Dropped from the queue after some of it was computed, given up by its client, failed by the engine."""
    names = ("requests", "expired", "cancelled", "failed")

    async def leave(model: Model) -> None:
        task = asyncio.create_task(model.infer({"x": np.ones((200_000, 2), np.float32)}))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with opened(dynamic_sequence(tmp_path / "m.onnx"), (dispatch, 1)) as model:
        with pytest.raises(DeadlineExceededError):
            model.infer_sync({"x": np.ones((200_000, 2), np.float32)}, timeout_s=0.02)
        assert [model.statistics()[name] for name in names] == [0, 1, 0, 0]
        assert model.statistics()["rows"] > 0
        asyncio.run(leave(model))
        assert [model.statistics()[name] for name in names] == [0, 1, 1, 0]
    with opened(gather_rows(tmp_path / "gather.onnx"), (dispatch, 1)) as model:
        with pytest.raises(EngineError):
            model.infer_sync({"index": np.repeat([[1], [9], [9], [1]], 8, axis=0)})
        assert model.infer_sync({"index": np.ones((1, 1), np.int64)})["row"].shape == (1, 1, 3)
        assert [model.statistics()[name] for name in names] == [1, 0, 0, 1]
        assert model.statistics()["failed_ns"] > 0


def test_a_part_that_fails_does_not_fail_its_company(tmp_path: Path) -> None:
    """Each request of a batch is tried alone then, also beside a part, which counts as none."""

    async def together(model: Model) -> None:
        large = np.repeat([[1], [9]], [8, 2], axis=0)  # the second part has room for others
        item = np.ones((1, 1), np.int64)
        failed, *answers = await asyncio.gather(
            model.infer({"index": large}), *(model.infer({"index": item}) for _ in range(3)), return_exceptions=True
        )
        assert isinstance(failed, EngineError)
        assert [answer["row"].shape for answer in answers] == [(1, 1, 3)] * 3

    with opened(gather_rows(tmp_path / "m.onnx"), ("inline", 1)) as model:
        asyncio.run(together(model))
        assert [model.statistics()[name] for name in ("requests", "failed")] == [3, 1]
