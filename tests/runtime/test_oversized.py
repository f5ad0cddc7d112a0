"""Requests of more rows than a batch: every row comes back in its place, and nobody waits for all of them."""

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import dynamic_sequence, identity, perceptron

from tailcut import Model
from tailcut.engines import EngineOptions
from tailcut.errors import QueueFullError, ReleasedError, TooLargeError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType

WAYS = [("inline", 1), ("adaptive", 1), ("worker", 1), ("worker", 2)]


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
        assert model.statistics()["rows_in_use"] == 0


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
